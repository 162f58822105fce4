"""Figures of basins: their numbers, censoring and looks, and that nothing is cut off."""

import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.figures import assert_files_of_a_figure, assert_nothing_is_cut_off, colour, texts
from tests.helpers.images import real_digits
from utils.figures.groups import OTHER_LOOKS
from utils.figures.style import LOOKS
from utils.stages.critical_times.figures import (
    RecoveryRow,
    critical_time_figure,
    recovery_figure,
    recovery_panel,
    volume_figure,
)
from utils.stages.energy.figures import energy_figure

LAST = 976
SIZES = sorted({round(2 * 25_000 ** (i / 40)) for i in range(41)})[-38:]
SCANNED = np.arange(1, LAST + 1, 25)


@pytest.fixture(scope="module")
def digit():
    """A real digit, [1, 8, 8] in [-1, 1]."""
    return real_digits(4)[3].numpy()


def marks(*times):
    """Critical times and who is censored: those at the end of the scan."""
    return np.array(times), np.array(times) == LAST


def normal(n, seed=0, centre=5.0):
    return np.random.default_rng(seed).normal(centre, size=n)


def points(ax):
    """Heights of the closed points (by class), and of the open ones."""
    closed, opened = {}, []
    for drawn in ax.collections:
        heights = drawn.get_offsets()[:, 1].tolist()
        if len(drawn.get_facecolor()):
            closed.setdefault(colour(drawn.get_facecolor()[0][:3]), []).extend(heights)
        else:
            opened.extend(heights)
    return closed, opened


def medians(ax):
    """(x, t) of the bars, and of the open triangles, from left to right."""
    bars = [line for line in ax.lines if line.get_linewidth() == 2.2]
    open_ones = [line for line in ax.lines if line.get_marker() == "^"]
    middle = [(float(np.mean(b.get_xdata())), float(b.get_ydata()[0])) for b in bars]
    return sorted(middle), sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in open_ones)


def drawings(groups, curves=None):
    """The four figures of groups of arrays; times are made of them."""
    times = {
        name: {k: marks(*np.clip(np.abs(v) * 100, 0, LAST).round()) for k, v in sweep.items()}
        for name, sweep in groups.items()
    }
    curves = {n: dict.fromkeys(s, np.linspace(1, 0, len(SCANNED))) for n, s in groups.items()}
    yield critical_time_figure(times, LAST)
    yield recovery_figure(curves, SCANNED, True)
    yield volume_figure(groups, 64)
    yield energy_figure(groups, 0, 4)


def test_critical_times_and_their_medians():
    groups = {
        "generalized": {64: marks(1, 26, 76)},
        "memorized": {64: marks(101, 0, 51, 26), 2: marks(501)},
    }
    fig = critical_time_figure(groups, LAST)
    (ax,) = fig.axes
    closed, opened = points(ax)
    red, blue = LOOKS["memorized"].colour, LOOKS["generalized"].colour
    assert {c: sorted(t) for c, t in closed.items()} == {
        red: [0, 26, 51, 101, 501],
        blue: [1, 26, 76],
    }
    assert not opened
    (at_2, at_64, other), none = medians(ax)
    assert not none and [at_2[1], at_64[1], other[1]] == [501, 38.5, 26]
    # The classes' order is that of verdicts, not the mapping's; each stays by its own K.
    assert abs(at_2[0]) < 0.5 and 0.5 < at_64[0] < 1 < other[0] < 1.5
    assert {"2\nn = 1 / 0", "64\nn = 4 / 3", "memorized", "generalized"} <= set(texts(fig))
    assert "Critical time $t_c$ (steps)" in texts(fig)
    low = critical_time_figure({"memorized": {2: marks(1, 1)}}, LAST).axes[0]
    assert all(tick == int(tick) for tick in low.get_yticks())  # steps are whole
    assert_nothing_is_cut_off(fig)


def test_points_of_groups_lie_side_by_side():
    groups = {name: {k: marks(*range(200)) for k in (2, 64, 128)} for name in LOOKS}
    ax = critical_time_figure(groups, LAST).axes[0]
    spans = sorted(
        (c.get_offsets()[:, 0].min(), c.get_offsets()[:, 0].max()) for c in ax.collections
    )
    assert len(spans) == 9 and all(a[1] < b[0] for a, b in zip(spans, spans[1:]))
    assert all(b - a > 0.1 for a, b in spans)  # spread, not on a line


def test_numbers_of_images_stand_in_the_legend_where_they_are_equal():
    groups = {
        "memorized": {2: marks(1, 2), 64: marks(3, 4)},
        "spurious": {2: marks(1), 64: marks(1)},
    }
    result = texts(critical_time_figure(groups, LAST))
    assert {"memorized (n = 2)", "spurious (n = 1)", "2", "64"} <= set(result)
    assert not any("/" in text for text in result)


@pytest.mark.parametrize("top", [951, LAST])
def test_censoring_is_shown_where_there_is_any(top):
    fig = critical_time_figure({"spurious": {2: marks(26, 51, top)}}, LAST)
    closed, opened = points(fig.axes[0])
    censored = top == LAST
    assert opened == [LAST] * censored
    assert list(closed.values()) == [[26, 51] + [951] * (not censored)]
    for text in ("end of the scan", "still recovering"):
        assert (text in texts(fig)) == censored
    dashed = [line for line in fig.axes[0].lines if line.is_dashed()]
    assert [line.get_ydata()[0] for line in dashed] == [LAST] * censored
    assert (fig.axes[0].get_ylim()[1] > LAST) or not censored
    assert_nothing_is_cut_off(fig)


@pytest.mark.parametrize(
    ("times", "bar"),
    [((1, 26, LAST), 26), ((1, LAST, LAST), None), ((1, LAST), None), ((LAST,), None), ((0,), 0)],
)
def test_a_censored_median_is_an_open_triangle(times, bar):
    """Half of the images censored: the median lies between a known time and an unknown one."""
    fig = critical_time_figure({"memorized": {2: marks(*times)}}, LAST)
    bars, triangles = medians(fig.axes[0])
    assert [t for _, t in bars] == ([] if bar is None else [bar])
    assert [t for _, t in triangles] == ([LAST] if bar is None else [])
    assert_nothing_is_cut_off(fig)


def test_whether_an_image_is_censored_is_stored_not_guessed():
    times = np.array([LAST, LAST])
    fig = critical_time_figure({"memorized": {2: (times, np.array([False, True]))}}, LAST)
    closed, opened = points(fig.axes[0])
    assert list(closed.values()) == [[LAST]] and opened == [LAST]


@pytest.mark.parametrize("followed", [True, False])
def test_recovery_curves_in_percent(followed):
    scanned = np.array([1, 26, 51])
    groups = {"training": {8: np.ones(3)}, "memorized": {64: [1, 0.1, 0], 2: [1, 0.5, 0.2]}}
    fig = recovery_figure(groups, scanned, followed)
    left, right = fig.axes
    assert [left.get_title(), right.get_title()] == ["memorized", "training"]
    shown = {line.get_label(): line.get_ydata().tolist() for line in left.lines}
    assert shown == {"K = 2": [100, 50, 20], "K = 64": [100, 10, 0]}
    assert all(line.get_xdata().tolist() == [1, 26, 51] for line in (*left.lines, *right.lines))
    label = (
        "Trials recovered at every time up to t"
        if followed
        else "Images recovered at every time up to t"
    )
    assert f"{label} (%)" in texts(fig)
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == ["K = 2", "K = 8", "K = 64"]
    handles = [(colour(h.get_color()), h.get_linestyle()) for h in legend.get_lines()]
    lines = [left.lines[0], right.lines[0], left.lines[1]]
    assert handles == [(colour(line.get_color()), line.get_linestyle()) for line in lines]
    assert len(set(handles)) == 3
    assert_nothing_is_cut_off(fig)


def test_recovery_ends_where_nothing_recovers():
    share = np.where(SCANNED <= 126, 0.5, 0)
    axes = recovery_figure({"memorized": {2: share}}, SCANNED, True).axes
    assert 151 <= axes[0].get_xlim()[1] < 176
    never = recovery_figure({"memorized": {2: 0 * share}}, SCANNED, True)
    assert never.axes[0].get_xlim()[1] >= LAST
    assert_nothing_is_cut_off(never)
    one = recovery_figure({"memorized": {2: np.ones(1)}}, SCANNED[:1], True)
    assert one.axes[0].lines[0].get_marker() == "o"  # a line of one point cannot be seen


@pytest.mark.parametrize("kind", ["volume", "energy"])
def test_medians_and_quartiles(kind):
    groups = {
        "generalized": {64: normal(3, 2), 128: normal(8, 3)},
        "other": {64: normal(1)},
        "memorized": {64: normal(9, 1), 2: normal(50)},
    }
    fig = volume_figure(groups, 64) if kind == "volume" else energy_figure(groups, 0, 4)
    (ax,) = fig.axes
    assert ax.get_xscale() == "log" and ax.get_yscale() == "linear"
    looks = LOOKS | {"other": OTHER_LOOKS[0]}
    names = ("memorized", "generalized", "other")
    for name, (line, _, (bars,)) in zip(names, ax.containers, strict=True):
        sizes = sorted(groups[name])
        quartiles = np.array([np.quantile(groups[name][k], (0.25, 0.5, 0.75)) for k in sizes])
        np.testing.assert_allclose(line.get_ydata(), quartiles[:, 1])
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, quartiles[:, [0, 2]])
        result = (colour(line.get_color()), line.get_marker(), line.get_linestyle())
        assert result == looks[name][:3]
        np.testing.assert_allclose(line.get_xdata(), sizes, rtol=0.15)
    at_64 = [
        line.get_xdata()[sorted(groups[n]).index(64)] for n, (line, *_) in zip(names, ax.containers)
    ]
    assert_nothing_is_cut_off(fig)  # lays the axes out
    pixels = ax.transData.transform([(x, 5) for x in at_64])[:, 0]
    assert np.diff(pixels).min() * 72 / fig.dpi > 2 * 3  # two caps of 3 points


def test_images_without_a_basin_are_counted_and_left_out():
    none = -np.inf
    groups = {"spurious": {2: np.array([none, 3, 5, none]), 64: np.array([none])}}
    fig = volume_figure(groups, 64)
    assert fig.axes[0].containers[0][0].get_ydata().tolist() == [4]
    assert "bars: quartiles; without a basin: 3 of 5" in texts(fig)
    assert "Log-volume of the basin, ln V (d = 64)" in texts(fig)
    empty = volume_figure({"spurious": {2: np.array([none, none])}}, 64)
    assert {"no values", "bars: quartiles; without a basin: 2 of 2"} <= set(texts(empty))
    assert_nothing_is_cut_off(empty)


def test_groups_that_are_no_classes_differ_in_looks():
    names = ("training", "_old $x$", "a folder whose name has no end at all")
    groups = {name: {2: normal(5), 64: normal(5)} for name in (*names, "spurious")}
    for fig in drawings(groups):
        assert_nothing_is_cut_off(fig)
        shown = "".join(texts(fig))
        assert "training" in shown and r"_old \$x\$" in shown and "a folder whose name has" in shown
    result = [
        (colour(line.get_color()), line.get_marker())
        for line, *_ in energy_figure(groups, 0, 4).axes[0].containers
    ]
    assert result == [LOOKS["spurious"][:2], *(look[:2] for look in OTHER_LOOKS)]
    assert len(set(result)) == 4
    assert not {look.marker for look in OTHER_LOOKS} & {look.marker for look in LOOKS.values()}


@pytest.mark.parametrize("sizes", [(7,), (2, 3), (64, 65, 66, 50_000), SIZES], ids=len)
def test_any_sweep_fits(sizes):
    assert len(SIZES) == 38 and SIZES[-1] == 50_000
    groups = {name: {k: normal(20 + k % 3, k) for k in sizes} for name in LOOKS}
    groups["spurious"].pop(sizes[0])  # an empty class
    for fig in drawings(groups):
        assert_nothing_is_cut_off(fig)
        assert fig.get_figwidth() < 12
        if not fig.axes[0].get_xlabel().startswith("Training"):
            continue
        labels = [label for label in fig.axes[0].get_xticklabels() if label.get_text()]
        boxes = [label.get_window_extent() for label in labels]
        middles = np.diff([(box.x0 + box.x1) / 2 for box in boxes])
        if labels[0].get_rotation() == 0:
            assert all(a.x1 <= b.x0 for a, b in zip(boxes, boxes[1:]))
        else:
            assert middles.min() >= labels[0].get_fontsize() * fig.dpi / 72


def row(digit, critical_time, censored=False, distances=(0.5, 1.0, 1.5)):
    m = len(distances)
    copies = np.repeat(digit[None], m, axis=0)
    times = np.arange(m) * 25 + 1
    return RecoveryRow(digit, times, 3 * copies, -copies, distances, critical_time, censored)


@pytest.mark.parametrize("group", ["spurious", "training"])
def test_the_panel_frames_what_was_recovered(digit, group):
    rows = [row(digit, 26), row(digit, LAST, censored=True), row(digit, 0, distances=(2.0,))]
    fig = recovery_panel(64, group, rows, "vgg", 1.0)
    (ax,) = fig.axes
    result = texts(fig)
    assert {f"K = 64: {group}", "LPIPS (vgg), $\\delta$ = 1", "t = 1", "t = 51"} <= set(result)
    assert {"$t_c$ = 26", f"$t_c \\geq$ {LAST}", "never"} <= set(result)
    assert result.count("0.500") == result.count("1.00") == result.count("1.50") == 2
    assert result.count("2.00") == 1
    look = {**LOOKS, "training": OTHER_LOOKS[0]}[group]
    thick = [patch for patch in ax.patches if patch.get_linewidth() > 1]
    assert len(thick) == 4  # distances 0.5 and 1.0 of two rows: at delta is recovered
    assert {colour(patch.get_edgecolor()) for patch in thick} == {look.colour}
    bold = [text.get_text() for text in ax.texts if text.get_weight() == "bold"]
    assert sorted(bold[1:]) == ["0.500", "0.500", "1.00", "1.00"]
    assert_nothing_is_cut_off(fig)
    # Tiles: the image, then its copies at 3 and 3 and 1 times, each beside or below the others.
    assert len(ax.images) == 3 + 2 * (3 + 3 + 1)
    shown = [image.get_array()[..., 0] for image in ax.images[:3]]
    for drawn, image in zip(shown, (digit, np.clip(3 * digit, -1, 1), -digit)):
        np.testing.assert_array_equal(drawn, np.rint(image[0] * 127.5 + 127.5))
    assert len({tuple(np.round(image.get_extent(), 6)) for image in ax.images}) == len(ax.images)


def test_words_of_the_panel_do_not_run_into_each_other(digit):
    for group, m in (("a folder whose name has no end", 1), ("spurious", 6), ("memorized", 2)):
        fig = recovery_panel(50_000, group, [row(digit, LAST, True, (0.00123,) * m)] * 2, "l2", 1)
        assert_nothing_is_cut_off(fig)
        boxes = [text.get_window_extent() for text in fig.axes[0].texts]
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert not any(a.overlaps(b) for a, b in pairs)


@pytest.mark.parametrize("which", range(5))
def test_the_same_numbers_give_the_same_bytes(digit, tmp_path, which):
    """And numpy's own generator stays as it was."""
    state = np.random.get_state()[1].copy()
    groups = {"memorized": {2: normal(300), 64: normal(9)}}

    def every():
        return [*drawings(groups), recovery_panel(2, "memorized", [row(digit, 26)], "l2", 1.0)]

    assert_files_of_a_figure(lambda: every()[which], tmp_path)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("groups", [{}, {"memorized": {}}, {"spurious": {2: np.array([])}}])
def test_nothing_to_draw_is_refused(groups):
    times = {n: {k: (v, v.astype(bool)) for k, v in sweep.items()} for n, sweep in groups.items()}
    for draw in (
        lambda: critical_time_figure(times, LAST),
        lambda: recovery_figure(groups, SCANNED, True),
        lambda: volume_figure(groups, 64),
        lambda: energy_figure(groups, 0, 1),
    ):
        with pytest.raises(ValueError, match="groups: found nothing to draw"):
            draw()
    with pytest.raises(ValueError, match="rows: found none"):
        recovery_panel(2, "memorized", [], "l2", 1.0)


def test_empty_classes_take_no_room():
    groups = {"spurious": {2: marks()}, "memorized": {2: marks(1)}}
    assert texts(critical_time_figure(groups, LAST)).count("memorized (n = 1)") == 1
    assert "spurious" not in "".join(texts(critical_time_figure(groups, LAST)))


def test_matplotlib_is_loaded_by_the_first_picture():
    code = "import sys, utils.stages.critical_times.figures; print('matplotlib' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
