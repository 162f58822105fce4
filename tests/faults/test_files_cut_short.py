"""Files cut short under their final name, as an interrupted copy leaves them, and jobs that died.

A stage's own output that is not whole is one line, never taken for finished."""

import json
import os
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.runs import assert_one_line, run_here, train_options
from tests.helpers.sandbox import (
    FAULTS,
    FLAGS,
    arrays,
    at,
    cut,
    run_stage,
    work,
)
from tests.helpers.trials import FULL
from utils.cli.errors import UserError
from utils.jobs import claims
from utils.jobs.shares import Share
from utils.stages.distances.parts import part_file
from utils.stages.train import stage as train

pytestmark = pytest.mark.usefixtures("no_pictures")
OUTPUTS = {
    "generate": ["out/s/8.npz"],
    "distances": ["out/8.npz"],
    "classify": ["out/summary/8.json", "out/spurious/8.npz"],
    "critical times": ["out/8.npz"],
    "energy": ["out/8.npz"],
    "curvature": ["out/8.npz"],
    "generalization": ["out/8.json", "out/8.npz"],
    "machines": ["out/8.json", "out/8.npz"],
}


@pytest.mark.parametrize("stage", FLAGS)
def test_an_output_cut_short_is_never_taken_for_finished(made, own, tally, tries, stage):
    work(stage, own)
    for name in OUTPUTS[stage]:
        whole = (own / name).read_bytes()
        for seed in range(tries // 2):
            with tally.attempt(stage, "output truncated", (name, seed)):
                cut(own / name, seed or 1)
                with pytest.raises(UserError, match=Path(name).name) as refused:
                    work(stage, own)
                assert "again" in str(refused.value)
                (own / name).unlink()
                work(stage, own)
                assert (own / name).read_bytes() == whole
                assert arrays(own / "out") == made[1][stage]
            (own / name).write_bytes(whole)


INPUT = {"generate": "models/8.pt", "classify": "d/8.npz", "energy": "models/8.pt"}


@pytest.mark.parametrize("stage", FLAGS if FULL else ["distances"])
def test_a_copy_cut_short_is_one_line_from_the_shell(own, tally, tries, stage):
    """Of an input, and of what the stage itself has written."""
    script = f"run_{stage.replace(' ', '_')}.py"
    work(stage, own)
    faults = {"output truncated": OUTPUTS[stage][0], "input truncated": INPUT.get(stage, "s/8.npz")}
    for fault, name in list(faults.items())[: tries - 1]:
        with tally.attempt(stage, fault, name):
            cut(own / name, 3)
            done = run_here(script, *FLAGS[stage].split(), cwd=own)
            assert_one_line(done, name)


def test_a_class_that_vanished_is_made_again(made, own, tally):
    with tally.attempt("classify", "output truncated", "a class deleted"):
        work("classify", own)
        (own / "out" / "spurious" / "8.npz").unlink()
        work("classify", own)
        assert arrays(own / "out") == made[1]["classify"]


def test_a_merge_that_a_dead_job_holds_is_taken_over(made, own, monkeypatch, tally):
    """All parts are there, and so is the claim of a job on another host that is no more."""
    with tally.attempt("distances", "input vanished", "the job that merges"):
        monkeypatch.setattr(claims, "SURE_SECONDS", 0.2)
        monkeypatch.setattr(claims, "POLL_SECONDS", 0.1)
        work("distances", own, "--shard", "0/2")
        mark = own / "out" / ".8.npz.claim"
        mark.write_text(json.dumps({"host": "gone", "where": "gone", "pid": 1, "id": "0"}))
        old = time.time() - 2 * claims.STALE_SECONDS
        os.utime(mark, (old, old))
        work("distances", own, "--shard", "1/2")
        assert arrays(own / "out") == made[1]["distances"]
        assert not part_file(own / "out", 8, Share(0, 2)).exists() and not mark.exists()


def test_a_checkpoint_cut_short_before_it_is_resumed_is_one_line(tmp_path, monkeypatch, tally):
    train.run(train_options(tmp_path, "--iterations", 2))
    path = tmp_path / "run" / "checkpoints" / "2.pt"
    with tally.attempt("train", "input truncated", "checkpoint"):
        with monkeypatch.context() as patch:
            at(patch, "utils.stages.train.stage.Trainer", lambda: cut(path))
            with pytest.raises(UserError, match=r"2\.pt"):
                train.run(train_options(tmp_path))
        assert not (tmp_path / "run" / "checkpoints" / "4.pt").exists()
        (tmp_path / "models" / "8.pt").unlink()
        train.run(train_options(tmp_path))  # from the beginning: 2.pt is not whole
        straight = train_options(tmp_path / "straight")
        train.run(straight)
        result, expected = (
            torch.load(f / "models" / "8.pt", weights_only=True)["ema"]
            for f in (tmp_path, tmp_path / "straight")
        )
        assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_a_published_model_cut_short_is_no_finished_training(tmp_path, tally, tries):
    train.run(train_options(tmp_path, "--iterations", 2))
    path = tmp_path / "models" / "8.pt"
    whole = path.read_bytes()
    for seed in range(tries // 2):
        with tally.attempt("train", "output truncated", seed):
            cut(path, seed)
            with pytest.raises(UserError, match=r"8\.pt"):
                train.run(train_options(tmp_path, "--iterations", 2))
            path.unlink()
            train.run(train_options(tmp_path, "--iterations", 2))
            assert path.read_bytes() == whole


@pytest.mark.parametrize("fault", ["input truncated", "input vanished", "output truncated"])
def test_the_toy_reads_once_and_knows_what_is_whole(tmp_path, monkeypatch, tally, fault):
    def trained(steps):
        flags = ["--results-path", tmp_path, "--sample-size", 2, "--n-iter", steps]
        flags += ["--sampling-freq", 1]
        run_stage("toy train", *flags)

    monkeypatch.setattr("utils.stages.toy.training.save_figure", lambda *_: None)
    monkeypatch.setattr("utils.stages.toy.training.samples_figure", lambda *_: None)
    monkeypatch.setattr("utils.stages.toy.stage.show_training", lambda *_: None)
    monkeypatch.setattr("utils.stages.toy.training.Trainer.errors", lambda *_: [])
    trained(2)
    last = tmp_path / "2" / "checkpoints" / "2.pt"
    whole = last.read_bytes()
    with tally.attempt("toy", fault, "checkpoint"):
        if fault == "output truncated":  # left out, and made again
            cut(last, 3)
            trained(2)
            assert last.read_bytes() == whole
            return
        flags = ["--results-path", tmp_path, "--sample-size", 2, "--checkpoint", 2]
        at(monkeypatch, "utils.stages.toy.stage.pick_checkpoint", lambda: FAULTS[fault](last, 3))
        with pytest.raises(UserError, match=r"2\.pt|--checkpoint"):
            run_stage("toy plots", *flags)
