"""Files of the original toolkit give its numbers, through the functions of our scripts."""

import shutil

import numpy as np
import pytest

from utils import distances, generate
from utils.checkpoints import load_checkpoint
from utils.cli import parse
from utils.formats import load_dists, load_synthetics
from utils.options import DistancesStage, GenerateStage


def test_a_checkpoint_says_what_it_is(shared):
    checkpoint = load_checkpoint(shared / "reference" / "16.pt")
    assert checkpoint.k == 16 and checkpoint.args["data"]["data_name"] == "mnist"
    assert checkpoint.args["model"]["dim_mults"] == [1, 2]
    assert checkpoint.args["train"]["ema_warmup"] is False  # unknown there: our default


@pytest.mark.parametrize("network", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def test_distances_of_a_published_set(shared, tmp_path, network):
    (tmp_path / "s").mkdir()
    shutil.copy(shared / "reference" / "synthetics_128.npz", tmp_path / "s" / "128.npz")
    flags = ["--synth-path", tmp_path / "s", "--result-path", tmp_path / "d", "--use-lpips"]
    flags += ["--network", network, "--data-path", shared / "data", "--device", "cpu"]
    distances.run(parse(DistancesStage, [str(flag) for flag in flags]))
    found = load_dists(tmp_path / "d" / "128.npz")
    with np.load(shared / "reference" / f"dists_{network}_128.npz") as theirs:
        for key in ("data-indices", "synth-indices"):
            assert np.array_equal(found.arrays[key], theirs[key]), key
        for key in ("data-dists", "synth-dists"):
            np.testing.assert_allclose(found.arrays[key], theirs[key], rtol=0, atol=1e-6)


def test_a_published_checkpoint_generates(shared, tmp_path):
    flags = ["--ckpt-path", shared / "reference" / "16.pt", "--result-path", tmp_path / "g"]
    flags += ["--synth-path", tmp_path / "s", "--num-samples", 3, "--sampler", "ddim"]
    generate.run(parse(GenerateStage, [str(flag) for flag in [*flags, "--steps", 3]]))
    found = load_synthetics(tmp_path / "s" / "16.npz")
    assert found.samples.shape == (3, 1, 28, 28) and found.args["data"]["data_name"] == "mnist"
