"""Small valid files to damage, and limits on what reading a damaged one may cost."""

import io
import resource
import sys

import numpy as np
import pytest
import torch

from tests.helpers.formats import PARSE_UTILS
from tests.helpers.runs import train_options
from utils.inputs.checkpoints import Checkpoint, save_checkpoint
from utils.inputs.samples import save_synthetics
from utils.stages.train import stage as train

MEGABYTES = 300  # that reading a small file may take, at most


@pytest.fixture
def quiet_and_small(capfd):
    """Nothing is printed, and a file of kilobytes does not take a gigabyte."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert capfd.readouterr() == ("", "")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit < MEGABYTES


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Small sound files, ours and as the original writes them, by name: their bytes."""
    folder = tmp_path_factory.mktemp("whole")
    args = train.training_args(train_options(folder))
    generator = torch.Generator().manual_seed(0)
    weights = {f"layer.{i}": torch.randn(2, 3, generator=generator) for i in range(3)}
    opt = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]}
    samples = np.random.default_rng(0).uniform(-1, 1, (2, 1, 8, 8)).astype(np.float32)
    save_checkpoint(folder / "8.pt", Checkpoint(weights, weights, opt, args, 12))
    save_synthetics(folder / "8.npz", samples, args)
    result = {f"ours{suffix}": (folder / f"8{suffix}").read_bytes() for suffix in (".pt", ".npz")}
    names = {}
    try:
        exec(PARSE_UTILS, names)
        theirs = names["namespace"]("whole")
        model = {f"module.{name}": value for name, value in weights.items()}
        content = {"model": model, "ema": weights, "opt": opt, "args": theirs, "iterations": 12}
        file, arrays = io.BytesIO(), io.BytesIO()
        torch.save(content, file)
        np.savez(arrays, samples=samples, args=np.array(theirs, dtype=object))
    finally:
        sys.modules.pop("parse_utils", None)
    result |= {"theirs.pt": file.getvalue(), "theirs.npz": arrays.getvalue()}
    return result
