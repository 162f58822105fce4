"""Training on the circle: the published recipe, exact resume, one job for each K."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from models.circle.exact import PatternMixture
from tests.helpers.runs import ROOT
from tests.helpers.sandbox import TOY_TRAINING, bytes_below, toy_training, train_toy
from utils.cli.errors import UserError
from utils.cli.options.sections import (
    ToyDataOptions,
    ToyTrainStage,
)
from utils.cli.parse import parse
from utils.files.training_log import read_stats
from utils.stages.toy.files import (
    checkpoint_file,
    load_checkpoint,
    load_points,
    ordered_points,
)
from utils.stages.toy.training import Draws, Trainer, recipe, score_errors


def test_a_step_draws_what_seed_size_and_step_say():
    patterns = ordered_points(ToyDataOptions())

    def make(sizes, seed=1):
        return Draws([patterns[:k] for k in sizes], 32, seed, False, torch.device("cpu"))

    both, alone = make([2, 9]), make([9])
    for step in (0, 63, 64, 5):  # blocks of steps, and back
        for many, one in zip(both.at(step), alone.at(step)):
            assert torch.equal(many[1], one[0])
    x_0, t, _ = both.at(7)
    assert not torch.equal(t, both.at(8)[1]) and not torch.equal(t, make([2, 9], 2).at(7)[1])
    assert not torch.equal(*both.at(7)[2])  # networks do not share their noise
    assert (torch.cdist(x_0[1].double(), patterns[:9]).amin(dim=1) < 1e-6).all()
    level = t.sqrt().sort(dim=1).values  # one in each of 32 equal parts
    edges = torch.linspace(math.sqrt(1e-3), 1.05, 33)
    assert (level >= edges[:-1] - 1e-6).all() and (level <= edges[1:] + 1e-6).all()


def test_the_published_recipe():
    settings = parse(ToyTrainStage, ["--as_published"]).toy_train
    assert [recipe(settings, k).batch for k in (2, 9, 1000)] == [2, 9, 500]
    assert recipe(settings, 9).lr(0) == recipe(settings, 9).lr(799_999) == 1e-4
    ours = recipe(parse(ToyTrainStage, ["--n_iter", "100"]).toy_train, 9)
    assert [round(ours.lr(step) * 1e3, 6) for step in (0, 50, 100)] == [1.0, 0.5, 0.0]


def test_a_step_has_the_step_size_of_the_recipe(tmp_path):
    settings = toy_training(tmp_path).toy_train
    trainer = Trainer(tmp_path, settings, load_points(tmp_path), [2, 3], torch.device("cpu"))
    for step in range(3):
        trainer.train_step()
        assert trainer.optimizer.param_groups[0]["lr"] == recipe(settings, 2).lr(step)
    assert recipe(settings, 2).lr(1) < recipe(settings, 2).lr(0)


def test_networks_trained_together_do_not_depend_on_each_other(tmp_path):
    train_toy(tmp_path / "both", "--sample_size", "2,9")
    train_toy(tmp_path / "alone", "--sample_size", "9")
    many, one = (load_checkpoint(checkpoint_file(tmp_path / n, 9, 60)) for n in ("both", "alone"))
    for name, value in one.model.items():
        torch.testing.assert_close(many.model[name], value, rtol=1e-4, atol=1e-5)


def test_learning_comes_near_the_exact_score(tmp_path):
    """An untrained network errs by about 1 in these units; 1,500 steps take most of that away."""
    flags = ("--n_iter", 1500, "--sampling_freq", 1500, "--global_batch_size", 128)
    train_toy(tmp_path, "--sample_size", 2, *flags)
    (row,) = [row for row in read_stats(tmp_path / "2") if row.get("score_errors")]
    assert max(row["score_errors"][1:]) < 0.05  # from t = 0.05 on
    exact = PatternMixture(load_points(tmp_path).points[:2])
    assert max(score_errors(exact.score, exact)) < 1e-20


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    straight = train_toy(tmp_path / "straight", "--sample_size", "2,9")
    stopped = train_toy(tmp_path / "stopped", "--sample_size", "2,9")
    # as after a kill between two writes: one K is ahead, and a last checkpoint is cut short
    for lost in ((2, 60), (9, 60), (9, 40)):
        checkpoint_file(stopped, *lost).unlink()
    cut = checkpoint_file(stopped, 2, 40)
    cut.write_bytes(cut.read_bytes()[:1000])
    train_toy(stopped, "--sample_size", "2,9")
    assert bytes_below(stopped, ".pt") == bytes_below(straight, ".pt")
    assert [row["step"] for row in read_stats(stopped / "2")] == [20, 40, 60]
    # and no more is done again than must be
    for k in (2, 9):
        checkpoint_file(stopped, k, 60).unlink()
    before = checkpoint_file(stopped, 2, 40).stat().st_mtime_ns
    train_toy(stopped, "--sample_size", "2,9")
    assert checkpoint_file(stopped, 2, 40).stat().st_mtime_ns == before
    assert bytes_below(stopped, ".pt") == bytes_below(straight, ".pt")


def start(*flags):
    command = [sys.executable, str(ROOT / "toy_example.py"), *map(str, flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process):
    until = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path):
    long = ("train", *TOY_TRAINING, "--sample_size", "2,9", "--n_iter", 600, "--sampling_freq", 150)
    flags = (*long, "--results_path", tmp_path / "stopped")
    process = start(*flags)
    wait_for(checkpoint_file(tmp_path / "stopped", 9, 150), process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75 and "stopped: saved at step" in stderr.splitlines()[-1]
    for root in ("stopped", "straight"):
        train_toy(tmp_path / root, *long[1:])
    for k in (2, 9):
        last = (
            checkpoint_file(tmp_path / root, k, 600).read_bytes()
            for root in ("stopped", "straight")
        )
        assert len(set(last)) == 1


@pytest.mark.slow
def test_two_trainings_at_once_do_each_k_once(tmp_path, capsys):
    flags = ("--n_iter", 1500, "--sampling_freq", 500)
    own = ("--results_path", tmp_path, "--sample_size", "2,9")
    first = start("train", *TOY_TRAINING, *flags, *own)
    wait_for(tmp_path / "9" / "logs" / "stats.jsonl", first)
    train_toy(tmp_path, *flags, "--sample_size", "9,5")
    assert "waiting for another job" in capsys.readouterr().out
    _, stderr = first.communicate(timeout=200)
    assert first.returncode == 0, stderr
    for k in (2, 5, 9):
        assert [row["step"] for row in read_stats(tmp_path / str(k))] == [500, 1000, 1500]
    assert not list(tmp_path.rglob(".*.claim")) and not list(tmp_path.rglob("*.part"))


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(
        UserError, match=r"loss of K = 2 at step 20: found nan; the last checkpoint"
    ):
        train_toy(tmp_path, "--sample_size", "2", "--lr", "1e30")
    assert not list(tmp_path.rglob("*.pt"))
