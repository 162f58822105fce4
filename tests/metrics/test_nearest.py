"""Nearest images in each metric: the original's numbers, and any batch, block and budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import SHARED
from utils.cli.errors import UserError
from utils.data.datasets import to_float
from utils.descriptors.embedders import load_metric
from utils.files.arrays import read_npz
from utils.metrics.nearest import SearchSettings, nearest, nearest_images

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no reference arrays in {SHARED}")
KEYS = ("data-dists", "data-indices", "synth-dists", "synth-indices")


def mnist_subset(k: int) -> Tensor:
    """The K-subset of the MNIST files in shared/data: uint8 [K, 1, 28, 28]."""
    raw = (SHARED / "data/MNIST/raw/train-images-idx3-ubyte").read_bytes()[16:]
    images = torch.from_numpy(np.frombuffer(raw, np.uint8).copy()).view(-1, 1, 28, 28)
    perm = torch.randperm(len(images), generator=torch.Generator().manual_seed(3407))
    return images[perm[:k]]


def samples() -> Tensor:
    return torch.from_numpy(
        read_npz(SHARED / "reference/synthetics_128.npz", ["samples"])["samples"]
    )


def random_images(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 8, 8, generator=generator) * 2 - 1


@needs_shared
@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_equals_the_original(network):
    expected = read_npz(SHARED / f"reference/dists_{network}_128.npz", KEYS)
    embedder = load_metric(network, None, "cpu")
    settings = SearchSettings(reference_batch=50)
    result = nearest_images(embedder, samples(), mnist_subset(128), 5, settings)
    for kind in ("data", "synth"):
        np.testing.assert_array_equal(result[f"{kind}-indices"], expected[f"{kind}-indices"])
        dists = result[f"{kind}-dists"]
        np.testing.assert_allclose(dists, expected[f"{kind}-dists"], rtol=0, atol=1e-6)
        assert dists.dtype == np.float32 and result[f"{kind}-indices"].dtype == np.int64


@pytest.mark.parametrize("metric", ["l2", "alex"])
@pytest.mark.parametrize("memory_bytes", [None, 40_000, 1])
@pytest.mark.parametrize("batches", [(256, 256), (3, 7)])
def test_batches_and_budget_change_rounding_only(metric, memory_bytes, batches, capsys):
    embedder = load_metric(metric, None, "cpu")
    x, y = random_images(12), random_images(40, seed=1)
    whole = nearest_images(embedder, x, y, 4)
    parts = nearest_images(embedder, x, y, 4, SearchSettings(*batches, memory_bytes=memory_bytes))
    for kind in ("data", "synth"):
        np.testing.assert_array_equal(parts[f"{kind}-indices"], whole[f"{kind}-indices"])
        np.testing.assert_allclose(parts[f"{kind}-dists"], whole[f"{kind}-dists"], rtol=1e-5)
    said = "references pass by again for each" in capsys.readouterr().err
    # 12 embeddings take 3 kB (l2) or 276 kB (alex).
    assert said is (memory_bytes == 1 or (memory_bytes == 40_000 and metric == "alex"))


def test_l2_is_the_distance_itself():
    x, y = random_images(9), random_images(20, seed=1)
    result = nearest_images(load_metric("l2", None, "cpu"), x, y, 3)
    for kind, other in (("data", y), ("synth", x)):
        dists = (x.double().flatten(1)[:, None] - other.double().flatten(1)).norm(dim=2)  # [9, n]
        if kind == "synth":
            dists.fill_diagonal_(torch.inf)
        values, indices = dists.sort(dim=1)
        np.testing.assert_array_equal(result[f"{kind}-indices"], indices[:, :3])
        np.testing.assert_allclose(result[f"{kind}-dists"], values[:, :3], rtol=2e-7)


def test_lpips_is_the_squared_distance():
    embedder = load_metric("alex", None, "cpu")
    x, y = random_images(5), random_images(7, seed=1)
    dists, _ = nearest(embedder, x, y, 1)
    phi_x, phi_y = embedder(x).double(), embedder(y).double()
    expected = (phi_x[:, None] - phi_y).square().sum(2).min(1).values
    np.testing.assert_allclose(dists[:, 0], expected, rtol=1e-6)
    assert (embedder.name, embedder.squared) == ("alex", True)
    assert len(embedder.fingerprint) == 16


def test_each_image_is_embedded_once():
    counts = []
    x, y = random_images(12), random_images(40, seed=1)
    settings = SearchSettings(reference_batch=16, on_embedded=counts.append)
    nearest_images(load_metric("l2", None, "cpu"), x, y, 2, settings)
    assert counts == [12, 16, 16, 8]
    counts.clear()
    nearest(load_metric("l2", None, "cpu"), x, x, 2, exclude_self=True, settings=settings)
    assert counts == [12]


def test_bytes_are_the_data_sets_floats():
    u = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    assert to_float(u).min() == -1 and to_float(u).max() == 1
    l2 = load_metric("l2", None, "cpu")
    result, expected = nearest(l2, u, u, 4), nearest(l2, to_float(u), to_float(u), 4)
    np.testing.assert_array_equal(result[0], expected[0])
    assert (result[0][:, 0] == 0).all() and (result[1][:, 0] == np.arange(4)).all()


@pytest.mark.parametrize("n, k_train, data, synth", [(1, 3, 3, 0), (4, 1, 1, 3), (2, 9, 5, 1)])
def test_fewer_images_than_k(n, k_train, data, synth):
    result = nearest_images(
        load_metric("l2", None, "cpu"), random_images(n), random_images(k_train, 1), 5
    )
    assert result["data-dists"].shape == result["data-indices"].shape == (n, data)
    assert result["synth-dists"].shape == result["synth-indices"].shape == (n, synth)


def test_constant_and_equal_images():
    """A collapsed model: all samples black, and so is half of the training set."""
    black, x = -torch.ones(6, 1, 28, 28), torch.ones(3, 1, 28, 28)
    result = nearest_images(load_metric("alex", None, "cpu"), black, torch.cat([x, black]), 3)
    assert (result["data-dists"] == 0).all() and (result["data-indices"] == [3, 4, 5]).all()
    assert result["synth-indices"][0].tolist() == [1, 2, 3]
    assert result["synth-indices"][5].tolist() == [0, 1, 2]


def test_refuses_other_images():
    l2, x = load_metric("l2", None, "cpu"), random_images(4)
    with pytest.raises(ValueError, match="images: found"):
        nearest(l2, x, torch.ones(3, 1, 9, 9), 1)
    with pytest.raises(ValueError, match="images: found"):
        nearest(l2, x, x[:0], 1)
    with pytest.raises(ValueError, match="references: found 3 for 4 queries"):
        nearest(l2, x, x[:3], 1, exclude_self=True)
    with pytest.raises(ValueError, match="references: found NaN"):
        nearest(l2, x, torch.full_like(x, torch.nan), 1)
    with pytest.raises(UserError, match="--network: found resnet"):
        load_metric("resnet", None, "cpu")
