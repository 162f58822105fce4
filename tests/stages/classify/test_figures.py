"""Figures of the classes: the transition, histograms of distances, panels of neighbours."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import StepPatch

from tests.helpers.figures import (
    assert_nothing_is_cut_off,
    panel,
    sweep,
    texts,
)
from tests.helpers.images import real_digits
from tests.helpers.judged import judged_distances, real_sets, row_of
from utils.cli.options.choices import CLASSES
from utils.figures.style import LOOKS
from utils.stages.classify.figures import (
    histogram_figure,
    neighbour_panel,
    states_figure,
    transition_figure,
)


@pytest.fixture(scope="module")
def digits():
    """Real digits, [32, 1, 8, 8] in [-1, 1]."""
    return real_digits(32).numpy()


def test_transition_shows_shares_and_intervals_in_percent():
    rows = sweep(2, 16, 128, 1500)
    fig = transition_figure(rows[::-1])
    (ax,) = fig.axes
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "16", "128", "1500"]
    assert ax.get_ylabel() == "Share of samples (%)"
    assert [bars.get_label() for bars in ax.containers] == list(CLASSES)
    for name, bars in zip(CLASSES, ax.containers, strict=True):
        line, _, (segments,) = bars.lines
        np.testing.assert_array_equal(line.get_xdata(), [2, 16, 128, 1500])
        np.testing.assert_allclose(line.get_ydata(), [100 * row[f"{name}_share"] for row in rows])
        drawn = np.array(segments.get_segments())[:, :, 1]
        stored = [[100 * row[f"{name}_{end}"] for end in ("low", "high")] for row in rows]
        np.testing.assert_allclose(drawn, stored, atol=1e-9)
        assert to_hex(line.get_color()).upper() == LOOKS[name].colour
        assert line.get_marker() == LOOKS[name].marker
    assert_nothing_is_cut_off(fig)


def test_transition_reads_rows_of_a_csv_file():
    rows = [{key: str(value) for key, value in row.items()} for row in sweep(100, 20, 3)]
    line = transition_figure(rows).axes[0].containers[0].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [3, 20, 100])


def test_transition_shows_the_controls():
    rows = [row_of(k, [0, 1, 2, 2], np.array([1, 2, 2, 2])) for k in (2, 8)]
    fig = transition_figure(rows)
    thin = {line.get_label(): line.get_ydata().tolist() for line in fig.axes[0].lines}
    assert thin["memorized, real images"] == [0, 0] and thin["spurious, real images"] == [25, 25]
    legend = [text.get_text() for text in fig.legends[0].get_texts()]
    assert legend[:3] == list(CLASSES) and len(legend) == 5
    assert_nothing_is_cut_off(fig)


@pytest.mark.parametrize("sizes", [(7,), (2, 3), (64, 65, 66, 50_000), tuple(range(1, 60))])
def test_labels_of_K_do_not_overlap(sizes):
    fig = transition_figure(sweep(*sizes))
    assert_nothing_is_cut_off(fig)
    labels = [label for label in fig.axes[0].get_xticklabels() if label.get_text()]
    assert labels and len(fig.axes[0].get_xticks()) == len(sizes)
    boxes = [label.get_window_extent() for label in labels]
    if labels[0].get_rotation() == 0:
        assert all(a.x1 <= b.x0 for a, b in zip(boxes, boxes[1:], strict=False))
    else:  # turned by 45 degrees, they are apart where their middles are a line's height apart
        apart = np.diff([(box.x0 + box.x1) / 2 for box in boxes])
        assert apart.min() >= labels[0].get_fontsize() * fig.dpi / 72


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="rows: found none"):
        transition_figure([])


def test_histogram_counts_every_sample_in_its_class():
    rng = np.random.default_rng(0)
    d_train, d_synth = rng.uniform(0, 3, (2, 200))
    judged, labels = judged_distances(128, d_train, d_synth, real_sets(3, 200), limits=(1.0, 1.5))
    judged.row["metric"] = "alex"
    fig = histogram_figure(judged, labels)
    counts = {
        "memorized": np.sum(d_train <= 1),
        "spurious": np.sum((d_train > 1) & (d_synth <= 1.5)),
        "generalized": np.sum((d_train > 1) & (d_synth > 1.5)),
    }
    for ax, delta in zip(fig.axes, (1.0, 1.5), strict=True):
        assert ax.get_xlabel() == "LPIPS (alex)"
        for name, bars in zip(CLASSES, ax.containers, strict=True):
            assert sum(bar.get_height() for bar in bars) == counts[name]
            assert to_hex(bars[0].get_facecolor()).upper() == LOOKS[name].colour
            assert (bars[0].get_hatch() or "") == LOOKS[name].hatch
        (real,) = [patch for patch in ax.patches if isinstance(patch, StepPatch)]
        assert real.get_data().values.sum() <= 200.01  # 600 real images, scaled to as many samples
        (line,) = ax.lines
        assert line.get_xdata()[0] == delta
    assert r"$\delta_m$ = 1 (dashed)" in fig.axes[0].get_title()
    assert_nothing_is_cut_off(fig)


def test_histogram_of_the_ratio_criterion_has_no_thresholds():
    judged, _ = judged_distances(4, np.ones(3), np.ones(3))
    judged.row.update(delta_m=None, delta_s=None)
    fig = histogram_figure(judged, np.array([0, 1, 2]))
    assert not fig.axes[0].lines and not fig.axes[1].lines
    assert [sum(bar.get_height() for bar in bars) for bars in fig.axes[0].containers] == [1, 1, 1]


@pytest.mark.parametrize("delta", [0.0, 1e6])
def test_histogram_of_one_sample_without_another(delta):
    fig = histogram_figure(
        *judged_distances(1, np.array([0.5]), np.array([np.inf]), limits=(delta, delta))
    )
    assert fig.axes[0].get_xlim()[1] < 1  # a far threshold does not squeeze the bars
    assert not sum(bar.get_height() for bars in fig.axes[1].containers for bar in bars)
    assert_nothing_is_cut_off(fig)


@pytest.mark.parametrize(("n", "k", "k_synth"), [(12, 5, 5), (3, 2, 0), (1, 1, 1), (2, 1, 0)])
def test_panel_shows_each_neighbour_with_its_distance(digits, n, k, k_synth):
    fig = panel(digits, n, k, k_synth, metric="vgg")
    rows = min(n, 8)
    (ax,) = fig.axes
    assert len(ax.images) == rows * (1 + k + k_synth)
    words = [" ".join(text.split()) for text in texts(fig)]
    assert {"K = 16: spurious", "Sample", "LPIPS (vgg)"} <= set(words)
    assert words.count("0.00") == rows and words.count("10.0") == rows * (k_synth > 0)
    plural = "s" if k > 1 else ""
    assert f"Nearest training image{plural}" in words
    assert any("synthetic" in word for word in words) == (k_synth > 0)
    edges = [to_hex(patch.get_edgecolor()).upper() for patch in ax.patches]
    assert edges.count(LOOKS["spurious"].colour) == rows
    assert_nothing_is_cut_off(fig)
    # Every tile lies within the figure, and none on another.
    boxes = sorted(tuple(image.get_extent()) for image in ax.images)
    assert len({(round(box[0], 6), round(box[3], 6)) for box in boxes}) == len(boxes)
    assert all(0 < b[0] < b[1] < ax.get_xlim()[1] and b[2] < ax.get_ylim()[0] for b in boxes)


def test_a_panel_without_a_metric_names_none(digits):
    assert not any("distance" in text or "LPIPS" in text for text in texts(panel(digits, 2, 2, 2)))


def test_headings_do_not_run_into_each_other(digits):
    for k in (1, 2, 3, 5):
        fig = panel(digits, 1, k, k)
        fig.draw_without_rendering()
        heads = [t for t in fig.axes[0].texts if t.get_text().startswith(("Sample", "Nearest"))]
        boxes = [head.get_window_extent() for head in heads]
        assert len(boxes) == 3 and all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False))


def test_panel_of_colour_images_and_of_none():
    colour = np.zeros((1, 3, 4, 4), np.float32)
    colour[:, 0], one = 1, np.ones((1, 1))
    fig = neighbour_panel(2, "memorized", colour, colour[:, None], colour[:, None], one, one)
    assert all((image.get_array() == (255, 128, 128)).all() for image in fig.axes[0].images)
    with pytest.raises(ValueError, match="samples: found none"):
        neighbour_panel(2, "memorized", colour[:0], colour, colour, [], [])


def test_states_are_rows_with_their_training_images(digits):
    members = [digits[:5], digits[5:8]]
    near, d_near = [digits[8:11], digits[11:14]], [np.array([1.0, 1.5, 2.0])] * 2
    fig = states_figure(32, members, near, [np.full(5, 0.25), np.full(3, 0.5)], d_near, "l2")
    words = texts(fig)
    assert "K = 32: spurious states, the largest first" in words
    assert sum(word == "0.250" for word in words) == 5
    assert sum(word == "0.500" for word in words) == 3
    assert sum(word == "1.50" for word in words) == 2
    assert len(fig.axes[0].images) == 5 + 3 + 3 + 3
    assert_nothing_is_cut_off(fig)
    with pytest.raises(ValueError, match="members: found none"):
        states_figure(32, [], [], [], [], "l2")
