"""CelebA and CelebA-HQ."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.images import noise, save_image
from tests.helpers.runs import complaint
from utils.data.datasets import load_image_set


def test_celeba_follows_its_partition(tmp_path):
    folder = tmp_path / "celeba" / "img_align_celeba"
    with complaint(str(folder), "no .jpg files", "--data-path"):
        load_image_set("celeba", tmp_path, 8, 3, centercrop=True)
    for i in range(4):
        save_image(folder / f"00000{i}.jpg", np.full((22, 18, 3), 60 * i, np.uint8))

    def brightness(split: str) -> list[int]:
        images = load_image_set("celeba", tmp_path, 8, 3, centercrop=True, split=split)
        return images.read(range(len(images))).float().mean((1, 2, 3)).round().int().tolist()

    assert brightness("train") == [0, 60, 120, 180]
    with complaint("list_eval_partition.txt", "no such file", "--pool-size"):
        brightness("test")
    parts = tmp_path / "celeba" / "list_eval_partition.txt"
    parts.write_text("000000.jpg 0\n000001.jpg 1\n000002.jpg 2\n000003.jpg 0\n")
    assert (brightness("train"), brightness("test")) == ([0, 180], [120])
    with complaint("000000.jpg", "18 x 22 pixels", "--centercrop"):
        load_image_set("celeba", tmp_path, 8, 3).read([0])
    parts.write_text("000000.jpg 0\n000009.jpg 0\n")
    with complaint("000009.jpg", "no such file"):
        brightness("train")
    parts.write_text("something else\nof three words\n")
    with complaint(str(parts), "lines of another kind"):
        brightness("train")


@pytest.mark.parametrize("inner", ["", "celebahq"])
def test_celebahq_takes_every_layout(tmp_path, inner):
    pixels = noise(4, 8, 8, 3)
    (tmp_path / inner).mkdir(exist_ok=True)
    first_channels = pixels.transpose(0, 3, 1, 2)
    layouts = [pixels[0], first_channels[1], first_channels[2:3], pixels[3:4]]
    for i, array in enumerate(layouts):
        np.save(tmp_path / inner / f"{i}.npy", array)
    images = load_image_set("celebahq", tmp_path, 8, 3)
    np.testing.assert_array_equal(images.read(range(4)), first_channels)
    assert load_image_set("celebahq", tmp_path, 4, 3, centercrop=True).read([1]).shape[2:] == (4, 4)
    with complaint("0.npy", "8 x 8 pixels", "--centercrop"):
        load_image_set("celebahq", tmp_path, 4, 3).read([0])
    with complaint("celebahq", "no official test split"):
        load_image_set("celebahq", tmp_path, 8, 3, split="test")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("low", [-1, 0])
def test_celebahq_floats_become_the_same_pixels(tmp_path, low, dtype):
    pixels = noise(2, 8, 8, 3)
    pixels[1] |= 128  # bright: in [-1, 1] it has no negative value, and must not pass for [0, 1]
    for i, image in enumerate(pixels):
        np.save(tmp_path / f"{i}.npy", (low + (1 - low) * (image / 255)).astype(dtype))
    images = load_image_set("celebahq", tmp_path, 8, 3)
    np.testing.assert_array_equal(images.read([0, 1]), pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((8, 8, 3), np.nan), ("nan", "[0, 1]")),
        (np.full((8, 8, 3), 255.0), ("255", "[0, 1]")),
        (np.full((8, 8, 3), -1.5), ("-1.5", "[-1, 1]")),
        (np.zeros((8, 8, 4)), ("shape [8, 8, 4]", "[H, W, 3]")),
        (np.zeros((2, 3, 8, 8), np.uint8), ("shape [2, 3, 8, 8]", "[3, H, W]")),
        (np.zeros((8, 8, 3), np.int64), ("int64", "uint8")),
        (np.zeros((8, 8, 3), np.uint16), ("uint16", "uint8")),
    ],
)
def test_celebahq_arrays_that_are_no_images_are_named(tmp_path, array, words):
    np.save(tmp_path / "bad.npy", array)
    with complaint("bad.npy", *words):
        load_image_set("celebahq", tmp_path, 8, 3).read([0])


def test_celebahq_without_arrays_or_with_damaged_ones(tmp_path):
    with complaint(str(tmp_path), "no .npy files", "--data-path"):
        load_image_set("celebahq", tmp_path, 8, 3)
    (tmp_path / "0.npy").write_bytes(b"\x93NUMPY cut")
    with complaint("0.npy"):
        load_image_set("celebahq", tmp_path, 8, 3)
