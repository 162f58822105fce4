"""Pictures of the circle: what each panel shows, how classes look, and equal bytes every time."""

import copy
import io
from typing import NamedTuple

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.contour import ContourSet
from matplotlib.markers import MarkerStyle

from models.circle.exact import PatternMixture
from tests.helpers.figures import assert_files_of_a_figure, assert_nothing_is_cut_off, colour, texts
from tests.helpers.models import even
from utils.figures.style import CLASS_LOOKS, INK, PALE, styled
from utils.stages.toy.figures import (
    GROUP_LOOKS,
    MANY,
    basin_figure,
    circle_figure,
    data_figure,
    exact_figure,
    landscape_figure,
    samples_figure,
    training_figure,
)
from utils.stages.toy.files import Basins
from utils.stages.toy.landscapes import places

AXIS = np.linspace(-1.8, 1.8, 21)
T = 0.05
RED, YELLOW, BLUE = (look.colour for look in CLASS_LOOKS)
LEGEND = ["Memorized", "Spurious", "Generalized", "Training pattern"]


def energy_of(patterns, t=T):
    model = PatternMixture(torch.from_numpy(patterns))
    return model.energy(torch.from_numpy(places(AXIS)), 1 / (2 * t)).numpy().reshape(21, 21)


class Scene(NamedTuple):
    """What the figures read of a Landscape; the last five are drawn by landscape_figure alone."""

    axis: np.ndarray
    energy: np.ndarray
    exact_energy: np.ndarray
    patterns: np.ndarray
    wells: np.ndarray
    well_kinds: np.ndarray
    samples: np.ndarray
    sample_kinds: np.ndarray
    score: np.ndarray | None = None
    settled: np.ndarray | None = None
    centres: np.ndarray | None = None
    centre_energies: np.ndarray | None = None
    centre_kinds: np.ndarray | None = None


def scene(k, kinds, seed=0):
    """K patterns with the wells just inside the circle; samples of every class, of 3, 4, 5."""
    rng = np.random.default_rng(seed)
    patterns, sample_kinds = even(k), rng.permutation(np.repeat([0, 1, 2], [3, 4, 5]))
    exact = energy_of(patterns)
    learned = exact + 0.01 * np.sin(5 * AXIS) - 0.25
    wells = even(k, radius=0.95)[: len(kinds)]
    samples = rng.normal(size=(12, 2))
    return Scene(AXIS, learned, exact, patterns, wells, np.array(kinds), samples, sample_kinds)


def landscape(shown, centres, energies, kinds):
    """A scene with its score, settled samples and the centres of their clusters."""
    y, x = np.meshgrid(AXIS, AXIS, indexing="ij")
    return shown._replace(
        score=np.stack([3 * x, -y], axis=2),
        settled=np.random.default_rng(1).normal(size=(30, 2)),
        centres=np.array(centres, float),
        centre_energies=np.array(energies, float),
        centre_kinds=np.array(kinds),
    )


def basins(groups, seed=0):
    """Points with recoveries that fall; every third is censored."""
    rng, n = np.random.default_rng(seed), len(groups)
    times = np.tile(np.linspace(0.1, 1, 5), (n, 1))
    recovery = np.sort(rng.uniform(size=(n, 5)), axis=1)[:, ::-1].copy()
    censored = np.arange(n) % 3 == 2
    critical = np.where(censored, 1.0, rng.choice(times[0, :-1], n))
    points, radius = rng.uniform(-1, 1, (n, 2)), np.ones(n)
    groups = np.array(groups)
    return Basins(points, groups, times, recovery, critical, censored, radius, np.array(0.1), {})


def all_data():
    """The arguments of every figure."""
    two, nine, ring = scene(2, [0, 0]), scene(9, [1, 0, 1]), scene(100, [2])
    centres = [[0.95, 0], [-0.9, 0.2]]
    losses = {9: [(1, 0.5), (10, 0.2)], 2: [(1, 0.4), (10, 0.1)]}
    return {
        data_figure: (even(500), {2: even(2), 300: even(300)}),
        samples_figure: (even(30, radius=0.9), even(9), 1500),
        exact_figure: (AXIS, {"K = 2": two.energy, "ring": ring.energy}, {"K = 2": even(2)}, 10.0),
        training_figure: (losses, [0.01, 0.1, 1], {2: [1e-3, 1e-2, 2e-2], 9: [3e-3, 4e-3, 1e-3]}),
        landscape_figure: (landscape(nine, centres, [-0.104, 0.256], [1, 0]), T),
        circle_figure: ({100: ring, 2: two, 9: nine}, T),
        basin_figure: (basins([0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]), "K = 3: recovered within 0.1"),
    }


EVERY = pytest.mark.parametrize("draw", list(all_data()), ids=lambda draw: draw.__name__)


def scatters(ax, size=None):
    """Scattered points, of one size if given, as (places, colour, marker's outline)."""
    return [
        (c.get_offsets().tolist(), colour(c.get_facecolor()[0]), c.get_paths()[0].vertices)
        for c in ax.collections
        if isinstance(c, PathCollection)
        if len(c.get_offsets()) and (size is None or c.get_sizes()[0] == size)
    ]


def outline(marker):
    style = MarkerStyle(marker)
    return style.get_path().transformed(style.get_transform()).vertices


def assert_marked(ax, size, expected):
    """Just the marks (place, kind), of this size, each with the look of its class."""
    result = scatters(ax, size)
    assert len(result) == len(expected)
    for (place, shade, path), (where, kind) in zip(result, expected):
        np.testing.assert_allclose(place, [where])
        assert shade == CLASS_LOOKS[kind].colour
        np.testing.assert_array_equal(path, outline(CLASS_LOOKS[kind].marker))


def assert_samples(ax, shown):
    """Every sample at its place, with the look of its class."""
    result = scatters(ax, 7)
    assert len(result) == 3
    for kind, (where, shade, path) in enumerate(result):
        np.testing.assert_allclose(where, shown.samples[shown.sample_kinds == kind])
        assert shade == CLASS_LOOKS[kind].colour
        np.testing.assert_array_equal(path, outline(CLASS_LOOKS[kind].marker))


def outlines(ax):
    """The contour sets of a single level: (level, colour)."""
    sets = [c for c in ax.collections if isinstance(c, ContourSet) and len(c.levels) == 1]
    return [(c.levels[0], colour(c.get_edgecolor()[0])) for c in sets]


def contours(ax):
    """Levels of the filled contours."""
    (result,) = [c for c in ax.collections if isinstance(c, ContourSet) and c.filled]
    return result.levels


def drawn_patterns(ax):
    """Crosses where few, dots where many: all that is drawn in ink."""
    (result,) = [c for c, shade, _ in scatters(ax) if shade == INK.upper()]
    return np.array(result)


def legend(fig):
    (result,) = fig.legends
    return result


def bytes_of(fig):
    file = io.BytesIO()
    styled(fig.savefig)(file)
    return file.getvalue()


def test_the_data_and_its_subsets_side_by_side():
    points, subsets = even(1200), {2: even(2), MANY: even(MANY), MANY + 1: even(MANY + 1)}
    fig = data_figure(points, subsets)
    titles = ["1,200 points", "K = 2", f"K = {MANY}", f"K = {MANY + 1}"]
    assert [ax.get_title() for ax in fig.axes] == titles
    for ax, shown, marker in zip(fig.axes, (points, *subsets.values()), ".xx."):
        np.testing.assert_allclose(drawn_patterns(ax), shown)
        ((_, _, path),) = scatters(ax)
        np.testing.assert_array_equal(path, outline(marker))
        (circle,) = ax.lines
        np.testing.assert_allclose(np.hypot(*circle.get_data()), 1)
        assert ax.get_xlim() == ax.get_ylim() == (-1.4, 1.4) and ax.get_aspect() == 1
    assert_nothing_is_cut_off(fig)


def test_many_points_are_pixels_in_a_pdf_and_few_are_not():
    fig = data_figure(even(5001), {2: even(2)})
    assert [ax.collections[0].get_rasterized() for ax in fig.axes] == [True, False]


def test_samples_in_training():
    fig = samples_figure(even(30, radius=0.9), even(9), 1500)
    (ax,) = fig.axes
    assert ax.get_title() == "K = 9, step 1,500"
    (samples, shade, _), (patterns, ink, _) = scatters(ax)
    np.testing.assert_allclose(samples, even(30, radius=0.9))
    np.testing.assert_allclose(patterns, even(9))
    assert (shade, ink) == (PALE.upper(), INK.upper())  # no class: nobody has judged them
    assert_nothing_is_cut_off(fig)


def test_exact_energies_on_one_scale_and_along_two_lines():
    energies = {"K = 3": energy_of(even(3)), "ring": energy_of(even(100)) + 0.21}
    fig = exact_figure(AXIS, energies, {"K = 3": even(3)}, 10.0)
    *panels, bar = fig.axes
    upper, lower = panels[:2], panels[2:]
    assert [ax.get_title() for ax in upper] == list(energies)
    assert "Exact energy, beta = 10, t = 0.05" in texts(fig)
    assert [ax.get_xlabel() for ax in lower] == ["Place on the line"] * 2
    assert lower[0].get_ylabel() == bar.get_ylabel() == "Energy E"
    levels = contours(upper[0])
    np.testing.assert_array_equal(levels, contours(upper[1]))
    lowest = min(energy.min() for energy in energies.values())
    assert lowest - 0.1 < levels[0] <= lowest and levels[0] == pytest.approx(round(levels[0], 1))
    for line, energy in zip(lower, energies.values()):
        across, along = line.lines
        assert (across.get_label(), along.get_label()) == ("along y = 0", "along x = 0")
        np.testing.assert_array_equal(across.get_xdata(), AXIS)
        np.testing.assert_array_equal(across.get_ydata(), energy[10])
        np.testing.assert_array_equal(along.get_ydata(), energy[:, 10])
        assert across.get_linestyle() != along.get_linestyle()
        assert line.get_ylim() == lower[0].get_ylim() and line.get_ylim()[0] < lowest
    result = [text.get_text() for text in lower[0].get_legend().get_texts()]
    assert result == ["along y = 0", "along x = 0"]
    np.testing.assert_allclose(drawn_patterns(upper[0]), even(3))
    assert not scatters(upper[1])
    assert_nothing_is_cut_off(fig)


def test_training_and_its_errors():
    losses = {9: [(1, 0.5), (10, 0.2)], 2: [(1, 0.4), (10, 0.1), (20, 0.05)], 1000: [(5, 1.0)]}
    errors = {9: [0.1, 0.2], 2: [0.3, 0.4]}
    fig = training_figure(losses, [0.01, 1], errors)
    left, right = fig.axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("Step", "Loss (mean squared error)")
    assert (right.get_xlabel(), right.get_ylabel()) == ("Time t", "t x mean squared error")
    titles = [left.get_title(), right.get_title()]
    assert titles == ["Training", "Against the exact score of the K patterns"]
    scales = left.get_xscale(), left.get_yscale(), right.get_xscale(), right.get_yscale()
    assert scales == ("linear", "log", "log", "log")
    drawn = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert drawn == {f"K = {k}": [list(map(float, row)) for row in losses[k]] for k in losses}
    assert [line.get_label() for line in left.lines] == ["K = 2", "K = 9", "K = 1000"]
    for line, k in zip(right.lines, (2, 9), strict=True):
        assert line.get_xydata().tolist() == list(map(list, zip([0.01, 1], errors[k])))
        (same,) = [other for other in left.lines if other.get_label() == line.get_label()]
        assert (same.get_color(), same.get_linestyle()) == (line.get_color(), line.get_linestyle())
    shown = [text.get_text() for text in left.get_legend().get_texts()]
    assert shown == ["K = 2", "K = 9", "K = 1000"]
    assert (
        not training_figure(losses, [0.01, 1], {}).axes[1].lines
    )  # stopped before it was measured
    looks = {(colour(line.get_color()), line.get_linestyle()) for line in left.lines}
    assert len(looks) == 3
    assert_nothing_is_cut_off(fig)


@pytest.mark.parametrize("count", [1, 3])
def test_a_landscape_and_where_samples_settle(count):
    shown = scene(9, [1, 0, 1])
    centres = np.array([[0.95, 0.0], [-0.6, 0.8], [0.0, 0.0]])[:count]
    energies, kinds = [-0.104, 0.256, 1.0][:count], [1, 0, 1][:count]
    result = landscape(shown, centres, energies, kinds)
    fig = landscape_figure(result, T)
    learned, exact, samples, rest, bar = fig.axes
    settled = f"Settled samples: {count} cluster{'s' if count > 1 else ''}, energies"
    titles = ["Learned energy and score", "Exact energy", "Samples of the flow", settled]
    assert [ax.get_title() for ax in fig.axes[:4]] == titles
    assert {(ax.get_xlabel(), ax.get_ylabel()) for ax in fig.axes[:4]} == {("x", "y")}
    assert "K = 9, t = 0.05" in texts(fig) and bar.get_ylabel() == "Energy E"
    assert [text.get_text() for text in legend(fig).get_texts()] == LEGEND
    np.testing.assert_array_equal(contours(learned), contours(exact))
    # the wells in the learned energy only, the centres where samples settle only
    assert_marked(learned, 52, list(zip(shown.wells, shown.well_kinds)))
    assert_marked(rest, 60, list(zip(centres, kinds)))
    assert not scatters(exact, 52) and not outlines(learned)
    for ax in (learned, exact, samples):
        np.testing.assert_allclose(drawn_patterns(ax), shown.patterns)
    assert_samples(samples, shown)
    np.testing.assert_allclose(scatters(rest, 6)[0][0], result.settled)
    # each energy beside its mark, away from the middle
    assert [text.get_text() for text in rest.texts] == ["-0.10", "0.26", "1.00"][:count]
    for text, centre in zip(rest.texts, centres):
        where, norm = np.array(text.xy), np.hypot(*centre)
        assert np.cross([*centre, 0], [*where, 0])[2] == pytest.approx(0)
        assert where @ centre >= norm**2 and (norm == 0 or np.hypot(*where) > norm + 0.2)
    assert_nothing_is_cut_off(fig)


def test_arrows_have_the_score_s_direction_and_one_length():
    """The row of a score is y: (3 x, -y) points away from the y axis, and to the x axis."""
    shown = scene(2, [0, 0])
    fig = landscape_figure(landscape(shown, [[1, 0]], [0], [0]), T)
    (arrows,) = [c for c in fig.axes[0].collections if hasattr(c, "U")]
    x, y = arrows.XY.T
    length = np.hypot(3 * x, y)
    away = length > 1e-9
    np.testing.assert_allclose(arrows.U[away], (3 * x / length)[away], atol=1e-9)
    np.testing.assert_allclose(arrows.V[away], (-y / length)[away], atol=1e-9)
    assert away.sum() > 100


def at_well(scene, i):
    """The energy at the place of the grid that is nearest to well i."""
    column, row = (np.abs(scene.axis - value).argmin() for value in scene.wells[i])
    return scene.energy[row, column]


def test_a_ring_is_outlined_and_not_marked():
    """Half a nat above the energy of its well, in beta E; a state beside it keeps its mark."""
    ring = scene(100, [2])
    panel = circle_figure({100: ring}, T).axes[0]
    assert not scatters(panel, 52)
    assert outlines(panel) == [(pytest.approx(at_well(ring, 0) + T), BLUE.upper())]
    both = scene(100, [2, 1])
    panel = landscape_figure(landscape(both, [[1, 0]], [0], [2]), 0.2).axes[0]
    assert_marked(panel, 52, [(both.wells[1], 1)])
    assert outlines(panel) == [(pytest.approx(at_well(both, 0) + 0.2), BLUE.upper())]


def test_columns_of_the_circle_are_k_ascending():
    scenes = {100: scene(100, [2]), 2: scene(2, [0, 0], 1), 9: scene(9, [1, 0, 1], 2)}
    fig = circle_figure(scenes, T)
    *panels, bar = fig.axes
    learned, exact, samples = np.array(panels).reshape(3, 3)
    assert [ax.get_title() for ax in learned] == ["K = 2", "K = 9", "K = 100"]
    rows = [row[0].get_ylabel() for row in (learned, exact, samples)]
    assert rows == ["Learned energy\ny", "Exact energy\ny", "Samples\ny"]
    assert [ax.get_xlabel() for ax in samples] == ["x"] * 3
    assert bar.get_ylabel() == "Energy above the lowest, t = 0.05"
    assert [text.get_text() for text in legend(fig).get_texts()] == LEGEND
    for column, k in enumerate((2, 9, 100)):
        shown = scenes[k]
        marked = [(w, kind) for w, kind in zip(shown.wells, shown.well_kinds) if kind != 2]
        assert_marked(learned[column], 52, marked)
        assert len(outlines(learned[column])) == (k == 100)
        assert contours(learned[column])[0] == contours(exact[column])[0] == 0
        np.testing.assert_allclose(drawn_patterns(exact[column]), shown.patterns)
        assert_samples(samples[column], shown)
    assert_nothing_is_cut_off(fig)


def test_the_legend_shows_each_class_as_it_is_drawn():
    handles = legend(circle_figure({2: scene(2, [0, 0])}, T)).legend_handles
    looks = [(colour(h.get_color()), h.get_marker()) for h in handles]
    assert looks == [(look.colour, look.marker) for look in CLASS_LOOKS] + [(INK, "x")]


def test_energies_of_a_column_stand_on_their_lowest():
    """A constant in the energies of one K changes nothing in its picture."""
    plain = scene(2, [0, 0])
    learned, exact = (np.round(e * 2**20) / 2**20 for e in (plain.energy, plain.exact_energy))
    plain = plain._replace(energy=learned, exact_energy=exact)  # so that sums are exact
    lifted = plain._replace(energy=plain.energy + 8, exact_energy=plain.exact_energy + 8)
    same = bytes_of(circle_figure({2: plain}, T)) == bytes_of(circle_figure({2: lifted}, T))
    assert same


def test_basins_by_group():
    groups = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
    result = basins(groups)
    result.critical_time[:] *= 0.8
    fig = basin_figure(result, "K = 3: recovered within 0.1")
    curves, plane, strip, bar = fig.axes
    assert (curves.get_xlabel(), curves.get_ylabel()) == ("Time t", "Share of trials recovered")
    assert strip.get_ylabel() == "Critical time (hollow: lives to the end)"
    assert strip.get_xlabel() == "Kind of point" and GROUP_LOOKS[1] == CLASS_LOOKS[1]
    assert bar.get_ylabel() == "Critical time" and "K = 3: recovered within 0.1" in texts(fig)
    names = ["Patterns (3)", "Spurious states (3)", "Points of the circle (5)"]
    assert [text.get_text() for text in curves.get_legend().get_texts()] == names
    assert [text.get_text() for text in strip.get_xticklabels()] == [
        "Patterns",
        "Spurious",
        "Circle",
    ]
    for group, line in enumerate(curves.lines):
        mine, (shade, _, dash, _) = result.groups == group, GROUP_LOOKS[group]
        np.testing.assert_allclose(line.get_ydata(), result.recovery[mine].mean(axis=0))
        np.testing.assert_allclose(line.get_xdata(), result.times[0])
        assert (line.get_color(), line.get_linestyle()) == (shade, dash)
    drawn = {}
    for c in plane.collections:
        for place, time in zip(c.get_offsets().tolist(), c.get_array()):
            drawn[tuple(place)] = time
        assert c.get_clim() == (0, result.critical_time.max())
    assert drawn == dict(zip(map(tuple, result.points.tolist()), result.critical_time))
    assert_nothing_is_cut_off(fig)


def test_hollow_marks_live_to_the_end():
    groups = [0, 0, 0, 1, 2, 2, 2, 2, 2]
    result = basins(groups)
    strip = basin_figure(result, "").axes[2]
    solid, hollow = [], []
    for c in strip.collections:
        heights = c.get_offsets()
        (hollow if not len(c.get_facecolor()) else solid).extend(heights.tolist())
        if len(heights):
            (group,) = set(np.rint(heights[:, 0]).astype(int).tolist())
            shade, marker, *_ = GROUP_LOOKS[group]
            assert colour(c.get_edgecolor()[0]) == colour(shade)
            np.testing.assert_array_equal(c.get_paths()[0].vertices, outline(marker))
    for marks, expected in ((solid, ~result.censored), (hollow, result.censored)):
        heights = [(round(x), t) for x, t in marks]
        assert sorted(heights) == sorted(
            zip(result.groups[expected], result.critical_time[expected])
        )
    assert {0, 1, 2} == {round(x) for x, _ in solid} and len(hollow) == 3
    # points of a group lie side by side, one alone in the middle
    assert len({x for x, _ in solid + hollow}) == len(groups)
    assert [x for x, _ in solid + hollow if round(x) == 1] == [1]


@pytest.mark.parametrize("groups", [[0, 2, 2], [1]])
def test_groups_that_are_absent_are_left_out(groups):
    result = basins(groups)
    fig = basin_figure(result, "title")
    labels = [text.get_text().rsplit(" ", 1)[1] for text in fig.axes[0].get_legend().get_texts()]
    assert labels == [f"({groups.count(group)})" for group in sorted(set(groups))]
    assert_nothing_is_cut_off(fig)


def test_points_that_never_lived_are_drawn():
    result = basins([0, 0])
    result.critical_time[:] = 0
    fig = basin_figure(result, "title")
    (marks,) = fig.axes[1].collections
    assert marks.get_clim() == (0, 1) and marks.get_array().tolist() == [0, 0]
    assert fig.axes[2].get_ylim()[0] <= 0


@EVERY
def test_the_same_numbers_give_the_same_bytes(draw, tmp_path):
    """And what is given stays as it was."""
    arguments, state = all_data()[draw], np.random.get_state()[1].copy()
    before = copy.deepcopy(arguments)
    assert_files_of_a_figure(lambda: draw(*arguments), tmp_path)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    for one, other in zip(arguments, before):
        plain = [vars(part) if hasattr(part, "args") else part for part in (one, other)]
        np.testing.assert_equal(*plain)
