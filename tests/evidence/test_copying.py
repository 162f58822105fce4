"""Samples, training and held-out images compared: cells, gaps, neighbours of each."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers.images import real_digits
from utils.data.subsets import permutation
from utils.descriptors.embedders import load_metric
from utils.evidence.copying import (
    Cells,
    Near,
    copying_tests,
    nearest_in_cells,
    nearest_within,
    partition,
)
from utils.metrics.nearest import nearest


@pytest.fixture(scope="module")
def digits():
    """Every digit, shuffled: [1797, 1, 8, 8] in [-1, 1]."""
    return real_digits()[permutation(1797, 0)]


@pytest.fixture(scope="module")
def l2():
    return load_metric("l2", None, "cpu")


def test_the_gap_of_a_training_image_is_to_another_one_even_of_a_copy(digits, l2):
    train = torch.cat([digits[:20], digits[:1]])  # the first is there twice
    gaps = nearest_within(l2, train, (np.array([0, 3, 3]), np.array([20])), None)
    assert [len(part) for part in gaps] == [3, 1]
    assert gaps[0][0] == gaps[1][0] == 0
    apart = (train[3] - train).flatten(1).norm(dim=1).sort().values[1].item()
    assert gaps[0][1] == gaps[0][2] == pytest.approx(apart, rel=1e-6)


def test_cells_are_the_same_each_time_and_no_more_than_images(digits):
    again = [partition(digits[:50], Cells(4, 7), digits[50:99]) for _ in range(2)]
    for one, other in zip(*again):
        assert (one == other).all() and len(np.unique(one)) == 4
    assert set(partition(digits[:2], Cells(), digits[:9])[1]) == {0, 1}


def test_every_cell_has_a_training_image(digits, monkeypatch):
    """Also where k-means has seen a part of the training images only, and where some are equal."""
    monkeypatch.setattr("utils.evidence.copying.CLUSTERED", 30)
    for train in (digits[:200], digits[:20].repeat(3, 1, 1, 1)):
        own, others = partition(train, Cells(25, 1), digits[900:])
        assert len(own) == len(train) and set(others) <= set(own)


def test_the_nearest_training_image_of_the_same_cell(digits, l2):
    """Against all distances, those to training images of other cells made infinite."""
    train, images = digits[:300], digits[300:700]
    own, cells = partition(train, Cells(6, 3), images)
    near, index = nearest(l2, images, train, 2)
    apart = torch.cdist(images.flatten(1).double(), train.flatten(1).double()).numpy()
    apart[cells[:, None] != own] = np.inf
    for metric, power in ((l2, 1), (replace(l2, squared=True), 2)):
        found = nearest_in_cells(metric, images, Near(near**power, index), cells, train, own, None)
        np.testing.assert_allclose(found, apart.min(1) ** power, rtol=1e-5)
    assert (found > near[:, 0] ** 2 * 1.001).any()  # some are nearest to one of another cell


@pytest.mark.parametrize("squared", [False, True])
def test_copies_of_images_that_occur_twice_are_found_by_the_ratio(digits, l2, squared):
    """Published, d_2 is the distance to the second of the two, and all copies are missed."""
    metric = replace(l2, squared=squared)
    once, held_out = digits[:40], digits[1000:1200]
    copies = once + 0.01 * torch.randn(once.shape, generator=torch.Generator().manual_seed(0))
    for train in (once, once.repeat(2, 1, 1, 1), torch.cat([once, 0.99 * once])):
        tests, arrays = copying_tests(metric, copies, train, held_out, Cells())
        found = {one.test: one for one in tests}["ratio"]
        assert found.details["samples"] == 1 and found.details["held out"] < 0.1
        apart = np.sort(torch.cdist(copies.flatten(1), once.flatten(1)).numpy(), axis=1)
        second = apart[:, 1] ** 2 if squared else apart[:, 1]
        if train[-40:].equal(once):
            np.testing.assert_allclose(arrays["sample-distances"][:, 1], second, rtol=1e-3)
