"""The picture of spurious states: which samples, which training images, which distances."""

import numpy as np
import pytest

from utils.stages.classify import stage
from utils.stages.classify.stage import draw_states
from utils.stages.distances.files import Distances

N, K = 12, 6


@pytest.fixture
def dists():
    """Every neighbour and every distance is another number."""
    data, synth = np.arange(N * 3).reshape(N, 3), np.arange(N * 4).reshape(N, 4)
    arrays = {
        "data-dists": data / 100 + 1,
        "data-indices": data % K,
        "synth-dists": synth / 100,
        "synth-indices": synth % N,
    }
    return Distances(arrays, "l2", "", "", {})


def images(count, first):
    return np.full((count, 1, 2, 2), first) + np.arange(count)[:, None, None, None]


def test_each_state_is_shown_beside_the_neighbours_of_its_first_sample(
    dists, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(stage, "states_figure", lambda *given: drawn.append(given))
    monkeypatch.setattr(stage, "save_figure", lambda figure, path: None)
    states = [np.array([5, 2, 7, 0, 1, 3]), np.array([9, 4, 8])]
    samples, real = images(N, 100), images(K, 200)
    draw_states(8, states, dists, samples, real, tmp_path / "states-8.png")
    k, members, near, d_members, d_near, metric = drawn[0]
    assert (k, metric) == (8, "l2")
    assert [m[:, 0, 0, 0].tolist() for m in members] == [[105, 102, 107, 100, 101], [109, 104, 108]]
    assert [d.tolist() for d in d_members] == [[0.20, 0.08, 0.28, 0.0, 0.04], [0.36, 0.16, 0.32]]
    assert [n[:, 0, 0, 0].tolist() for n in near] == [[203, 204, 205], [203, 204, 205]]
    assert [d.tolist() for d in d_near] == [[1.15, 1.16, 1.17], [1.27, 1.28, 1.29]]


def test_without_a_state_an_old_picture_is_removed(dists, tmp_path):
    for ending in ("png", "pdf"):
        (tmp_path / f"states-8.{ending}").touch()
    draw_states(8, [], dists, images(N, 0), images(K, 0), tmp_path / "states-8.png")
    assert not list(tmp_path.iterdir())
