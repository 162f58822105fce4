"""Training: resumed = straight, randomness from (seed, step) alone, and a loss that falls."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from tests.helpers.runs import DIGITS, ROOT, SMALL, ok, run_here, train_options
from utils.cli.errors import UserError
from utils.files.training_log import read_stats
from utils.inputs.checkpoints import load_checkpoint
from utils.stages.train import stage as train
from utils.stages.train.batches import batch_indices
from utils.stages.train.trainer import Plan, Trainer

LONG = ("--timesteps", 1000)


def straight(folder, *flags):
    train.run(train_options(folder, *flags))
    return (folder / "models" / "8.pt").read_bytes()


@pytest.mark.parametrize("flags", [(), ("--dropout", "0.2"), ("--prediction-type", "sample")])
def test_resumed_equals_straight_bit_for_bit(tmp_path, monkeypatch, flags):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    # Paths lie in args: both runs are told the same ones.
    monkeypatch.chdir(tmp_path / "a")
    whole = straight(type(tmp_path)("."), *flags)
    monkeypatch.chdir(tmp_path / "b")
    straight(type(tmp_path)("."), *flags, "--iterations", 2)
    (type(tmp_path)("models") / "8.pt").unlink()
    resumed = straight(type(tmp_path)("."), *flags)
    assert load_checkpoint(tmp_path / "b" / "models" / "8.pt").iterations == 4
    first = load_checkpoint(tmp_path / "a" / "models" / "8.pt")
    second = load_checkpoint(tmp_path / "b" / "models" / "8.pt")
    for name in first.model:
        assert torch.equal(first.model[name], second.model[name]), name
        assert torch.equal(first.ema[name], second.ema[name]), name
    assert whole == resumed


def test_a_finished_training_is_skipped(tmp_path, capsys):
    straight(tmp_path)
    before = (tmp_path / "models" / "8.pt").stat().st_mtime_ns
    train.run(train_options(tmp_path))
    assert "is finished" in capsys.readouterr().out
    assert (tmp_path / "models" / "8.pt").stat().st_mtime_ns == before


def test_a_lost_model_is_written_again_from_its_checkpoint(tmp_path):
    whole = straight(tmp_path)
    (tmp_path / "models" / "8.pt").unlink()
    assert straight(tmp_path) == whole


def test_a_finished_model_needs_no_run_folder(tmp_path, capsys):
    straight(tmp_path)
    shutil.rmtree(tmp_path / "run")
    straight(tmp_path)
    assert "is finished" in capsys.readouterr().out
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_model_of_other_options_in_the_way_is_refused_before_work(tmp_path):
    whole = straight(tmp_path)
    elsewhere = ("--results-path", tmp_path / "other", "--lr", 0.5)
    with pytest.raises(UserError, match=r"models/8\.pt: found a file made with train: lr"):
        train.run(train_options(tmp_path, *elsewhere))
    assert not (tmp_path / "other" / "checkpoints").exists()
    assert (tmp_path / "models" / "8.pt").read_bytes() == whole


def test_other_options_are_refused_and_overwrite_redoes(tmp_path):
    whole = straight(tmp_path)
    with pytest.raises(UserError, match=r"train: lr 0.001 \(now 0.5\); redo it with --overwrite"):
        train.run(train_options(tmp_path, "--lr", 0.5))
    assert (tmp_path / "models" / "8.pt").read_bytes() == whole
    assert straight(tmp_path, "--lr", 0.5, "--overwrite", "True") != whole


def test_more_iterations_go_on(tmp_path):
    straight(tmp_path)
    straight(tmp_path, "--iterations", 6)
    assert load_checkpoint(tmp_path / "models" / "8.pt").iterations == 6


def test_a_truncated_checkpoint_is_left_out(tmp_path, capsys):
    whole = straight(tmp_path)
    newest = tmp_path / "run" / "checkpoints" / "4.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    (tmp_path / "models" / "8.pt").unlink()
    assert straight(tmp_path) == whole
    assert "left out" in capsys.readouterr().out


def test_the_seed_decides(tmp_path):
    runs = [straight(tmp_path / name, "--global-seed", seed) for name, seed in (("a", 1), ("b", 2))]
    assert runs[0] != runs[1]


def test_what_is_written(tmp_path):
    straight(tmp_path)
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("[!.]*") if p.is_file()}
    run = {f"run/{name}" for name in ("logs/stats.jsonl", "logs/train.txt")}
    run |= {f"run/checkpoints/{i}.pt" for i in (2, 4)} | {f"run/samples/{i}.png" for i in (2, 4)}
    assert files == run | {"models/8.pt"}
    rows = [json.loads(x) for x in (tmp_path / "run/logs/stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert set(rows[0]) == {
        *("step", "loss", "valid_loss", "grad_norm", "images_per_second", "seconds_left")
    }


def test_old_checkpoints_are_removed_on_request(tmp_path):
    straight(tmp_path, "--keep-checkpoints", 1)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["4.pt"]


def test_the_loss_falls_below_that_of_silence(tmp_path):
    """Predicting eps = 0 costs 1."""
    flags = ["--iterations", 60, "--log-every", 20, "--ckpt-every", 60, "--lr", 3e-3]
    straight(tmp_path, *flags, "--prediction-type", "epsilon", *LONG)
    rows = read_stats(tmp_path / "run")
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"] < 0.6


def test_bfloat16_learns_as_float32_does(tmp_path):
    """The same images and noise at each step: losses differ by rounding, weights do drift."""
    flags = ["--iterations", 60, "--log-every", 10, "--ckpt-every", 60, "--lr", 3e-3, *LONG]
    losses = {}
    for precision in ("float32", "bfloat16"):
        folder = tmp_path / precision
        straight(folder, *flags, "--precision", precision)
        rows = read_stats(folder / "run")
        losses[precision] = torch.tensor([[row["loss"], row["valid_loss"]] for row in rows])
    assert not torch.equal(losses["bfloat16"], losses["float32"])
    torch.testing.assert_close(losses["bfloat16"], losses["float32"], rtol=0.03, atol=0)
    kept = load_checkpoint(tmp_path / "bfloat16" / "models" / "8.pt")
    state = kept.opt["state"].values()
    both = [*kept.model.values(), *kept.ema.values(), *(row["exp_avg"] for row in state)]
    assert {value.dtype for value in both} == {torch.float32}  # bfloat16 is for products alone


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    straight(tmp_path, "--iterations", 2)
    kept = (tmp_path / "run" / "checkpoints" / "2.pt").read_bytes()
    options = train_options(tmp_path, "--iterations", 6)
    plan_of = Trainer.loss
    Trainer.loss = lambda self, *batch: plan_of(self, *batch) * float("nan")
    try:
        with pytest.raises(UserError, match=r"loss at step 4: found nan; .*2\.pt is the last good"):
            train.run(options)
    finally:
        Trainer.loss = plan_of
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["2.pt"]
    assert (tmp_path / "run" / "checkpoints" / "2.pt").read_bytes() == kept


def test_k_above_the_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="--train-size: found 1798; choose 1797 or less"):
        train.run(train_options(tmp_path, "--train-size", 1798))
    assert not list(tmp_path.iterdir())


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    train.run(train_options(tmp_path, "--dry-run"))
    assert "would train K = 8 from step 0 to 4" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_every_image_is_drawn_equally_often(size):
    drawn = torch.cat([batch_indices(size, 8, step, seed=0) for step in range(size)])
    assert torch.equal(drawn.bincount(minlength=size), torch.full((size,), 8))


def test_each_epoch_is_shuffled_afresh():
    epochs = batch_indices(100, 300, 0, seed=3).reshape(3, 100)
    assert all(torch.equal(epoch.sort().values, torch.arange(100)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])


def test_a_batch_depends_on_seed_and_step_alone():
    later = batch_indices(100, 16, 37, seed=3)
    for step in range(37):
        batch_indices(100, 16, step, seed=4)
    assert torch.equal(batch_indices(100, 16, 37, seed=3), later)
    assert not torch.equal(batch_indices(100, 16, 38, seed=3), later)


def test_the_average_equals_its_formula(tmp_path):
    options = train_options(tmp_path, "--ema-decay", 0.9, "--ema-warmup", "True")
    device = torch.device("cpu")
    args = train.training_args(options)
    trainer = Trainer(Plan(options, args, device, torch.float32))
    expected = [p.detach().double() for p in trainer.network.parameters()]
    for n in range(1, 4):
        trainer.train_step()
        decay = min(0.9, (1 + n) / (10 + n))
        weights = [p.detach().double() for p in trainer.network.parameters()]
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, weights)]
    for mine, wanted in zip(trainer.average.parameters(), expected):
        torch.testing.assert_close(mine.double(), wanted, rtol=1e-5, atol=1e-7)


LONGER = [*SMALL, "--iterations", "40", "--train-size", "8", "--ckpt-every", "8"]
FLAGS = ["--config_path", DIGITS, *LONGER, "--results-path", "run", "--model-path", "models"]
COMMAND = [sys.executable, str(ROOT / "train_unet.py"), *FLAGS]


def to_the_end(folder):
    """The model of the command in folder, which goes on where another process has stopped."""
    ok("train_unet.py", *FLAGS, run=partial(run_here, cwd=folder))
    return (folder / "models" / "8.pt").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return to_the_end(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow
def test_stopped_and_started_again_equals_undisturbed(tmp_path, undisturbed):
    """By the signal of the batch files; tests/faults has the others."""
    pipes = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(COMMAND, **pipes)
    stats = tmp_path / "run" / "logs" / "stats.jsonl"
    deadline = time.time() + 60
    while time.time() < deadline and not (stats.exists() and stats.stat().st_size > 500):
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert not (tmp_path / "models" / "8.pt").exists()
    assert to_the_end(tmp_path) == undisturbed


DYING = """
import os, runpy, signal, sys
replace = os.replace
def dying(part, target):
    if str(target).endswith(NAME):
        assert os.path.getsize(part)
        os.kill(os.getpid(), signal.SIGKILL)
    replace(part, target)
os.replace, sys.argv = dying, sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoints/16.pt", "models/8.pt"])
def test_killed_in_the_middle_of_a_checkpoint_equals_undisturbed(tmp_path, undisturbed, name):
    """SIGKILL when a checkpoint, or K.pt, is written but has not got its name yet."""
    code = DYING.replace("NAME", repr(name))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [COMMAND[0], "-c", code, *COMMAND[1:]]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / ("run" if name.startswith("c") else ".") / name).exists()
    for part in (cut_short := list(tmp_path.rglob("*.part"))):
        os.utime(part, (0, 0))  # in models/ another job may be writing what is younger
    assert cut_short
    assert to_the_end(tmp_path) == undisturbed
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps, sign, gap",
    [
        (0, signal.SIGTERM, 0.03),
        (0, signal.SIGUSR1, 0),
        (1, signal.SIGTERM, 0),
        (1, signal.SIGUSR1, 0.03),
    ],
)
def test_the_second_of_two_signals_does_not_cut_the_way_out_short(tmp_path, steps, sign, gap):
    """scancel and scontrol requeue send them; before training begins, and in its loop."""
    pipes = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*COMMAND, "--iterations", "5000"], **pipes)
    process.stdout.readline()  # the options: it has begun
    stats = tmp_path / "run" / "logs" / "stats.jsonl"
    while steps and not (stats.exists() and stats.stat().st_size > 200):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(sign)
    time.sleep(gap)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    lines = [line for line in stderr.splitlines() if line and "%|" not in line]
    assert len(lines) == 1 and lines[0].startswith("stopped: "), stderr
