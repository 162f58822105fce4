"""`--tracker`: what stats.jsonl holds and the grids of samples, in TensorBoard and W&B offline."""

import subprocess
import sys

import pytest

from tests.helpers.runs import complaint, train_options
from utils.files.training_log import read_stats
from utils.stages.train import stage as train


def test_tensorboard_holds_the_log_and_the_samples(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train.run(train_options(tmp_path, "--tracker", "tensorboard"))
    train.run(train_options(tmp_path, "--tracker", "tensorboard", "--iterations", 8))
    events = EventAccumulator(str(tmp_path / "run" / "logs" / "tensorboard")).Reload()
    rows = read_stats(tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    for name in ("loss", "valid_loss", "grad_norm"):
        logged = {event.step: event.value for event in events.Scalars(name)}
        assert logged == pytest.approx({row["step"]: row[name] for row in rows}, rel=1e-6)
    assert [event.step for event in events.Images("samples")] == [2, 4, 6, 8]


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    """In a process of its own: wandb starts a service and threads that stay."""
    flags = ["--tracker", "wandb"]
    code = (
        "from pathlib import Path; from tests.helpers.runs import train_options\n"
        "from utils.stages.train import stage\n"
        f"stage.run(train_options(Path({str(tmp_path)!r}), *{flags!r}))\n"
    )
    env = {"WANDB_MODE": "offline", "HOME": str(tmp_path), "WANDB_SILENT": "true"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "run" / "logs" / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
    assert (tmp_path / "models" / "8.pt").exists()


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package):
    hidden = "torch.utils.tensorboard" if package == "tensorboard" else package
    monkeypatch.setitem(sys.modules, hidden, None)
    with complaint(f"--tracker {package}", "no such package", f"pip install {package}"):
        train.run(train_options(tmp_path, "--tracker", package))
