"""docs/extending.md, done: each change applied to a copy of the toolkit, and its commands run."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from models import samplers
from models.denoiser import PREDICTIONS
from models.noise import SeededNoise
from models.samplers import SAMPLERS
from models.schedule import SCHEDULES
from tests.helpers.images import real_digits
from tests.helpers.models import GaussianDenoiser
from tests.helpers.runs import ROOT, SMALL, ok, run_here
from utils.cli.options.choices import (
    DATA_NAMES,
    METRIC_NAMES,
    PICTURE_CHANNELS,
    PREDICTION_NAMES,
    SAMPLER_NAMES,
    SCHEDULE_NAMES,
)
from utils.data.datasets import OPENERS, to_float
from utils.data.subsets import fingerprint, permutation, training_subset
from utils.descriptors.embedders import WITHOUT_NETWORK
from utils.descriptors.lpips import TAPS
from utils.descriptors.networks import OF_TIMM
from utils.inputs.user_models import read_function

GUIDE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.+?)(?=^## |\Z)", GUIDE, re.M | re.S))
DATA_SET, METRIC, SAMPLER, MODEL = SECTIONS
QUICK = ["--config_path", ROOT / "tests" / "quick.yaml", *SMALL, "--iterations", 2]


def block(title: str, kind: str) -> str:
    """The change (diff) of a section, or its commands (no kind)."""
    return dict(re.findall(r"^```(\w*)\n(.*?)^```$", SECTIONS[title], re.M | re.S))[kind]


def extended(title: str, folder: Path) -> Path:
    """A copy of the toolkit below folder, with the change of a section."""
    for name in ("models", "utils", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, folder)
    # No repository above folder may take the paths for its own.
    apart = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    subprocess.run(
        ["git", "apply"], input=block(title, "diff"), text=True, cwd=folder, env=apart, check=True
    )
    return folder


def python(toolkit: Path, *words: object) -> str:
    """What Python prints in a copy of the toolkit."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=toolkit, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(title: str, toolkit: Path, *flags: list) -> None:
    """The commands of a section, the n-th with the n-th of flags besides."""
    for command, more in zip(block(title, "").splitlines(), flags, strict=True):
        name, *words = shlex.split(command)
        assert name == "python"
        python(toolkit, *words, *more)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """A file whose options this toolkit, as it is, would not know."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def args_of(arrays: dict[str, np.ndarray]) -> dict:
    return json.loads(str(arrays["args"]))


@pytest.mark.parametrize("title", [DATA_SET, METRIC, SAMPLER])
def test_a_change_has_fewer_than_twenty_lines(title):
    lines = re.findall(r"^[+-](?!\+\+ |-- ).*", block(title, "diff"), re.M)
    assert 0 < len(lines) < 20


def test_each_name_has_its_code():
    assert list(OPENERS) == list(DATA_NAMES)
    assert list(SAMPLERS) == list(SAMPLER_NAMES)
    assert [*WITHOUT_NETWORK, *TAPS, "sscd", *OF_TIMM, "inception"] == list(METRIC_NAMES)
    assert list(SCHEDULES) == list(SCHEDULE_NAMES)
    assert list(PREDICTIONS) == list(PREDICTION_NAMES)
    assert samplers.PICTURE_CHANNELS == PICTURE_CHANNELS


LEARNT = """
from pathlib import Path
from utils.inputs.checkpoints import load_checkpoint
from utils.data.subsets import training_subset

print(training_subset(load_checkpoint(Path("models/9.pt")).args).fingerprint)
"""


def write_idx(path: Path, values: np.ndarray) -> None:
    """The format of MNIST's files: type, dimensions, sizes, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = np.array(values.shape, ">i4").tobytes()
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())


@pytest.mark.slow
def test_a_data_set_is_added(tmp_path):
    """Its training subset has the images that were put in."""
    toolkit = extended(DATA_SET, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (18, 28, 28), dtype=np.uint8)
    raw = toolkit / "data" / "KMNIST" / "raw"
    for part, pixels in (("train", images[:12]), ("t10k", images[12:])):
        write_idx(raw / f"{part}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.zeros(len(pixels), np.uint8))
    small = ["--image-size", 28, "--dim", 32, "--dim-mults", "1,1,1", "--timesteps", 2]
    run(DATA_SET, toolkit, [*QUICK, *small, "--train-size", 9])
    printed = python(toolkit, "-c", LEARNT)
    subset = torch.from_numpy(images)[permutation(12, 3407)[:9], None]  # [K, 1, 28, 28]
    assert printed.strip() == fingerprint("kmnist", 3407, 9, subset)


@pytest.mark.slow
def test_a_metric_is_added(tmp_path):
    """Every stage measures in it, and its distances are scipy's."""
    toolkit = extended(METRIC, tmp_path)
    sweep = [*QUICK, "--sizes", 8, "--samples", 110, "--basins", 0]
    times = ["--sample-size", 2, "--p-trials", 2, "--ddim-steps", 2, "--stride", 9]
    run(METRIC, toolkit, sweep, [], times)
    results = toolkit / "results" / "correlation"
    result = arrays_of(results / "dists" / "8.npz")
    samples = arrays_of(results / "synthetics" / "8.npz")["samples"].reshape(110, -1)
    images = to_float(training_subset(args_of(result)).images).flatten(1).numpy()
    among = cdist(samples, samples, "correlation")
    np.fill_diagonal(among, np.inf)
    for kind, pairs in (("data", cdist(samples, images, "correlation")), ("synth", among)):
        expected = np.sqrt(2 * np.sort(pairs)[:, :5])
        np.testing.assert_allclose(result[f"{kind}-dists"], expected, rtol=1e-5, atol=1e-6)
        alone = arrays_of(toolkit / "dists" / "8.npz")
        np.testing.assert_array_equal(alone[f"{kind}-dists"], result[f"{kind}-dists"])
    (row,) = csv.DictReader((results / "identified" / "summary.csv").read_text().splitlines())
    assert (row["criterion"], row["metric"]) == ("calibrated", "correlation")
    assert 0 < float(row["delta_m"]) < 2**0.5  # unrelated images are sqrt(2) apart
    settings = args_of(arrays_of(toolkit / "times" / "8.npz"))["critical_times"]
    assert (settings["metric"], settings["network"]) == ("correlation", "correlation")


@pytest.mark.slow
def test_a_sampler_is_added(tmp_path):
    """It returns the exact model's patterns; half the step is a quarter of the error."""
    toolkit = extended(SAMPLER, tmp_path)
    run(SAMPLER, toolkit, [])
    result = arrays_of(toolkit / "synthetics" / "16.npz")
    assert args_of(result)["generate"]["steps"] == 50
    patterns = to_float(training_subset(args_of(result)).images).flatten(1).numpy()
    distances = cdist(result["samples"].reshape(64, -1), patterns, "chebyshev")
    assert distances.min(1).max() < 1e-3 and len(set(distances.argmin(1))) > 8

    spec = importlib.util.spec_from_file_location("changed", toolkit / "models" / "samplers.py")
    spec.loader.exec_module(changed := importlib.util.module_from_spec(spec))
    denoiser = GaussianDenoiser(std=0.2)
    x_T = SeededNoise(range(8), denoiser.shape).draw().double()
    end = x_T * (denoiser.variance(0) / denoiser.variance(999)).sqrt()

    def error(calls: int) -> float:
        images = changed.heun(denoiser, lambda: x_T, calls)
        return (images - denoiser.x_0(end, 0)).abs().max().item()

    assert 3.8 < error(199) / error(399) < 4.2


def python_blocks(title: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", SECTIONS[title], re.M | re.S)


def test_a_model_of_denoising_diffusion_pytorch(tmp_path, monkeypatch):
    """Trained there for 50 steps on digits, examined here by the commands of the page."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    torch.manual_seed(0)
    diffusion = GaussianDiffusion(Unet(dim=32, dim_mults=(1, 2), channels=1), image_size=8)
    images = real_digits(64) / 2 + 0.5  # it takes [0, 1]
    optimizer = torch.optim.Adam(diffusion.parameters(), 1e-3)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = diffusion(images[torch.randint(64, (16,))])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    torch.save(diffusion.state_dict(), tmp_path / "ddp.pt")
    (tmp_path / "ddp.py").write_text(python_blocks(MODEL)[0])
    monkeypatch.chdir(tmp_path)
    known = {"data": {"data_name": "digits"}, "train": {"train_size": 64, "global_seed": 3407}}
    stored = read_function("ddp.py:load", known)
    assert stored.args["train"]["beta_schedule"] == "sigmoid"
    denoiser, x_t = stored.build(torch.device("cpu"), "auto"), torch.randn(4, 1, 8, 8)
    for t in (0, 300, 999):
        theirs = diffusion.eval().model_predictions(x_t, torch.full((4,), t))
        torch.testing.assert_close(denoiser.eps(x_t, t), theirs.pred_noise, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(denoiser.x_0(x_t, t), theirs.pred_x_start, rtol=1e-3, atol=1e-3)
    small = {"run_generate.py": ["--num-samples", 8, "--steps", 4]}
    small["run_critical_times.py"] = ["--sample-size", 1, "--stride", 400, "--p-trials", 2]
    small["run_critical_times.py"] += ["--ddim-steps", 2, "--batch-size", 8]
    small["run_generalization.py"] = ["--t", 20, "--probe-size", 4, "--held-out-size", 20]
    for command in block(MODEL, "").splitlines():
        _, script, *words = shlex.split(command)
        ok(script, *words, *small.get(script, []), "--device", "cpu", run=run_here_in(tmp_path))
    for name in ("dists/64.npz", "times/64.npz", "generalization/64.json"):
        assert (tmp_path / "ddp" / name).exists()


def run_here_in(folder: Path):
    return lambda script, *flags: run_here(script, *flags, cwd=folder)


def test_a_network_in_the_form_of_edm(tmp_path, monkeypatch):
    """F = the network that makes the preconditioned denoiser the exact one of Gaussian data."""
    (tmp_path / "edm.py").write_text(python_blocks(MODEL)[1])
    (tmp_path / "edm_network.py").write_text(
        "import torch\n\n\nclass Network(torch.nn.Module):\n"
        "    def forward(self, x, c_noise):\n"
        "        return 0 * x\n\n\nF = Network()\n"
    )
    monkeypatch.chdir(tmp_path)
    known = {"data": {"data_name": "digits"}, "train": {"train_size": 8, "global_seed": 1}}
    denoiser = read_function("edm.py:load", known).build(torch.device("cpu"), "auto")
    gaussian = GaussianDenoiser(0.5, (1, 8, 8), torch.float32)  # F = 0 is right for N(0, 1/4)
    gaussian.schedule = denoiser.schedule
    x_t, near = torch.randn(5, 1, 8, 8), {"rtol": 1e-3, "atol": 1e-4}
    for t in (0, 500, 999):
        torch.testing.assert_close(denoiser.x_0(x_t, t), gaussian.x_0(x_t, t))
        if t:  # at the first time the score is a small difference, over 4e-6
            torch.testing.assert_close(denoiser.score(x_t, t), gaussian.score(x_t, t), **near)
    assert denoiser.schedule.timesteps == 1000
