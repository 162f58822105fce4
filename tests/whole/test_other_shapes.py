"""Images that are not square, and latents of four channels, through every stage."""

import csv

import numpy as np
import pytest

from tests.helpers.runs import assert_one_line, ok, run_here

CPU = ["--device", "cpu", "--precision", "float32"]
CODE = """
import numpy as np
import torch

from models.exact import ExactDenoiser
from models.schedule import Schedule


def load(device):
    return ExactDenoiser(torch.from_numpy(np.load("train.npy")).to(device), Schedule(60, "cosine"))
"""
SHAPES = {"wide": (1, 6, 10), "tall colour": (3, 12, 8), "latents": (4, 8, 8)}


def images(count, shape, seed=0):
    """Pictures in [-1, 1] on 8-bit levels; latents in any range."""
    draw = np.random.default_rng(seed)
    if shape[0] == 4:
        return draw.normal(0, 3, (count, *shape)).astype(np.float32)
    return (draw.integers(0, 256, (count, *shape)) / 127.5 - 1).astype(np.float32)


@pytest.mark.parametrize("name", SHAPES)
def test_every_stage_takes_other_shapes(tmp_path, name):
    """The exact model of 20 images as a model made elsewhere: its samples are these images."""
    shape = SHAPES[name]
    np.save(tmp_path / "train.npy", images(20, shape))
    (tmp_path / "own.py").write_text(CODE)
    own = ["--model", "own.py:load", "--train", "train.npy"]

    def run(script, *flags):
        return ok(script, *flags, *CPU, run=lambda *a: run_here(*a, cwd=tmp_path))

    sampling = ["--num-samples", 6, "--sampler", "ddim", "--steps", 20]
    run("run_generate.py", *own, *sampling, "--result-path", "g", "--synth-path", "s")
    with np.load(tmp_path / "s" / "20.npz") as file:
        samples = file["samples"]
    assert samples.shape == (6, *shape)
    apart = np.abs(samples[:, None] - images(20, shape)[None]).max((2, 3, 4)).min(1)
    assert apart.max() < 0.1
    run("run_distances.py", "--synth-path", "s", "--result-path", "d")
    with np.load(tmp_path / "d" / "20.npz") as file:
        assert file["data-dists"][:, 0].max() < 1 < file["data-dists"][:, 1].min()
    judged = ["--dist-path", "d", "--eval-path", "s", "--result-path", "c"]
    run("run_classify.py", *judged, "--criterion", "ratio")
    (row,) = csv.DictReader((tmp_path / "c" / "summary.csv").read_text().splitlines())
    assert row["memorized"] == "6"
    few = ["--sample-path", "s", "--sample-size", 2, "--batch-size", 8]
    quick = ["--stride", 20, "--p-trials", 2, "--ddim-steps", 3, "--delta", 2]
    run("run_critical_times.py", *own, *few, *quick, "--result-path", "t")
    refs = ["--ref-path", "s/20.npz", "--ref-range=-1,1", "--path-points", 4, "--t", 3]
    run("run_energy.py", *own, *few, *refs, "--result-path", "e")
    run("run_curvature.py", *own, *few, "--t", 5, "--normal-points", 0, "--result-path", "k")
    for folder in ("t", "e", "k"):
        assert (tmp_path / folder / "20.npz").exists()


def test_lpips_refuses_latents(tmp_path):
    np.save(tmp_path / "train.npy", images(20, (4, 8, 8)))
    np.savez(tmp_path / "20.npz", samples=images(5, (4, 8, 8), 1), args='{"x": 1}')
    flags = ["--synth-path", "20.npz", "--train", "train.npy", "--result-path", "d", *CPU]
    failed = run_here("run_distances.py", *flags, "--use-lpips", cwd=tmp_path)
    assert_one_line(failed, "--metric alex", "images of 4 channels", "choose --metric l2")


@pytest.mark.parametrize("name", ["wide", "latents"])
def test_a_model_of_diffusers_of_other_shapes(tmp_path, name):
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    channels, height, width = (1, 8, 16) if name == "wide" else (4, 8, 8)
    torch.manual_seed(0)
    blocks = {"block_out_channels": (32,), "layers_per_block": 1}
    blocks |= {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    size = {"sample_size": (height, width), "in_channels": channels, "out_channels": channels}
    unet = UNet2DModel(**blocks, **size)
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(40)).save_pretrained(tmp_path / "m" / "20")
    np.save(tmp_path / "train.npy", images(20, (channels, height, width)))
    flags = ["--ckpt-path", "m/20", "--train", "train.npy", "--num-samples", 3, "--steps", 3]
    flags += ["--sampler", "ddim", "--result-path", "g", "--synth-path", "s", *CPU]
    ok("run_generate.py", *flags, run=lambda *a: run_here(*a, cwd=tmp_path))
    with np.load(tmp_path / "s" / "20.npz") as file:
        assert file["samples"].shape == (3, channels, height, width)
        assert np.isfinite(file["samples"]).all()
