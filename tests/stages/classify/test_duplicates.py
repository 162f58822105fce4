"""Copies of training images that occur twice, which the published ratio misses, are found."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.helpers.images import digits_args, real_digits, save_image
from tests.helpers.runs import DIGITS, ok, run_here
from utils.cli.options.sections import TrainStage
from utils.cli.parse import parse
from utils.data.subsets import training_subset
from utils.descriptors.embedders import load_metric
from utils.evidence.duplicates import duplicate_groups
from utils.inputs.samples import save_synthetics
from utils.stages.classify.held_out import measure_held_out
from utils.stages.train.stage import training_args

COPIED = 5


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize("noise", [0, 0.004])
def test_copies_of_images_that_occur_twice_are_memorized(tmp_path, twice, noise):
    digits = real_digits(40)
    pixels = np.rint((digits.numpy() + 1) * 127.5)
    draw = np.random.default_rng(0)
    second = np.clip(
        pixels[:COPIED] + 255 * noise * draw.standard_normal((COPIED, 1, 8, 8)), 0, 255
    )
    images = np.concatenate([pixels, np.rint(second)]) if twice else pixels
    for i, image in enumerate(images):
        save_image(tmp_path / "data" / f"{i:03d}.png", image[0].astype(np.uint8))
    flags = ["--config_path", DIGITS, "--data-name", "folder", "--data-path", tmp_path / "data"]
    args = training_args(parse(TrainStage, [*map(str, flags), "--train-size", str(len(images))]))
    samples = pixels[:COPIED] / 127.5 - 1 + 0.02 * draw.standard_normal((COPIED, 1, 8, 8))
    new = real_digits(90)[80:].numpy()
    both = np.concatenate([samples, new]).clip(-1, 1).astype(np.float32)
    save_synthetics(tmp_path / "s" / f"{len(images)}.npz", both, args)
    ok(
        "run_distances.py",
        "--synth-path",
        tmp_path / "s",
        "--result-path",
        tmp_path / "d",
        run=run_here,
    )
    paths = ["--dist-path", tmp_path / "d", "--eval-path", tmp_path / "s"]
    told = ok(
        *("run_classify.py", *paths, "--result-path", tmp_path / "i", "--criterion", "ratio"),
        run=run_here,
    ).stdout
    row = json.loads((tmp_path / "i" / "summary" / f"{len(images)}.json").read_text())["row"]
    assert row["memorized"] == COPIED
    assert ("5 groups of duplicates (10 images)" in told) == twice


def test_the_control_passes_over_duplicates_too():
    """Held-out images beside 16 digits, of which 8 occur twice: the distances are those to 16."""
    args, l2 = digits_args(16), load_metric("l2", None, "cpu")
    train = training_subset(args).images
    twice = torch.cat([train, train[:8]])
    expected = measure_held_out(args, l2, train, 100)
    found = measure_held_out(args, l2, twice, 100, groups=duplicate_groups(l2, twice))
    np.testing.assert_allclose(found.near, expected.near, rtol=1e-6)
    assert (measure_held_out(args, l2, twice, 100).near[:, 0] == found.near[:, 0]).all()
    assert (measure_held_out(args, l2, twice, 100).near[:, 1] < found.near[:, 1]).any()
