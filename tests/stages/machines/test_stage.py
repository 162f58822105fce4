"""run_machines.py on tiny models and on machines in their place, and what it refuses."""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from models.machines.build import build_machine
from models.schedule import predict_eps
from tests.helpers.runs import complaint, train_options
from tests.helpers.sandbox import run_stage, without_pictures
from utils.cli.errors import UserError
from utils.cli.options.choices import CLASSES, MACHINE_NAMES
from utils.data.datasets import to_float
from utils.data.subsets import training_subset
from utils.files.arrays import read_npz
from utils.inputs.denoisers import Model
from utils.inputs.samples import load_synthetics, save_synthetics
from utils.inputs.training_args import schedule_of
from utils.stages.classify.files import load_identified
from utils.stages.machines.files import HELD_OUT, SAMPLES, SETS, TRAINING, load_result
from utils.stages.machines.overview import machine_rows, show_machines
from utils.stages.train import stage as train

QUICK = ["--t", "20,45", "--images", 24, "--sides", "1,3", "--side-images", 6]
QUICK += ["--most-patches", 60, "--seeds", 3]
FEW = ("--machines", "exact,wiener", "--t", 20)
NAMES = list(MACHINE_NAMES)
CPU = ("--device", "cpu", "--precision", "float32")


def draw(folder, k, count, *flags):
    paths = ["--ckpt-path", folder / f"models/{k}.pt", "--result-path", folder / f"g/{k}"]
    own = ["--synth-path", folder / "s", "--num-samples", count, "--sampler", "ddim"]
    run_stage("generate", *paths, *own, "--steps", 4, *CPU, *flags)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Models of K = 1 and 8; sets of 60: of K = 8 twenty samples of each class."""
    folder = tmp_path_factory.mktemp("machines")
    for k in (1, 8):
        options = train_options(folder, "--iterations", 2, "--timesteps", 60, "--train-size", k)
        train.run(options)
        draw(folder, k, 60)
        shutil.rmtree(folder / "run")
    shutil.copytree(folder / "s", folder / "of-classes")
    found = load_synthetics(folder / "s" / "8.npz")
    real = to_float(training_subset(found.args).images).numpy()
    samples = found.samples.copy()
    samples[:60:3] = real[np.arange(20) % 8] * 0.98  # memorized
    samples[1::3] = -samples[[1]] + 1e-3 * samples[1::3]  # near each other: spurious
    save_synthetics(folder / "of-classes" / "8.npz", samples, found.args)
    (folder / "of-classes" / "1.npz").unlink()
    run = ["--synth-path", folder / "of-classes", "--result-path", folder / "d"]
    run_stage("distances", *run, "--device", "cpu", "--no-cache")
    judged = ["--dist-path", folder / "d", "--eval-path", folder / "of-classes"]
    with without_pictures():
        flags = ["--result-path", folder / "identified", "--delta-m", 1, "--delta-s", 0.1]
        run_stage("classify", *judged, *flags, "--criterion", "delta", "--no-cache")
    return folder


@pytest.fixture
def machines(made, tmp_path, monkeypatch):
    """Runs the stage on the model of K = 8, and returns K.json and K.npz; no figures."""
    monkeypatch.setattr("utils.stages.machines.stage.show_machines", lambda *_: None)

    def run(*flags, k=8, out=tmp_path / "out"):
        own = ["--ckpt-path", made / f"models/{k}.pt", "--result-path", out, "--device", "cpu"]
        run_stage("machines", *own, *QUICK, *flags)
        return load_result(out / f"{k}.json"), read_npz(out / f"{k}.npz")

    return run


@contextmanager
def in_place_of_networks(make):
    """Every model is make(its images, its schedule)."""
    with pytest.MonkeyPatch.context() as patch:
        build = lambda model, *_: make(model.training_images(), schedule_of(model.args))  # noqa: E731
        patch.setattr(Model, "denoiser", build)
        yield


def of_name(name, side=3):
    more = {} if name in ("exact", "wiener") else {"sides": side, "most_patches": 60}
    return lambda patterns, schedule: build_machine(name, patterns, schedule, **more)


# What is found


@pytest.mark.parametrize("name", ["exact", "equivariant"])
def test_a_machine_in_place_of_the_network_is_found_everywhere(machines, name):
    with in_place_of_networks(of_name(name)):
        stored, arrays = machines("--sides", 3)
    assert {(e.group, e.t) for e in stored.entries} == {(g, t) for g in SETS for t in (20, 45)}
    for entry in stored.entries:
        assert entry.n == 24 and entry.best == name
        assert entry.r2[name] == (1, 1, 1) and entry.mixture_r2[0] == pytest.approx(1, abs=1e-6)
        assert {n: round(w[0], 5) for n, w in entry.mixture.items()} == {
            n: float(n == name) for n in NAMES
        }
    np.testing.assert_allclose(arrays["seed-r2"][:, NAMES.index(name)], 1, atol=1e-9)
    (median,) = [e.median for e in stored.seeds if (e.group, e.machine) == (SAMPLES, name)]
    assert median[0] == pytest.approx(1)


def test_the_result_has_the_products_behind_its_numbers(machines, made):
    stored, arrays = machines("--synth-path", made / "s")
    assert arrays["gram-training"].shape == (2, 24, 5, 5)
    for i, t in enumerate((20, 45)):
        for group in SETS:
            gram, total = arrays[f"gram-{group}"][i].sum(0), arrays[f"total-{group}"][i].sum()
            found = [values[0] for values in stored.at(group, t).r2.values()]
            np.testing.assert_allclose(found, 1 - np.diagonal(gram) / total)
    for entry in stored.entries:
        for value, low, high in (*entry.r2.values(), entry.mixture_r2):
            assert low <= value <= high <= 1


def test_without_sets_samples_are_drawn(machines):
    stored, arrays = machines(*FEW)
    assert stored.at(SAMPLES, 20).n == 24 and stored.args["machines"]["drawn"] is None
    assert len(arrays["seed-network"]) == 3 and (arrays["seed-classes"] == -1).all()
    section = stored.args["machines"]
    assert (section["sampler"], section["steps"]) == ("ddim", 20)


def test_samples_are_drawn_as_the_set_was(machines, made):
    stored, arrays = machines(*FEW, "--synth-path", made / "s")
    section = stored.args["machines"]
    assert (section["sampler"], section["steps"]) == ("ddim", 4)
    own = load_synthetics(made / "s" / "8.npz").samples
    np.testing.assert_allclose(arrays["seed-network"], own[:3], atol=1e-5)


def resampled(made, folder, **changed):
    """The set of K = 8 that says it was drawn otherwise."""
    found = load_synthetics(made / "s" / "8.npz")
    args = {**found.args, "generate": {**found.args["generate"], **changed}}
    save_synthetics(folder / "8.npz", found.samples, args)
    return folder


@pytest.mark.parametrize(("calls", "expected"), [(60, ("ddpm", 60)), (101, ("ddim", 20))])
def test_a_sampler_of_many_calls_is_not_followed(machines, made, tmp_path, calls, expected):
    folder = resampled(made, tmp_path / "t", steps=calls, sampler="ddpm")
    stored, _ = machines(*FEW, "--synth-path", folder, "--seeds", 1)
    section = stored.args["machines"]
    assert (section["sampler"], section["steps"]) == expected


def test_classes_are_those_that_were_judged(machines, made):
    flags = ["--synth-path", made / "of-classes", "--identified-path", made / "identified"]
    stored, arrays = machines(*FEW, *flags, "--images", 60, "--seeds", 6)
    for i, name in enumerate(CLASSES):
        rows = load_identified(made / "identified" / name / "8.npz").indices
        assert len(rows) >= 16
        assert set(np.flatnonzero(arrays["sample-classes"] == i)) == set(rows)
        assert set(np.flatnonzero(arrays["seed-classes"] == i)) == {r for r in rows if r < 6}
        entry, total = stored.at(name, 20), arrays["total-samples"][0, rows].sum()
        gram = arrays["gram-samples"][0, rows].sum(0)
        assert entry.n == len(rows)
        found = [values[0] for values in entry.r2.values()]
        np.testing.assert_allclose(found, 1 - np.diagonal(gram) / total)
    medians = {(e.group, e.machine): (e.median[0], e.n) for e in stored.seeds}
    mine = arrays["seed-classes"] == 0
    assert medians["memorized", "wiener"] == (np.median(arrays["seed-r2"][mine, 1]), mine.sum())


def test_a_class_of_few_samples_has_no_entry(machines, made):
    flags = ["--synth-path", made / "of-classes", "--identified-path", made / "identified"]
    stored, _ = machines(*FEW, *flags, "--images", 24)  # eight of each
    assert {e.group for e in stored.entries} == set(SETS)


def test_seeds_of_another_sampler_have_no_class(machines, made):
    flags = ["--synth-path", made / "of-classes", "--identified-path", made / "identified"]
    _, arrays = machines(*FEW, *flags, "--sampler", "ddim", "--steps", 5)
    assert (arrays["seed-classes"] == -1).all() and (arrays["sample-classes"] >= 0).all()


def test_one_training_image(machines, tmp_path, capsys):
    """The exact model of one image gives the mean image: nothing is to be explained."""
    with in_place_of_networks(of_name("exact")):
        stored, _ = machines(k=1)
    text = json.loads((tmp_path / "out" / "1.json").read_text())
    assert [e["best"] for e in text["entries"]] == [None] * len(text["entries"])
    assert text["entries"][0]["r2"]["wiener"] == [None] * 3 and text["seeds"] == []
    for row in machine_rows({1: stored}):
        assert row[2:6] == ["-"] * 4
    show_machines(tmp_path / "out")
    assert (tmp_path / "out" / "figures" / "seeds-1.png").exists()
    assert "machines-map.png" in capsys.readouterr().out


def test_one_training_image_and_a_network(machines):
    stored, _ = machines(k=1)
    for entry in stored.entries:
        assert entry.r2["exact"][0] == pytest.approx(0, abs=1e-9)  # it gives the mean image


def test_no_seeds(machines, tmp_path):
    stored, arrays = machines(*FEW, "--seeds", 0)
    assert stored.seeds == [] and arrays["seed-machines"].shape == (2, 0, 1, 8, 8)
    show_machines(tmp_path / "out")
    assert not (tmp_path / "out" / "figures" / "seeds-8.png").exists()


def test_all_images_of_a_data_set(tmp_path, capsys):
    """No image is held out: that set is left out, with a line."""
    options = train_options(tmp_path, "--iterations", 1, "--train-size", 1797, "--valid-size", 0)
    train.run(options)
    own = ["--ckpt-path", tmp_path / "models", "--result-path", tmp_path / "out"]
    flags = [*QUICK, "--machines", "exact", "--t", 10, "--images", 4, "--seeds", 1]
    run_stage("machines", *own, *flags, "--device", "cpu")
    printed = capsys.readouterr().out
    assert "K = 1797: held-out images are left out: " in printed
    stored = load_result(tmp_path / "out" / "1797.json")
    assert {e.group for e in stored.entries} == {TRAINING, SAMPLES}
    (row,) = machine_rows({1797: stored})
    assert row[3] == row[5] == "-"


def test_one_held_out_image_is_left_out(machines, monkeypatch, capsys):
    one = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr("utils.stages.machines.stage.held_out_images", lambda *_: one)
    stored, _ = machines(*FEW)
    assert stored.at(HELD_OUT, 20) is None
    assert "held-out images are left out: there are fewer than 2" in capsys.readouterr().out


# Again


def test_run_twice_it_is_finished_and_again_it_has_the_same_bytes(machines, made, tmp_path, capsys):
    machines("--synth-path", made / "s")
    files = [tmp_path / "out" / name for name in ("8.json", "8.npz")]
    before = {path: path.read_bytes() for path in files}
    capsys.readouterr()
    machines("--synth-path", made / "s", "--batch-size", 7)  # rounding only: no other result
    assert "is finished" in capsys.readouterr().out
    machines("--synth-path", made / "s", "--overwrite")
    assert {path: path.read_bytes() for path in files} == before


@pytest.mark.parametrize(
    ("name", "value"), [("t", "20"), ("images", 9), ("seeds", 2), ("seed", 1), ("sides", "3")]
)
def test_other_options_are_refused_and_redone(machines, name, value):
    few = FEW[:2] if name == "t" else FEW
    machines(*few)
    with complaint("8.json", f"made with machines: {name}", "--overwrite"):
        machines(*few, f"--{name}", value)
    stored, _ = machines(*few, f"--{name}", value, "--overwrite")
    assert stored.args["machines"][name] in (value, [int(value)])


def test_another_set_is_another_result(machines, made, tmp_path):
    flags = [*FEW, "--sampler", "ddim", "--steps", 4]
    machines(*flags)
    with complaint("8.json", "drawn None (now "):
        machines(*flags, "--synth-path", made / "s")


def test_the_order_of_machines_does_not_matter(machines, tmp_path, capsys):
    first, _ = machines("--machines", "wiener, exact", "--t", 20)
    assert first.machines == ["exact", "wiener"]
    machines(*FEW)
    assert "is finished" in capsys.readouterr().out
    with complaint("machines 'exact,wiener' (now 'local')", "--overwrite"):
        machines("--machines", "local", "--t", 20)


@pytest.mark.parametrize("name", NAMES)
def test_one_machine_alone(machines, name):
    stored, arrays = machines("--machines", name, "--t", 20, "--seeds", 1)
    assert stored.machines == [name] and arrays["seed-machines"].shape == (1, 1, 1, 8, 8)
    for entry in stored.entries:
        assert (entry.best, entry.tied, entry.mixture) == (name, [], {name: (1, 1, 1)})
    assert list(stored.sides) == ([] if name in ("exact", "wiener") else [name])


def test_the_size_of_a_batch_changes_rounding_only(machines, tmp_path):
    (first, one), (other, all_) = (
        machines("--batch-size", b, out=tmp_path / str(b)) for b in (1, 99)
    )
    assert first.sides == other.sides
    for name in one:
        if name != "args":
            np.testing.assert_allclose(one[name], all_[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_dry_run_writes_nothing(made, tmp_path, capsys):
    own = ["--ckpt-path", made / "models/8.pt", "--result-path", tmp_path / "out", *CPU]
    run_stage("machines", *own, *QUICK, "--dry-run")
    assert "K = 8: write" in capsys.readouterr().out and not list(tmp_path.iterdir())


# What is refused


def test_sets_that_do_not_fit(machines, made, tmp_path, capsys):
    other = resampled(made, tmp_path / "other", checkpoint="0123456789abcdef")
    with complaint("other/8.npz", "samples of weights 0123456789abcdef", "run_generate.py"):
        machines("--synth-path", other)
    found = load_synthetics(made / "s" / "8.npz")
    save_synthetics(tmp_path / "one" / "8.npz", found.samples[:1], found.args)
    with complaint("one/8.npz", "1 sample", "2 samples or more"):
        machines("--synth-path", tmp_path / "one")
    save_synthetics(tmp_path / "others" / "8.npz", found.samples[::-1], found.args)
    classes = ["--identified-path", made / "identified"]
    with complaint("summary/8.json", "other samples than those in --synth-path"):
        machines("--synth-path", tmp_path / "others", *classes)
    with complaint("--identified-path", "without --synth-path"):
        machines(*classes)
    assert not (tmp_path / "out").exists()


def test_a_k_without_a_set_or_classes_is_passed_over(made, machines, capsys):
    with pytest.raises(UserError, match=r"1\.json"):
        machines("--synth-path", made / "of-classes", k=1)
    assert "K = 1: no set in " in capsys.readouterr().out
    flags = ["--synth-path", made / "s", "--identified-path", made / "identified"]
    _, arrays = machines(*FEW, *flags, k=1)
    assert "K = 1: not in " in capsys.readouterr().out and "sample-classes" not in arrays


def test_a_class_conditional_model_is_refused(tmp_path):
    flags = ["--iterations", 1, "--class-conditional", "--dim", 64]
    train.run(train_options(tmp_path, *flags))
    own = ["--ckpt-path", tmp_path / "models", "--result-path", tmp_path / "out"]
    with complaint("models/8.pt", "class-conditional", "without classes"):
        run_stage("machines", *own, *QUICK, "--t", 10)


class Spoilt:
    """A machine with NaN in its x_0 beyond the time `last`."""

    def __init__(self, machine, last):
        self.machine, self.last = machine, last
        self.shape, self.schedule, self.device = machine.shape, machine.schedule, machine.device

    def x_0(self, x_t, t):
        x_0 = self.machine.x_0(x_t, t)
        return x_0 if int(torch.as_tensor(t).max()) <= self.last else x_0 * float("nan")

    def eps(self, x_t, t):
        return predict_eps(x_t, self.x_0(x_t, t), self.schedule.alpha_bar_at(t))


@pytest.mark.parametrize("last", [-1, 50])  # of all times; of those of the samples alone
def test_a_network_with_nan_is_one_line(machines, tmp_path, last):
    spoilt = lambda *given: Spoilt(of_name("wiener")(*given), last)  # noqa: E731
    with in_place_of_networks(spoilt), complaint("model of K = 8", "NaN"):
        machines()
    assert not list((tmp_path / "out").glob("8.*"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--machines", "exact,magic"], ["--machines", "magic", "choose exact, wiener"]),
        (["--machines", "exact,exact"], ["--machines", "each once"]),
        (["--machines", ","], ["--machines", "name one or more"]),
        (["--sides", "2"], ["--sides", "2", "odd"]),
        (["--t", "60"], ["--t", "60", "0 to 59"]),
        (["--t", "20,20"], ["--t", "each once"]),
        (["--sampler", "ddim"], ["--sampler", "without --steps"]),
        (["--steps", "5"], ["--steps", "without --sampler"]),
        (["--sampler", "ddim", "--steps", "61"], ["--steps", "61", "60 or less"]),
        (["--images", "1"], ["--images", "1"]),
        (["--seeds", "-1"], ["--seeds", "-1"]),
        (["--ckpt-path", "none"], ["--ckpt-path", "none"]),
        (["--synth-path", "none"], ["--synth-path", "none"]),
    ],
)
def test_options_that_are_none(machines, tmp_path, flags, words):
    with complaint(*words):
        machines(*flags)
    assert not (tmp_path / "out").exists()
