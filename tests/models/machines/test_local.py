"""Local and PCA-local denoisers: against loops over pixels and patterns, and known limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.exact import ExactDenoiser
from models.machines import local as module
from models.machines.local import LocalDenoiser, PcaLocalDenoiser, PosteriorMean
from models.machines.wiener import WienerDenoiser
from models.schedule import Schedule
from tests.helpers import machines as brute
from tests.helpers.images import real_digits
from tests.helpers.models import normal, uniform

SCHEDULE = Schedule()
TIMES = (0, 30, 300, 999)
SHAPES = {"grey": (9, 1, 5, 6), "colour": (6, 3, 4, 3)}
EACH_TIME = torch.tensor([2, 40, 400, 999])


def brute_force(patterns, x, t, neighbours):
    a = SCHEDULE.alpha_bar[t].item()
    images = [brute.local(patterns.numpy(), image, a, neighbours) for image in x.numpy()]
    return torch.from_numpy(np.stack(images))


@pytest.mark.parametrize("borders", ["image", "circular"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [1, 3, 5, 7])
@pytest.mark.parametrize("t", TIMES)
def test_local_against_loops(borders, shape, side, t):
    patterns = uniform(*SHAPES[shape])
    x, size = brute.points(patterns, t, SCHEDULE), SHAPES[shape][2:]
    expected = brute_force(
        patterns, x, t, lambda i: brute.square(size, i, side, borders == "circular")
    )
    result = LocalDenoiser(patterns, SCHEDULE, side, borders).x_0(x, t)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("t", TIMES)
def test_pca_local_against_loops(shape, side, t):
    patterns = uniform(*SHAPES[shape])
    x = brute.points(patterns, t, SCHEDULE)
    neighbours = brute.of_largest_weights(patterns.numpy(), SCHEDULE.alpha_bar[t].item(), side)
    result = PcaLocalDenoiser(patterns, SCHEDULE, side).x_0(x, t)
    expected = brute_force(patterns, x, t, neighbours)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)


def test_neighbours_follow_correlations_wherever_they_are():
    """Pixels 0 and 5 of a row are equal but for a little, all others independent."""
    patterns = uniform(400, 1, 1, 6)
    patterns[..., 5] = patterns[..., 0] + 0.01 * patterns[..., 5]
    a = SCHEDULE.alpha_bar[600].item()
    pairs = PcaLocalDenoiser(patterns, SCHEDULE, 1).neighbours(a, 2)
    assert pairs[0].tolist() == pairs[5].tolist() == [1, 0, 0, 0, 0, 1]
    assert (pairs.sum(1) == 2).all() and (pairs.diagonal() == 1).all()


def test_neighbours_change_with_time():
    """A pixel of its own variance first; at large noise also those that help."""
    patterns, x = real_digits(200).double(), normal(3, 1, 8, 8)
    denoiser = PcaLocalDenoiser(patterns, SCHEDULE, 3)
    for t in (400, 10, 900, 10):  # and the answer of another time is not kept
        fresh = PcaLocalDenoiser(patterns, SCHEDULE, 3)
        assert torch.equal(denoiser.x_0(x, t), fresh.x_0(x, t))
    early, late = (denoiser.neighbours(SCHEDULE.alpha_bar[t].item(), 9) for t in (10, 900))
    assert (early != late).any()


@pytest.mark.parametrize("t", [*TIMES, EACH_TIME])
@pytest.mark.parametrize("shape", [*SHAPES.values(), (8, 2, 6, 3)])
def test_a_patch_as_large_as_the_image_is_the_exact_model(shape, t):
    patterns = uniform(*shape)
    height, width = shape[2:]
    x = brute.points(patterns, 200 if t is EACH_TIME else t, SCHEDULE)
    covering = 2 * max(height, width) - 1
    around = max(height, width) // 2 * 2 + 1  # on a torus
    machines = [
        LocalDenoiser(patterns, SCHEDULE, covering),
        LocalDenoiser(patterns, SCHEDULE, around, "circular"),
        PcaLocalDenoiser(patterns, SCHEDULE, around),
    ]
    exact = ExactDenoiser(patterns, SCHEDULE)
    for machine in machines:
        torch.testing.assert_close(machine.x_0(x, t), exact.x_0(x, t), rtol=0, atol=1e-10)
    # And no smaller one is, seen from a corner.
    smaller = LocalDenoiser(patterns, SCHEDULE, covering - 2).x_0(x, 500)
    assert (smaller - exact.x_0(x, 500)).abs().max() > 1e-6


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("borders", ["image", "circular"])
def test_a_patch_of_one_pixel_is_the_posterior_mean_of_the_pixel(borders, t):
    patterns = uniform(7, 3, 4, 5)
    x, a = brute.points(patterns, t, SCHEDULE), SCHEDULE.alpha_bar_at(t)
    differences = x[:, None] - a.sqrt() * patterns  # [B, K, C, H, W]
    w = (-differences.square().sum(2) / (2 * (1 - a))).softmax(1)  # [B, K, H, W]
    expected = torch.einsum("bkhw,kchw->bchw", w, patterns)
    result = LocalDenoiser(patterns, SCHEDULE, 1, borders).x_0(x, t)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_local_is_not_equivariant(side):
    patterns, x = uniform(7, 1, 5, 6), normal(2, 1, 5, 6)
    denoiser = LocalDenoiser(patterns, SCHEDULE, side, "circular")
    moved = denoiser.x_0(x.roll((2, 1), (2, 3)), 300)
    assert (moved - denoiser.x_0(x, 300).roll((2, 1), (2, 3))).abs().max() > 0.01
    # With the patterns moved as well, it is.
    both = LocalDenoiser(patterns.roll((2, 1), (2, 3)), SCHEDULE, side, "circular")
    torch.testing.assert_close(
        both.x_0(x.roll((2, 1), (2, 3)), 300), denoiser.x_0(x, 300).roll((2, 1), (2, 3))
    )


@pytest.mark.parametrize("name", ["local", "pca-local"])
@pytest.mark.parametrize("chunk_bytes", [1, 8 * 30 * 4, 8 * 30 * 8])
def test_chunks_change_nothing(monkeypatch, name, chunk_bytes):
    patterns = uniform(9, 1, 5, 6)
    x, make = brute.points(patterns, 300, SCHEDULE), {"local": LocalDenoiser}
    make = make.get(name, PcaLocalDenoiser)
    whole = make(patterns, SCHEDULE, 3).x_0(x, 300)
    monkeypatch.setattr(module, "CPU_CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(module, "FILTER_BYTES", chunk_bytes)
    parts = make(patterns, SCHEDULE, 3).x_0(x, 300)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-13)


def test_few_rows_of_the_filter_are_looked_at_together(monkeypatch):
    patterns, sizes = uniform(9, 3, 5, 6), []
    monkeypatch.setattr(module, "FILTER_BYTES", 8 * 90 * 7 * 3)
    denoiser, of_filter = PcaLocalDenoiser(patterns, SCHEDULE, 3), WienerDenoiser.rows

    def rows(*args):
        sizes.append(len(of_filter(*args)))
        return of_filter(*args)

    monkeypatch.setattr(WienerDenoiser, "rows", rows)
    denoiser.x_0(normal(1, 3, 5, 6), 300)
    assert sum(sizes) == 90 and max(sizes) == 7


@pytest.mark.parametrize("order", [slice(None), torch.arange(30).flip(0)])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_posterior_mean_in_parts(order, scale):
    logits = -scale * uniform(2, 3, 30, seed=1).abs().sort().values[..., order]
    values = uniform(30, 4, seed=2)
    mean = PosteriorMean()
    for part, y in zip(logits.split([1, 12, 17], -1), values.split([1, 12, 17])):
        mean.add(part, lambda w, y=y: (w @ y).movedim(-1, 0))  # [4, 2, 3]
    expected = (logits.softmax(-1) @ values).movedim(-1, 0)
    torch.testing.assert_close(mean.value(), expected, rtol=1e-12, atol=1e-13)


def test_sides_at_times_between():
    """The nearest of the noise levels in log(a / (1 - a)), for every t."""
    patterns = uniform(5, 1, 4, 4)
    sides = {10: 1, 900: 3, 300: 5}
    denoiser, x = LocalDenoiser(patterns, SCHEDULE, sides), normal(1, 1, 4, 4)
    a = SCHEDULE.alpha_bar.numpy()
    log_odds = np.log(a / (1 - a))
    nearest = [min(sides, key=lambda s: abs(log_odds[s] - log_odds[t])) for t in range(1000)]
    # Not the nearest t, alpha_bar, or log alpha_bar.
    for scale in (np.arange(1000), a, np.log(a)):
        other = [min(sides, key=lambda s: abs(scale[s] - scale[t])) for t in range(1000)]
        assert other != nearest
    assert [denoiser.side(value) for value in a] == [sides[s] for s in nearest]
    fixed = {p: LocalDenoiser(patterns, SCHEDULE, p) for p in sides.values()}
    for t in (0, 10, 60, 150, 300, 500, 700, 900, 999):
        assert torch.equal(denoiser.x_0(x, t), fixed[sides[nearest[t]]].x_0(x, t))
    t = torch.tensor([0, 999, 300])
    rows = denoiser.x_0(x.expand(3, 1, 4, 4), t)
    for row, time in zip(rows, t.tolist()):
        assert torch.equal(row, fixed[sides[nearest[time]]].x_0(x, time)[0])


def test_sides_of_pca_local_at_times_between():
    patterns, x = uniform(20, 1, 4, 4), normal(1, 1, 4, 4)
    denoiser = PcaLocalDenoiser(patterns, SCHEDULE, {10: 1, 900: 3})
    for t, side in ((0, 1), (40, 1), (700, 3), (999, 3)):
        assert torch.equal(denoiser.x_0(x, t), PcaLocalDenoiser(patterns, SCHEDULE, side).x_0(x, t))


def test_borders_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="borders: found 'zero'; choose image or circular"):
        LocalDenoiser(uniform(2, 1, 3, 3), SCHEDULE, 3, "zero")
