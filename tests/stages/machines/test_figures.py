"""Figures of the machines: everything is drawn, nothing is cut off, whatever is missing."""

import math

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from tests.helpers.comparisons import interval, seeds_of, stored_of
from tests.helpers.figures import assert_files_of_a_figure, assert_nothing_is_cut_off, colour, texts
from utils.cli.options.choices import CLASSES, MACHINE_NAMES
from utils.stages.machines.figures import (
    MACHINE_LOOKS,
    classes_figure,
    map_figure,
    mixture_figure,
    seeds_figure,
)
from utils.stages.machines.files import HELD_OUT, SAMPLES, SETS, TRAINING

ALL = tuple(MACHINE_NAMES)
NAN = (math.nan,) * 3
MANY = [2**i for i in range(12)]
GROUPS = (*SETS, *CLASSES)
SWEEPS = {
    "one K": {64: stored_of(64, groups=GROUPS)},
    "many K": {k: stored_of(k, ALL, (20, 50, 100, 200, 400), GROUPS, best="exact") for k in MANY},
    "one t": {k: stored_of(k, ALL, (20,), GROUPS) for k in (2, 8)},
    "one machine": {k: stored_of(k, ("local",), groups=GROUPS) for k in (2, 8)},
    "no held-out images": {k: stored_of(k, groups=(TRAINING, SAMPLES, "spurious")) for k in (2, 8)},
    "sets that some K lack": {
        2: stored_of(2, groups=(TRAINING, SAMPLES)),
        8: stored_of(8, groups=GROUPS),
    },
    "nothing to explain": {
        1: stored_of(1, groups=GROUPS, r2=NAN, best=None),
        8: stored_of(8, groups=GROUPS),
    },
    "nothing to explain anywhere": {1: stored_of(1, groups=GROUPS, r2=NAN, best=None)},
    "far from every machine": {
        k: stored_of(k, groups=GROUPS, r2=interval(-1e6, 5.0), tied=["exact"]) for k in (2, 8)
    },
    "a million images": {k: stored_of(k, groups=GROUPS) for k in (2, 1_000_000)},
}
DRAWINGS = (map_figure, mixture_figure, classes_figure)


@pytest.mark.parametrize("name", SWEEPS)
def test_nothing_is_cut_off(name):
    for draw in DRAWINGS:
        assert_nothing_is_cut_off(draw(SWEEPS[name]))


@pytest.mark.parametrize("count", [1, 5, 20])
def test_the_samples_of_any_number_of_seeds(count):
    fig = samples_of(count)
    assert_nothing_is_cut_off(fig)
    assert len(fig.axes[0].images) == 6 * min(16, count)


def samples_of(count, known=True, medians=None):
    arrays = seeds_of(count, ALL, known)
    images = [arrays[f"seed-{name}"] for name in ("network", "machines", "classes")]
    medians = dict.fromkeys(ALL, -0.25) if medians is None else medians
    return seeds_figure(1_000_000, ALL, *images, medians)


def test_files_of_the_figures(tmp_path):
    sweep = SWEEPS["one K"]
    for draw in (map_figure, mixture_figure, lambda _: samples_of(2)):
        assert_files_of_a_figure(lambda d=draw: d(sweep), tmp_path)


def cells(ax):
    """The colours of a map by (column, row)."""
    boxes = [p for p in ax.patches if isinstance(p, Rectangle)]
    return {
        (round(p.get_x() + 0.5), round(p.get_y() + 0.5)): colour(p.get_facecolor()) for p in boxes
    }


def test_the_map_shows_the_best_machine_and_its_r2():
    sweep = {2: stored_of(2, best="exact"), 8: stored_of(8, tied=["wiener"])}
    fig = map_figure(sweep)
    assert [ax.get_title() for ax in fig.axes[:3]] == [
        *("Training images", "Held-out images", "The network's samples")
    ]
    looks = [colour(MACHINE_LOOKS[name].colour) for name in ("exact", "local")]
    for ax in fig.axes[:3]:
        assert cells(ax) == {(i, row): looks[i] for i in (0, 1) for row in (0, 1)}
        assert [t.get_text() for t in ax.texts] == ["0.20", "0.20", "(0.90)", "(0.90)"]
        assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "8"]
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["2", "10"]


def test_a_cell_without_a_best_machine_is_a_dash():
    ax = map_figure(SWEEPS["nothing to explain"]).axes[0]
    assert [t.get_text() for t in ax.texts] == ["–", "–", "0.90", "0.90"]
    assert {column for column, _ in cells(ax)} == {1}


def test_r2_far_below_0_fits_into_a_cell():
    assert "(< -9)" in texts(map_figure(SWEEPS["far from every machine"]))


def test_bars_are_the_weights_of_the_best_mixture():
    fig = mixture_figure({2: stored_of(2), 8: stored_of(8)})
    lower = fig.axes[2]
    heights = [p.get_height() for p in lower.patches]
    np.testing.assert_allclose(heights, [0.25, 0.25, 0, 0, 0.75, 0.75])
    assert [p.get_y() for p in lower.patches][4:] == [0.25, 0.25]
    assert [t.get_text() for t in lower.texts] == ["0.90", "0.90"]
    assert "held-out images" in " ".join(texts(fig))


def test_mixtures_are_on_training_images_where_none_is_held_out():
    words = " ".join(texts(mixture_figure(SWEEPS["no held-out images"])))
    assert "training images, noised" in words and HELD_OUT not in words.lower()


def test_curves_lack_the_k_that_has_no_value():
    upper = mixture_figure(SWEEPS["nothing to explain"]).axes[0]
    assert [list(line.get_xdata()) for c in upper.containers for line in c.lines[:1]] == [[8]] * 3
    far = mixture_figure(SWEEPS["far from every machine"]).axes[0]
    assert {y for c in far.containers for y in c.lines[0].get_ydata()} == {-0.2}


def test_only_classes_that_are_there_are_shown():
    fig = classes_figure(SWEEPS["no held-out images"])
    assert [ax.get_title() for ax in fig.axes if ax.get_title()] == ["spurious samples"]
    with pytest.raises(ValueError, match=r"run_classify\.py"):
        classes_figure({8: stored_of(8)})


def test_three_times_at_most_have_curves():
    fig = mixture_figure(SWEEPS["many K"])
    assert [ax.get_title() for ax in fig.axes[:3]] == ["t = 20", "t = 100", "t = 400"]


def test_samples_of_one_class_stand_together():
    fig = samples_of(5)
    assert {"memorized", "spurious", "generalized", "network", *ALL, "-0.25"} <= set(texts(fig))
    order = [0, 3, 1, 4, 2]
    network = seeds_of(5, ALL)["seed-network"]
    for place, i in enumerate(order):
        shown = np.asarray(fig.axes[0].images[place].get_array(), np.float64)
        expected = np.asarray(network[i][0], np.float64)
        shown = shown[..., 0] if shown.ndim == 3 else shown
        assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.999
    unknown = samples_of(5, known=False, medians={})
    assert not {"memorized", "-0.25"} & set(texts(unknown))


def test_a_sweep_without_k_is_refused():
    for draw in DRAWINGS:
        with pytest.raises(ValueError, match="found none"):
            draw({})
