"""Pictures of basins and energies: their numbers, censoring, and that nothing is cut off."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from tests.test_figures import assert_nothing_is_cut_off, texts
from utils.basin_figures import (
    RecoveryRow,
    critical_time_figure,
    energy_figure,
    recovery_figure,
    recovery_panel,
    volume_figure,
)
from utils.figures import LOOKS, save_figure

MANY = [2, *range(500, 18_500, 500)]  # 37 sizes


def times(*values, last=976):
    found = np.array(values)
    return found, found == last


def values(n, seed=0):
    return np.random.default_rng(seed).normal(size=n)


def points(ax):
    return np.concatenate([c.get_offsets() for c in ax.collections])


def test_every_image_stands_at_its_critical_time():
    groups = {"memorized": {2: times(0, 26, 51), 64: times(101)}, "spurious": {64: times(1, 26)}}
    fig = critical_time_figure(groups, 976)
    ax = fig.axes[0]
    found = points(ax)
    assert sorted(found[:, 1]) == [0, 1, 26, 26, 51, 101]
    assert ((np.abs(found[:, 0]) < 0.5) | (np.abs(found[:, 0] - 1) < 0.5)).all()
    medians = sorted(line.get_ydata()[0] for line in ax.lines if len(set(line.get_xdata())) == 2)
    assert medians == [13.5, 26, 101]
    assert {"2\n(3 / 0)", "64\n(1 / 2)"} <= set(texts(fig))
    colours = {to_hex(c.get_facecolor()[0]) for c in ax.collections}
    assert colours == {LOOKS["memorized"].colour.lower(), LOOKS["spurious"].colour.lower()}
    assert_nothing_is_cut_off(fig)


@pytest.mark.parametrize("censored", [False, True])
def test_censoring_is_shown_where_there_is_any(censored):
    fig = critical_time_figure({"memorized": {2: times(26, 976 if censored else 951)}}, 976)
    assert ("recovers beyond t = 976" in texts(fig)) == censored
    lines = [line for line in fig.axes[0].lines if line.get_linestyle() == "--"]
    assert len(lines) == censored
    open_marks = [c for c in fig.axes[0].collections if not len(c.get_facecolor())]
    assert len(open_marks) == censored


def test_recovery_curves_have_the_given_shares():
    scanned = np.array([1, 26, 51])
    groups = {"memorized": {2: np.array([1, 0.5, 0.2]), 8: np.array([1, 0.1, 0])}}
    fig = recovery_figure({**groups, "training": {8: np.array([1, 1, 1.0])}}, scanned, True)
    lines = {line.get_label(): line.get_ydata() for line in fig.axes[0].lines}
    assert lines["K = 2"].tolist() == [100, 50, 20] and lines["K = 8"].tolist() == [100, 10, 0]
    assert fig.axes[1].get_title() == "training"
    assert "Trials recovered at every time up to t (%)" in texts(fig)
    images = recovery_figure(groups, scanned, False)
    assert "Images recovered at every time up to t (%)" in texts(images)
    assert_nothing_is_cut_off(fig)


@pytest.mark.parametrize("draw", ["volume", "energy"])
def test_medians_and_quartiles_over_k(draw):
    groups = {"memorized": {2: values(50), 64: values(9, 1)}, "generalized": {64: values(3, 2)}}
    fig = volume_figure(groups, 64) if draw == "volume" else energy_figure(groups, 0, 4)
    for container, (name, sweep) in zip(fig.axes[0].containers, groups.items(), strict=True):
        line, _, (bars,) = container
        assert to_hex(line.get_color()) == LOOKS[name].colour.lower()
        low, middle, high = np.array([np.quantile(v, (0.25, 0.5, 0.75)) for v in sweep.values()]).T
        np.testing.assert_allclose(line.get_ydata(), middle)
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, np.stack([low, high], axis=1))
        assert np.allclose(line.get_xdata(), list(sweep), rtol=0.06)
    assert_nothing_is_cut_off(fig)


def test_images_without_a_basin_are_counted_and_left_out():
    found = np.array([-np.inf, 3.0, 5.0, -np.inf])
    fig = volume_figure({"spurious": {2: found, 64: np.array([-np.inf])}}, 64)
    assert fig.axes[0].containers[0][0].get_ydata().tolist() == [4.0]
    assert any("without a basin: 3 of 5" in text for text in texts(fig))
    assert any("d = 64" in text for text in texts(fig))


def test_energies_name_their_time_and_references():
    fig = energy_figure({"memorized": {2: values(4)}}, 7, 3)
    assert "Relative energy u(r) - u(x) at t = 7" in texts(fig)
    assert any("mean over 3 references" in text for text in texts(fig))


def row(digit, t_c, censored=False, m=3):
    copies = np.repeat(digit[None], m, axis=0)
    distances = np.linspace(0.5, 1.5, m)
    return RecoveryRow(digit, np.arange(m) * 25 + 1, 3 * copies, copies, distances, t_c, censored)


def test_the_panel_frames_what_was_recovered():
    digit = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8)).astype(np.float32)
    rows = [row(digit, 26), row(digit, 976, censored=True), row(digit, 0)]
    fig = recovery_panel(64, "spurious", rows, "l2", 1.0)
    found = texts(fig)
    assert {"$t_c$ = 26", "$t_c \\geq$ 976", "never", "t = 51", "K = 64: spurious"} <= set(found)
    assert found.count("0.500") == found.count("1.00") == found.count("1.50") == 3
    thick = [p for p in fig.axes[0].patches if p.get_linewidth() > 1]
    assert len(thick) == 6  # distances 0.5 and 1.0 of each row, not 1.5
    assert {to_hex(p.get_edgecolor()) for p in thick} == {LOOKS["spurious"].colour.lower()}
    assert_nothing_is_cut_off(fig)


def test_a_sweep_of_many_k_fits():
    groups = {name: {k: times(*range(0, 500, 50)) for k in MANY} for name in LOOKS}
    assert_nothing_is_cut_off(critical_time_figure(groups, 976))
    curves = {name: {k: np.linspace(1, 0, 40) for k in MANY} for name in LOOKS}
    assert_nothing_is_cut_off(recovery_figure(curves, np.arange(40), True))
    spread = {name: {k: values(5, k) for k in MANY} for name in LOOKS}
    assert_nothing_is_cut_off(energy_figure(spread, 0, 1))


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    groups = {"memorized": {2: times(*range(0, 300, 7))}}
    for name in ("a.png", "b.png"):
        save_figure(critical_time_figure(groups, 976), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: critical_time_figure({}, 976),
        lambda: critical_time_figure({"memorized": {}}, 976),
        lambda: recovery_figure({}, np.arange(3), True),
        lambda: volume_figure({}, 64),
        lambda: energy_figure({"spurious": {}}, 0, 1),
        lambda: recovery_panel(2, "memorized", [], "l2", 1.0),
    ],
)
def test_nothing_to_draw_is_refused(draw):
    with pytest.raises(ValueError, match="nothing to draw|found none"):
        draw()
