"""The equivariant local denoiser: against loops over pairs of patches, shifts, chosen patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.exact import ExactDenoiser
from models.machines import equivariant as module
from models.machines.equivariant import EquivariantDenoiser
from models.machines.local import LocalDenoiser
from models.schedule import Schedule
from tests.helpers import machines as brute
from tests.helpers.images import real_digits
from tests.helpers.models import normal, uniform

SCHEDULE = Schedule()
TIMES = (0, 30, 300, 999)
SHAPES = {"grey": (4, 1, 5, 6), "colour": (3, 3, 4, 3)}


def brute_force(patterns, x, t, side, borders, chosen=None):
    a, circular = SCHEDULE.alpha_bar[t].item(), borders == "circular"
    images = [
        brute.equivariant(patterns.numpy(), image, a, side, circular, chosen) for image in x.numpy()
    ]
    return torch.from_numpy(np.stack(images))


@pytest.mark.parametrize(
    ("borders", "shape", "side"),
    [("image", shape, side) for shape in SHAPES for side in (1, 3, 5)]
    + [("circular", "grey", 3), ("circular", "grey", 5), ("circular", "colour", 3)],
)
@pytest.mark.parametrize("t", TIMES)
def test_against_loops(borders, shape, side, t):
    patterns = uniform(*SHAPES[shape])
    x = brute.points(patterns, t, SCHEDULE)[:2]
    result = EquivariantDenoiser(patterns, SCHEDULE, side, borders).x_0(x, t)
    expected = brute_force(patterns, x, t, side, borders)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("t", [*TIMES, torch.tensor([2, 40, 400, 999])])
@pytest.mark.parametrize("shape", [(9, 1, 5, 6), (6, 3, 4, 3), (8, 2, 6, 3)])
def test_a_patch_as_large_as_the_image_is_the_exact_model(shape, t):
    patterns = uniform(*shape)
    x = brute.points(patterns, 200 if isinstance(t, torch.Tensor) else t, SCHEDULE)
    result = EquivariantDenoiser(patterns, SCHEDULE, 2 * max(shape[2:]) - 1).x_0(x, t)
    exact = ExactDenoiser(patterns, SCHEDULE).x_0(x, t)
    torch.testing.assert_close(result, exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("borders", ["image", "circular"])
def test_a_patch_of_one_pixel_is_the_posterior_mean_over_all_pixels(borders):
    patterns, x, a = uniform(3, 3, 4, 5), normal(2, 3, 4, 5), SCHEDULE.alpha_bar_at(300)
    pixels = patterns.movedim(1, -1).reshape(-1, 3)  # [K H W, C]
    own = x.movedim(1, -1)[..., None, :]  # [B, H, W, 1, C]
    w = (-(own - a.sqrt() * pixels).square().sum(-1) / (2 * (1 - a))).softmax(-1)
    result = EquivariantDenoiser(patterns, SCHEDULE, 1, borders).x_0(x, 300)
    torch.testing.assert_close(result, (w @ pixels).movedim(-1, 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (3, 2)])
@pytest.mark.parametrize("side", [1, 3, 5])
def test_it_commutes_with_circular_shifts(side, shift):
    patterns, x = uniform(5, 3, 5, 6), normal(2, 3, 5, 6)
    denoiser = EquivariantDenoiser(patterns, SCHEDULE, side, "circular")
    whole, t = denoiser.x_0(x, 300).roll(shift, (2, 3)), 300
    torch.testing.assert_close(denoiser.x_0(x.roll(shift, (2, 3)), t), whole, rtol=0, atol=1e-12)
    # What the patterns show does not depend on where they show it.
    moved = EquivariantDenoiser(patterns.roll(shift, (2, 3)), SCHEDULE, side, "circular")
    torch.testing.assert_close(moved.x_0(x, t).roll(shift, (2, 3)), whole, rtol=0, atol=1e-12)


def test_inside_it_commutes_with_shifts_and_at_the_borders_it_does_not():
    patterns, x = uniform(5, 1, 7, 7), normal(1, 1, 7, 7)
    denoiser = EquivariantDenoiser(patterns, SCHEDULE, 3)
    moved = denoiser.x_0(x.roll(1, 3), 300)
    whole = denoiser.x_0(x, 300).roll(1, 3)
    inside = (..., slice(1, 6), slice(2, 6))  # inside before and after
    torch.testing.assert_close(moved[inside], whole[inside], rtol=0, atol=1e-12)
    assert (moved[..., 1] - whole[..., 1]).abs().max() > 1e-3


def test_corners_are_those_of_the_local_machine():
    patterns, x = uniform(5, 1, 8, 8), normal(2, 1, 8, 8)
    result = EquivariantDenoiser(patterns, SCHEDULE, 5).x_0(x, 300)
    local = LocalDenoiser(patterns, SCHEDULE, 5).x_0(x, 300)
    torch.testing.assert_close(result[..., :2, -2:], local[..., :2, -2:], rtol=0, atol=1e-12)
    assert (result[..., 2:-2, 0] - local[..., 2:-2, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("borders", ["image", "circular"])
@pytest.mark.parametrize("entries", [1, 50, 400])
@pytest.mark.parametrize("most_patches", [None, 7])
def test_parts_change_nothing(monkeypatch, borders, entries, most_patches):
    patterns = uniform(4, 3, 5, 6)
    x = brute.points(patterns, 300, SCHEDULE)
    denoiser = EquivariantDenoiser(patterns, SCHEDULE, 3, borders, most_patches)
    whole = denoiser.x_0(x, 300)
    monkeypatch.setattr(module, "TILE_ENTRIES", entries)
    torch.testing.assert_close(denoiser.x_0(x, 300), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("borders", ["image", "circular"])
def test_as_many_patches_as_there_are_is_all(borders):
    patterns, x = uniform(4, 1, 5, 6), normal(2, 1, 5, 6)
    whole = EquivariantDenoiser(patterns, SCHEDULE, 3, borders).x_0(x, 300)
    many = EquivariantDenoiser(patterns, SCHEDULE, 3, borders, most_patches=4 * 30)
    assert torch.equal(many.x_0(x, 300), whole)
    fewer = EquivariantDenoiser(patterns, SCHEDULE, 3, borders, most_patches=11)
    assert (fewer.x_0(x, 300) - whole).abs().max() > 1e-3


class Fixed:
    """Draws the numbers n, n - d, n - 2 d ..., and remembers the seeds."""

    seeds: list = []  # noqa: RUF012

    def __init__(self, seed):
        self.seeds.append(tuple(seed))

    def choice(self, total, count, replace, shuffle):
        assert count < total and not replace
        return self.numbers(total, count)

    @staticmethod
    def numbers(total, count):
        return np.arange(total - 1, -1, -(total // count))[:count]


@pytest.mark.parametrize("borders", ["image", "circular"])
@pytest.mark.parametrize("side", [3, 5])
def test_chosen_patches_against_loops(monkeypatch, borders, side):
    patterns, most = uniform(4, 3, 6, 7), 9
    x = brute.points(patterns, 300, SCHEDULE)[:2]

    def alike(i, size):  # the places of an axis with the same borders
        if borders == "circular":
            return range(size)
        inside = range(side // 2, size - side // 2)
        return inside if i in inside else [i]

    def chosen(i):
        rows, columns = alike(i[0], 6), alike(i[1], 7)
        kind = [(m, (r, c)) for m in range(4) for r in rows for c in columns]
        few = len(kind) <= most or len(rows) == len(columns) == 1
        return kind if few else [kind[n] for n in Fixed.numbers(len(kind), most)]

    monkeypatch.setattr(Fixed, "seeds", [])
    monkeypatch.setattr(np.random, "default_rng", Fixed)
    denoiser = EquivariantDenoiser(patterns, SCHEDULE, side, borders, most, seed=3)
    result = denoiser.x_0(x, 300)
    expected = brute_force(patterns, x, 300, side, borders, chosen)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)
    # Each kind of border has its own draw.
    assert len(set(Fixed.seeds)) == len(Fixed.seeds) and {s[0] for s in Fixed.seeds} == {3}


def test_chosen_patches_are_fixed_by_the_seed():
    patterns, x = real_digits(30).double(), normal(3, 1, 8, 8)

    def x_0(seed, most=40, x=x):
        return EquivariantDenoiser(patterns, SCHEDULE, 3, most_patches=most, seed=seed).x_0(x, 300)

    first = x_0(1)
    assert torch.equal(x_0(1), first) and (x_0(2) - first).abs().max() > 1e-3
    assert torch.equal(x_0(1, x=x[1:2]), first[1:2])


def test_a_single_chosen_patch_is_one_of_the_patterns():
    """Then D is its centre, the same at all positions; over many seeds all patches are drawn."""
    patterns, x = uniform(2, 3, 3, 4), normal(1, 3, 3, 4)
    known = patterns.movedim(1, -1).reshape(-1, 3)  # [24, C]
    drawn = []
    for seed in range(200):
        denoiser = EquivariantDenoiser(patterns, SCHEDULE, 3, "circular", 1, seed)
        result = denoiser.x_0(x, 100)[0]
        assert (result == result[:, :1, :1]).all()
        (number,) = (known == result[:, 0, 0]).all(1).nonzero()[:, 0].tolist()
        drawn.append(number)
    assert set(drawn) == set(range(24))


def test_more_patches_come_closer():
    patterns, x = real_digits(60).double(), normal(4, 1, 8, 8)
    whole = EquivariantDenoiser(patterns, SCHEDULE, 3).x_0(x, 400)
    errors = []
    for most in (20, 200, 2000):
        several = [
            EquivariantDenoiser(patterns, SCHEDULE, 3, most_patches=most, seed=seed).x_0(x, 400)
            for seed in range(4)
        ]
        errors.append((torch.stack(several) - whole).square().mean().item())
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 0


@pytest.mark.parametrize("most_patches", [0, -1])
def test_no_patches_are_refused(most_patches):
    with pytest.raises(ValueError, match=rf"most_patches: found {most_patches}; choose 1 or more"):
        EquivariantDenoiser(uniform(2, 1, 3, 3), SCHEDULE, 3, most_patches=most_patches)


@pytest.mark.parametrize("shape", [(2, 1, 4, 6), (2, 1, 6, 4)])
def test_patches_that_meet_themselves_are_refused(shape):
    EquivariantDenoiser(uniform(*shape), SCHEDULE, {0: 1, 5: 3}, "circular")
    EquivariantDenoiser(uniform(*shape), SCHEDULE, 5)
    with pytest.raises(ValueError, match="sides: found 5; choose 4 or less"):
        EquivariantDenoiser(uniform(*shape), SCHEDULE, {0: 1, 5: 5}, "circular")


def test_a_patch_may_be_as_large_as_the_torus():
    patterns, x = uniform(2, 1, 5, 6), normal(1, 1, 5, 6)
    result = EquivariantDenoiser(patterns, SCHEDULE, 5, "circular").x_0(x, 300)
    expected = brute_force(patterns, x, 300, 5, "circular")
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)
