"""A network that is a machine, or a mixture of two, is recognized; noise comes from seeds alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.denoiser import Denoiser
from models.machines.build import build_machine
from models.schedule import Schedule, add_noise, predict_eps
from tests.helpers.models import uniform
from utils.cli.options.choices import MACHINE_NAMES
from utils.cli.options.measures import MachinesOptions
from utils.stages.machines.explained import lead, mixture_weights, r2_of
from utils.stages.machines.measure import (
    Machines,
    copies,
    draw,
    noised,
    rows_of,
    sample_r2,
)

SCHEDULE = Schedule(60)
PATTERNS = 0.5 * uniform(6, 1, 6, 6, dtype=torch.float32)
OTHERS = 0.5 * uniform(10, 1, 6, 6, seed=1, dtype=torch.float32)
SETTINGS = MachinesOptions(
    t=(25, 40), sides=(3,), side_images=4, most_patches=20, batch_size=8, seed=7
)


class Sum(Denoiser):
    """The weighted sum of denoisers."""

    def __init__(self, weights, parts):
        self.weights, self.parts = weights, parts
        self.shape, self.schedule, self.device = parts[0].shape, SCHEDULE, parts[0].device

    def x_0(self, x_t, t):
        return sum(w * one.x_0(x_t, t) for w, one in zip(self.weights, self.parts, strict=True))

    def eps(self, x_t, t):
        return predict_eps(x_t, self.x_0(x_t, t), self.schedule.alpha_bar_at(t))


def machine(name, side=3, patterns=PATTERNS):
    sides = {"sides": side, "most_patches": 20} if name not in ("exact", "wiener") else {}
    return build_machine(name, patterns, SCHEDULE, **sides)


def machines_of(denoiser, patterns=PATTERNS, **changed):
    machines = Machines(patterns, SCHEDULE, replace(SETTINGS, **changed))
    machines.choose_sides(denoiser, int)
    return machines


@pytest.mark.parametrize("name", MACHINE_NAMES)
def test_a_network_that_is_a_machine_is_explained_by_it_alone(name):
    network = machine(name)
    machines, own = machines_of(network), list(MACHINE_NAMES).index(name)
    for group, images in (("training", PATTERNS), ("samples", OTHERS)):
        found = machines.compare(network, images, group, int)
        for gram, total in zip(found.gram, found.total, strict=True):
            r2 = r2_of(gram.sum(0), total.sum())
            assert r2[own] == 1 and (np.delete(r2, own) < 1 - 1e-6).all()
            assert lead(gram, total)[0] == own
            np.testing.assert_allclose(mixture_weights(gram.sum(0)), np.eye(5)[own], atol=1e-5)
    seeds = range(3, 7)
    drawn = machines.draw(seeds, "ddim", 5, int)
    r2 = sample_r2(draw(network, seeds, "ddim", 5, 3), drawn, machines.mean)
    np.testing.assert_allclose(r2[:, own], 1, atol=1e-9)
    assert (np.delete(r2, own, axis=1).min(0) < 1 - 1e-3).all()


def test_a_network_that_mixes_two_machines_has_their_weights():
    for names in (("wiener", "local"), ("exact", "equivariant")):
        network = Sum((0.3, 0.7), [machine(name) for name in names])
        found = machines_of(network).compare(network, OTHERS, "held-out", int)
        expected = np.zeros(5)
        expected[[list(MACHINE_NAMES).index(name) for name in names]] = 0.3, 0.7
        for gram in found.gram:
            np.testing.assert_allclose(mixture_weights(gram.sum(0)), expected, atol=1e-3)


@pytest.mark.parametrize("side", [3, 5])
def test_the_patch_side_of_a_local_network_is_found(side):
    many = uniform(24, 1, 9, 9, dtype=torch.float32)
    network = machine("local", side, many)
    found = machines_of(network, many, machines="local", sides=(7, 1, 5, 3), t=(30, 45))
    assert found.sides == {"local": {30: side, 45: side}}
    assert found.built["local"].side(SCHEDULE.alpha_bar_at(45).item()) == side


def test_of_about_equal_patch_sides_the_largest_is_taken():
    """With hardly any noise every patch of 3 x 3 and more tells which image it is of."""
    network = machine("local", 3)
    found = machines_of(network, machines="local", sides=(1, 3, 5, 7), t=(1,))
    assert found.sides == {"local": {1: 7}}


def test_no_patch_side_beyond_the_image_is_tried():
    machines = Machines(PATTERNS, SCHEDULE, replace(SETTINGS, sides=(23, 3, 15, 11)))
    assert machines.candidates == [3, 11]


def test_the_side_does_not_matter_where_a_network_gives_the_mean_image():
    network = Sum((1.0,), [machine("exact", patterns=PATTERNS[:1])])
    found = machines_of(network, PATTERNS[:1], machines="local", sides=(1, 5))
    assert set(found.sides["local"].values()) == {5}


def noise_of(images, t=5, seed=7, name="samples"):
    denoiser = machine("exact")
    x_t = noised(images, t, denoiser, seed, name)
    return x_t - add_noise(images, torch.zeros_like(images), SCHEDULE.alpha_bar_at(t))


def test_noise_comes_from_seed_set_time_and_image():
    first = noise_of(OTHERS)
    torch.testing.assert_close(noise_of(OTHERS), first, rtol=0, atol=0)
    turned = noise_of(OTHERS.flip(0)).flip(0)  # not from the place in a set
    torch.testing.assert_close(turned, first, rtol=0, atol=0)
    scale = (1 - SCHEDULE.alpha_bar_at(5)).sqrt()
    for other in (noise_of(OTHERS, seed=8), noise_of(OTHERS, name="training")):
        assert (other - first).abs().flatten(1).amax(1).min() > 0.1 * scale
    late = noise_of(OTHERS, t=6) / (1 - SCHEDULE.alpha_bar_at(6)).sqrt()
    assert (late - first / scale).abs().flatten(1).amax(1).min() > 0.1


def test_repeated_images_get_different_noise():
    images = copies(PATTERNS[:2], 5)
    assert torch.equal(images[[0, 1, 2, 3, 4]], PATTERNS[[0, 1, 0, 1, 0]])
    noise = noise_of(images)
    assert len(torch.unique(noise.flatten(1), dim=0)) == 5


def test_images_with_keys_have_their_noise_whatever_rounding_does():
    keys, denoiser = range(10), machine("exact")
    pairs = [
        noised(images, 5, denoiser, 7, "samples", keys) - SCHEDULE.alpha_bar_at(5).sqrt() * images
        for images in (OTHERS, OTHERS * (1 + 1e-6))
    ]
    torch.testing.assert_close(*pairs, rtol=0, atol=1e-5)


def test_the_size_of_a_batch_changes_rounding_only():
    network = Sum((0.3, 0.7), [machine("wiener"), machine("local")])
    one, all_ = (machines_of(network, batch_size=b) for b in (1, 100))
    found, expected = (m.compare(network, OTHERS, "samples", int) for m in (one, all_))
    np.testing.assert_allclose(found.gram, expected.gram, rtol=1e-4, atol=1e-6)
    assert one.sides == all_.sides


def test_rows_are_counted_as_they_are_done():
    done, network = [], machine("wiener")
    machines = Machines(PATTERNS, SCHEDULE, replace(SETTINGS, sides=(1, 3)))
    machines.choose_sides(network, done.append)
    machines.compare(network, OTHERS, "samples", done.append)
    machines.draw(range(3), "ddim", 4, done.append)
    assert sum(done) == rows_of(machines, [OTHERS], 3 * 4)


def test_numbers_that_are_none_are_refused():
    bad = Sum((float("nan"),), [machine("exact")])
    with pytest.raises(ValueError, match="NaN"):
        machines_of(machine("exact")).compare(bad, OTHERS, "samples", int)
    with pytest.raises(ValueError, match="NaN"):
        draw(bad, range(2), "ddim", 3, 4)
