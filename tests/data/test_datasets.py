"""Opening a data set: digits, conversion to float, and flags that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.runs import complaint
from utils.data.datasets import load_image_set, to_float


def test_to_float_has_the_bits_of_torchvision():
    from torchvision.transforms import Compose, Normalize, ToTensor

    theirs = Compose([ToTensor(), Normalize(0.5, 0.5)])
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ours = to_float(torch.from_numpy(ramp)[None, None])
    assert ours.dtype == torch.float32
    assert torch.equal(ours[0], theirs(Image.fromarray(ramp)))
    assert ours.min() == -1 and ours.max() == 1


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    digits = load_image_set("digits", "no/such/folder", 8, 1)
    assert (digits.name, digits.shape, len(digits)) == ("digits", (1, 8, 8), 1797)
    values = load_digits().images
    images = digits.read(range(1797))
    # 255 v / 16 is within half of the pixel: 0, 16, 32, 48, 64, ...
    assert np.abs(images[:, 0].numpy() - values * 255 / 16).max() <= 0.5
    assert images.unique().tolist()[:5] == [0, 16, 32, 48, 64] and images.max() == 255
    assert torch.equal(digits.read([5, 3]), digits.read(torch.tensor([5, 3])))
    assert digits.read([]).shape == (0, 1, 8, 8)


# Flags


@pytest.mark.parametrize(
    ("name", "size", "channels", "words"),
    [
        ("imagenet", 8, 3, ("--data-name", "imagenet", "choose digits, mnist")),
        ("digits", 8, 3, ("--in-channels", "3", "choose 1: digits is grey")),
        ("mnist", 28, 3, ("--in-channels", "3", "choose 1: mnist is grey")),
        ("cifar10", 32, 1, ("--in-channels", "1", "choose 3: cifar10 is in colour")),
        ("celeba", 64, 1, ("--in-channels", "1", "choose 3")),
        ("folder", 8, 2, ("--in-channels", "2", "choose 1 (grey) or 3 (colour)")),
        ("digits", 28, 1, ("--image-size", "28", "choose 8", "--centercrop")),
        ("folder", 8, 3, ("--data-path", "no such folder", "png, jpg")),
        ("photos", 32, 1, ("--in-channels", "1", "choose 3: photos is in colour")),
    ],
)
def test_flags_that_do_not_fit(tmp_path, name, size, channels, words):
    with complaint(*words):
        load_image_set(name, tmp_path / "absent", size, channels)


def test_the_home_of_a_user_who_does_not_exist():
    with complaint("--data-path ~no-such-user/images", "no such folder"):
        load_image_set("folder", "~no-such-user/images", 8, 3)


def test_an_empty_folder_and_a_missing_test_split(tmp_path):
    with complaint("--data-path", str(tmp_path), "no images in it"):
        load_image_set("folder", tmp_path, 8, 3)
    with complaint("digits", "no official test split", "--pool-size"):
        load_image_set("digits", "", 8, 1, split="test")
    with pytest.raises(ValueError, match="neither train nor test"):
        load_image_set("digits", "", 8, 1, split="valid")
