"""Tiles of photographs: where they come from, and that train and test share no pixel."""

import numpy as np

from tests.helpers.runs import complaint
from utils.data import photos
from utils.data.datasets import load_image_set


def test_there_are_thousands_in_colour():
    train, test = (load_image_set("photos", "", 32, 3, split=split) for split in ("train", "test"))
    assert train.shape == test.shape == (3, 32, 32)
    assert len(train) > 2000 and len(test) > 500
    images = train.read(range(len(train))).float()
    assert images.flatten(2).std(2).mean(1).min() > photos.CONTRAST - 1
    assert (images[:, 0] - images[:, 2]).abs().mean() > 5  # not grey


def test_train_and_test_share_no_pixel():
    ramp = np.arange(64 * 101 * 3, dtype=np.uint32).reshape(64, 101, 3)  # no value repeats
    kept = [np.unique(photos.cut(ramp, 16, split)) for split in ("train", "test")]
    assert all(len(values) for values in kept)
    assert not np.intersect1d(*kept).size


def test_tiles_are_cut_row_by_row_and_without_contrast_left_out():
    photograph = np.zeros((40, 128, 3), np.uint8)
    photograph[:, :48] = np.random.default_rng(0).integers(0, 256, (40, 48, 3))
    places = [(y, x) for y in (0, 8, 16, 24) for x in range(0, 81, 8)]
    tiles = [photograph[y : y + 16, x : x + 16] for y, x in places]
    kept = [tile for tile in tiles if tile.std((0, 1)).mean() >= 20]
    assert 0 < len(kept) < len(tiles)
    expected = np.stack(kept).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(photos.cut(photograph, 16, "train"), expected)
    blue = np.tile(np.uint8([9, 90, 200]), (32, 128, 1))  # its channels differ, its pixels do not
    assert not len(photos.cut(blue, 16, "train"))


def test_what_is_missing_or_too_large_is_named(monkeypatch):
    with complaint("--image-size", "4096"):
        load_image_set("photos", "", 4096, 3)
    monkeypatch.setattr(photos, "find_spec", lambda name: None)
    with complaint("--data-name photos", "china.jpg", "pip install scikit-learn scikit-image"):
        load_image_set("photos", "", 32, 3)
