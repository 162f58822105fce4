"""Figures of curvature: spectra, flat directions, dimensions."""

import numpy as np
import pytest
import torch

from models.schedule import Schedule
from tests.helpers.figures import assert_nothing_is_cut_off, texts
from utils.figures.style import PALE
from utils.stages.curvature import stage as stage
from utils.stages.curvature.figures import (
    critical_curvature_figure,
    dimension_figure,
    flat_figure,
    spectra_figure,
)
from utils.stages.curvature.files import Curvature


def sweep(n, *shape, sizes=(2, 16, 64, 96, 112, 128, 256, 1500), low=-0.5, high=1.1):
    random = np.random.default_rng(0)
    return {k: np.sort(random.uniform(low, high, (n, *shape)), axis=-1) for k in sizes}


@pytest.mark.parametrize("m", [64, 16, 2])
@pytest.mark.parametrize("times", [[50], [20, 50, 100]])
def test_spectra(m, times):
    groups = {name: sweep(3, len(times), m) for name in ("memorized", "spurious", "generalized")}
    fig = spectra_figure(groups, times, 64)
    assert len(fig.axes) == 3 * len(times)
    assert {"memorized", "noise alone", "flat below", "K = 1500"} <= set(texts(fig))
    ends = 1 if m == 64 else 2
    lines = [line for line in fig.axes[0].lines if len(line.get_xdata()) == m // ends]
    lines = [line for line in lines if line.get_color() != PALE]
    assert len(lines) == 8 * ends
    np.testing.assert_allclose(
        lines[0].get_ydata(), np.median(groups["memorized"][2][:, 0], axis=0)[: m // ends]
    )
    if m < 64:
        ticks = [label.get_text() for label in fig.axes[-1].get_xticklabels()]
        assert ticks[0] == "1" and ticks[-1] == "64"
    assert_nothing_is_cut_off(fig)


@pytest.mark.parametrize("times", [[50], [20, 50, 100]])
def test_flat_directions_and_dimensions(times):
    counts = {k: np.full((5, len(times)), i) for i, k in enumerate((2, 16, 64))}
    counts[64] = counts[64].copy()
    counts[64][0] = -1
    fig = flat_figure({"memorized": counts}, times, 64)
    assert any("not known: 1 of 15" in text for text in texts(fig))
    assert "Flat directions (of 64)" in texts(fig)
    assert fig.axes[0].containers[0][0].get_ydata().tolist() == [0, 1, 2]
    assert_nothing_is_cut_off(fig)
    unknown = {"memorized": {2: np.full((5, len(times)), -1)}}
    flipd = {"memorized": sweep(5, len(times), sizes=(2, 16))}
    assert len(dimension_figure(flipd, unknown, times, 64).axes) == len(times)
    fig = dimension_figure(flipd, {"memorized": counts}, times, 64)
    assert len(fig.axes) == 2 * len(times) and fig.axes[0].get_yscale() == "linear"
    assert_nothing_is_cut_off(fig)
    far = {"memorized": {2: np.full((5, len(times)), 1e5), 16: np.zeros((5, len(times)))}}
    assert dimension_figure(far, unknown, times, 64).axes[0].get_yscale() == "symlog"
    with pytest.raises(ValueError, match="nothing to draw"):
        flat_figure({}, times, 64)


def test_curvature_over_critical_times():
    t_c = np.array([1.0, 26, 51, np.inf, -1])
    curvature = np.array([[0.1], [0.2], [0.3], [0.9], [9.0]])
    fig = critical_curvature_figure({"memorized": {2: (t_c, curvature)}}, [50])
    assert any("$\\rho$ = 1.00 (n = 4)" in text for text in texts(fig))
    assert "still recovering" in texts(fig)
    closed, opened = (c.get_offsets().tolist() for c in fig.axes[0].collections)
    assert closed == [[1, 0.1], [26, 0.2], [51, 0.3]]
    assert len(opened) == 1 and opened[0][0] > 51 and opened[0][1] == 0.9
    assert_nothing_is_cut_off(fig)
    alike = {"memorized": {2: (np.ones(3), np.ones((3, 1)))}}
    fig = critical_curvature_figure(alike, [5])
    assert any("no rank correlation (n = 3)" in text for text in texts(fig))
    with pytest.raises(ValueError, match="no critical time"):
        critical_curvature_figure({"memorized": {2: (-np.ones(3), np.ones((3, 1)))}}, [5])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "other"])
def test_curvatures_are_in_units_of_the_noise_of_their_own_schedule(schedule):
    """Where noise is all there is, H = I / (1 - alpha_bar_t): 1 in these units, at any schedule."""
    alpha_bar = torch.linspace(0.99, 0.01, 50, dtype=torch.float64)
    args = {"train": {"timesteps": 50, "beta_schedule": schedule}, "alpha_bar": alpha_bar.tolist()}
    if schedule != "other":
        alpha_bar = Schedule(50, schedule).alpha_bar
    t = np.array([3, 20, 49])
    of_noise = (1 / (1 - alpha_bar.numpy()[t])).reshape(1, 3, 1)
    known = {name: None for name in Curvature.__dataclass_fields__} | {"t": t, "args": args}
    np.testing.assert_allclose(Curvature(**known).scaled(of_noise), np.ones((1, 3, 1)))
