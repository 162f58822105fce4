"""Inputs that are replaced, cut short or deleted while a stage runs.

Whatever happens: one line that names the file, nothing written that was made from two contents,
and the same command ends with the same files once the input is back."""

import shutil
from dataclasses import replace as with_values
from functools import partial

import pytest

from tests.helpers.runs import DIGITS, SMALL, train_options
from tests.helpers.sandbox import (
    FAULTS,
    arrays,
    at,
    replace,
    run_stage,
    work,
)
from tests.helpers.trials import FULL
from utils.cli.errors import UserError
from utils.data.subsets import training_subset
from utils.stages.train import stage as train

# What a stage calls first when everything is planned.
PLANNED = {"generate": "utils.stages.generate.stage.check_writable"}
pytestmark = pytest.mark.usefixtures("no_pictures")
INPUTS = [
    ("generate", "models/8.pt"),
    ("distances", "s/8.npz"),
    ("classify", "d/8.npz"),
    ("classify", "s/8.npz"),
    ("critical times", "models/8.pt"),
    ("critical times", "s/8.npz"),
    ("energy", "models/8.pt"),
    ("energy", "s/8.npz"),
    ("curvature", "models/8.pt"),
    ("curvature", "s/8.npz"),
    ("generalization", "models/8.pt"),
    ("generalization", "s/8.npz"),
    ("machines", "models/8.pt"),
    ("machines", "s/8.npz"),
]
TWINS = {  # read by the same functions
    *(("critical times", "s/8.npz"), ("energy", "models/8.pt")),
    *(("curvature", "s/8.npz"), ("curvature", "models/8.pt")),
}


@pytest.mark.parametrize(("stage", "name"), [pair for pair in INPUTS if FULL or pair not in TWINS])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_input_that_changes_after_planning_is_refused(
    made, own, monkeypatch, tally, tries, stage, name, fault
):
    path, before = own / name, (own / name).read_bytes()
    for seed in range(tries // 2):
        with tally.attempt(stage, fault, (name, seed)):
            with monkeypatch.context() as patch:
                spoil = partial(FAULTS[fault], path, seed)
                at(patch, PLANNED.get(stage, "utils.jobs.k_jobs.check_writable"), spoil)
                with pytest.raises(UserError) as refused:
                    work(stage, own)
            assert name in str(refused.value) and "; " in str(refused.value)
            if fault != "input truncated":
                assert "run the same command again" in str(refused.value)
            assert not arrays(own / "out")
            path.write_bytes(before)
            work(stage, own)
            assert arrays(own / "out") == made[1][stage]
        shutil.rmtree(own / "out", ignore_errors=True)
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("stage", "name"), [(s, n) for s, n in INPUTS if n != "models/8.pt" or s == "generate"]
)
def test_an_input_that_vanishes_after_it_was_listed_is_one_line(
    own, monkeypatch, tally, stage, name
):
    examines = stage in ("critical times", "energy", "curvature")
    module = "inputs.subjects" if examines else f"stages.{stage}.stage"
    place = "trained_model" if stage == "generate" else "first_read"
    with tally.attempt(stage, "input vanished", name):
        at(monkeypatch, f"utils.{module}.{place}", (own / name).unlink)
        with pytest.raises(UserError, match=(own / name).name):
            work(stage, own)
        assert not arrays(own / "out")


@pytest.mark.parametrize("fault", FAULTS)
def test_references_are_read_once_and_kept(made, own, monkeypatch, tally, fault):
    with tally.attempt("energy", fault, "ref.npz"):
        spoil = partial(FAULTS[fault], own / "ref.npz", 0)
        at(monkeypatch, "utils.jobs.k_jobs.check_writable", spoil)
        work("energy", own)
        assert arrays(own / "out") == made[1]["energy"]


@pytest.mark.parametrize("stage", ["critical times", "energy"])
def test_training_images_that_change_under_the_exact_model_are_refused(
    own, monkeypatch, tally, stage
):
    """Planning knows their digest, and the data set is read again for model and samples."""
    more = ["--ref-path", own / "ref.npz"] if stage == "energy" else ["--stride", 300]
    flags = ["--config_path", DIGITS, "--exact", "--train-size", 3, "--result-path", own / "out"]

    def other_images():
        real = training_subset
        other = lambda args: with_values(s := real(args), images=255 - s.images)  # noqa: E731
        monkeypatch.setattr("utils.inputs.denoisers.training_subset", other)

    with tally.attempt(stage, "input replaced", "data set"):
        at(
            monkeypatch,
            "utils.jobs.k_jobs.check_writable",
            other_images,
        )
        with pytest.raises(UserError, match="digits in .*other images than when this job began"):
            run_stage(stage, *flags, *more)
        assert not arrays(own / "out")


def test_a_shard_that_vanishes_before_the_merge_is_drawn_again(made, own, monkeypatch, tally):
    """What no shard holds must not come from uninitialised memory."""
    with tally.attempt("generate", "input vanished", "shard"):
        with monkeypatch.context() as patch:
            at(
                patch,
                "utils.stages.generate.stage.merge",
                lambda: next((own / "out").glob("shard*")).unlink(),
            )
            with pytest.raises(UserError, match="no shard of 4 images.*run the same command again"):
                work("generate", own)
        work("generate", own)
        assert arrays(own / "out") == made[1]["generate"]


def test_neighbours_of_another_set_are_refused(own, tally):
    with tally.attempt("classify", "input replaced", "--synth-path"):
        shutil.copytree(own / "s", own / "other")
        replace(own / "other" / "8.npz")
        with pytest.raises(UserError, match="--synth-path .*other samples"):
            work("classify", own, "--synth-path", "other")
        assert not arrays(own / "out")


@pytest.mark.parametrize("fault", ["input truncated", "input vanished"])
def test_a_training_whose_images_go_is_one_line(tmp_path, monkeypatch, tally, fault):
    from PIL import Image

    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(tmp_path / "images" / f"{i:02}.png")
    flags = ["--data-name", "folder", "--data-path", tmp_path / "images", "--valid-size", 1]
    with tally.attempt("train", fault, "data set"):
        spoil = lambda: [FAULTS[fault](p, 1) for p in (tmp_path / "images").iterdir()]  # noqa: E731
        at(monkeypatch, "utils.stages.train.stage.check_writable", spoil)
        with pytest.raises(UserError, match="images"):
            train.run(train_options(tmp_path, *flags))
        assert not arrays(tmp_path)


def test_a_model_replaced_between_samples_and_basins_ends_the_pipeline(own, monkeypatch, tally):
    flags = ["--config_path", DIGITS, *SMALL, "--models", own / "models", "--root", own / "p"]
    flags += ["--sizes", "", "--samples", 4, "--criterion", "delta", "--metric", "l2", "--jobs", 1]
    for name in ("sample_sheet_figure", "loss_figure", "save_figure"):
        monkeypatch.setattr(f"utils.stages.pipeline.stage.{name}", lambda *_: None)
    with tally.attempt("pipeline", "input replaced", "models/8.pt"):
        at(
            monkeypatch,
            "utils.stages.pipeline.stage.draw_overview",
            lambda: replace(own / "models" / "8.pt"),
        )
        with pytest.raises(UserError, match=r"8\.pt: found other weights than when this job began"):
            run_stage("pipeline", *flags)
        assert not (own / "p" / "times").exists()
