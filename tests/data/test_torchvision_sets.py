"""MNIST, FashionMNIST and CIFAR-10 in torchvision's layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.images import offline, small_cifar
from tests.helpers.runs import complaint
from utils.data.datasets import load_image_set


def test_mnist_in_torchvisions_layout(shared):
    train = load_image_set("mnist", shared / "data", 28, 1)
    test = load_image_set("mnist", str(shared / "data"), 28, 1, split="test")
    assert (len(train), len(test), train.shape) == (5000, 500, (1, 28, 28))
    raw = (shared / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()
    pixels = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    np.testing.assert_array_equal(train.read([0, 4999]), pixels[[0, 4999]])


def test_mnist_cut_short_is_named(shared, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (shared / "data" / "MNIST" / "raw").iterdir():
        (raw / path.name).write_bytes(path.read_bytes()[:1000])
    with complaint(str(tmp_path / "MNIST"), "no readable MNIST", "delete it"):
        load_image_set("mnist", tmp_path, 28, 1)


@pytest.mark.parametrize(
    ("name", "folder", "size", "channels"),
    [
        ("mnist", "MNIST", 28, 1),
        ("fashionmnist", "FashionMNIST", 28, 1),
        ("cifar10", "cifar-10-batches-py", 32, 3),
    ],
)
def test_without_internet_one_line_says_what_to_copy(
    name, folder, size, channels, tmp_path, monkeypatch
):
    for module in ("mnist", "cifar"):
        where = f"torchvision.datasets.{module}.download_and_extract_archive"
        monkeypatch.setattr(where, offline)
    with complaint(str(tmp_path / folder), "no internet", f"copy {folder} there", "--data-path"):
        load_image_set(name, tmp_path, size, channels)
    assert list(tmp_path.iterdir()) == []  # nothing half done is left


def test_cifar10_in_its_own_format(tmp_path, monkeypatch):
    pixels = small_cifar(tmp_path, monkeypatch)
    train = load_image_set("cifar10", tmp_path, 32, 3)
    np.testing.assert_array_equal(train.read(range(10)), pixels[:10])
    test = load_image_set("cifar10", tmp_path, 32, 3, split="test")
    np.testing.assert_array_equal(test.read([1, 0]), pixels[[11, 10]])
    small = load_image_set("cifar10", tmp_path, 16, 3, centercrop=True)
    means = pixels[0].astype(float).reshape(3, 16, 2, 16, 2).mean((2, 4))
    assert np.abs(small.read([0])[0].numpy() - means).max() <= 1  # each axis rounds up


def test_a_download_is_complete_or_absent(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    def fetch(url, root, **kwargs):
        small_cifar(Path(root), monkeypatch)

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    target = tmp_path / "data"
    assert len(load_image_set("cifar10", target, 32, 3)) == 10
    assert [path.name for path in target.iterdir()] == [CIFAR10.base_folder]
