"""What the pictures show: their numbers, names and pixels, and that nothing is cut off."""

import io
import itertools
import os
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from tests.helpers.figures import assert_files_of_a_figure, assert_nothing_is_cut_off, sweep, texts
from tests.helpers.runs import ROOT
from utils.cli.errors import UserError
from utils.cli.options.choices import CLASSES
from utils.figures import save as figures
from utils.figures.images import image_grid, sample_sheet_figure
from utils.figures.save import figure_files, save_figure
from utils.figures.style import LOOKS, distance_label, k_looks, three_digits
from utils.stages.classify.figures import histogram_figure, neighbour_panel, transition_figure
from utils.stages.train.figures import loss_figure


@pytest.fixture(scope="module")
def digits():
    """Real digits, [32, 1, 8, 8] in [-1, 1]."""
    from sklearn.datasets import load_digits

    return (load_digits().images[:32, None] / 8 - 1).astype(np.float32)


def panel(digits, n, k, k_synth, **options):
    """A panel of n digits, their neighbours at distances 0, 1, ... and 10, 11, ..."""
    train, synth = (np.repeat(digits[None, :count], n, axis=0) for count in (k, k_synth))
    d_train, d_synth = np.tile(np.arange(k), (n, 1)), np.tile(np.arange(10, 10 + k_synth), (n, 1))
    return neighbour_panel(16, "spurious", digits[:n], train, synth, d_train, d_synth, **options)


# How colours are seen, as matrices on linear RGB: by Machado, Oliveira and Fernandes 2009, A
# Physiologically-based Model for Simulation of Color Vision Deficiency, IEEE TVCG 15(6), matrices
# for severity 1.0 in its supplement; in grey by the luminance of sRGB, IEC 61966-2-1.
SEEN = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "grey": [[0.212639, 0.715169, 0.072192]] * 3,
}
SRGB_TO_XYZ = np.array(
    [[0.412391, 0.357584, 0.180481], [0.212639, 0.715169, 0.072192], [0.019331, 0.119195, 0.950532]]
)


def cielab(colour, seen="full"):
    """L, a and b (D65) of a colour, as it is seen."""
    coded = np.array(to_rgb(colour))
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(SEEN[seen]) @ linear, 0, 1)
    xyz = SRGB_TO_XYZ @ linear / SRGB_TO_XYZ.sum(axis=1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_cielab_of_known_colours():
    """sRGB's primaries, as in Lindbloom's tables."""
    known = {"#FF0000": (53.24, 80.09, 67.20), "#00FF00": (87.73, -86.18, 83.18)}
    for colour, lab in (known | {"#FFFFFF": (100, 0, 0), "#000000": (0, 0, 0)}).items():
        np.testing.assert_allclose(cielab(colour), lab, atol=0.02)


@pytest.mark.parametrize("seen", SEEN)
def test_classes_are_told_apart_by_colour(seen):
    """By 40 in CIELAB (2 is just seen), in grey by 15; from white and from a dark page by 25."""
    shown = [cielab(look.colour, seen) for look in LOOKS.values()]
    for one, other in itertools.combinations(shown, 2):
        assert np.linalg.norm(one - other) >= (15 if seen == "grey" else 40)
    for page in ("#FFFFFF", "#14171A"):
        assert min(np.linalg.norm(one - cielab(page, seen)) for one in shown) >= 25


def test_classes_are_told_apart_by_each_part_of_their_looks():
    for part in zip(*LOOKS.values(), strict=True):
        assert len(set(part)) == 3  # colour, marker, line and hatch each tell the class


def test_colours_of_classes_are_written_in_one_place():
    for path in (ROOT / "utils").rglob("*.py"):
        text = path.read_text().upper()
        found = [look.colour for look in LOOKS.values() if look.colour in text]
        assert len(found) == (3 if path == ROOT / "utils" / "figures" / "style.py" else 0), path


@pytest.mark.parametrize("count", [1, 2, 8])
def test_lines_of_K_are_told_apart_in_grey(count):
    """Darker for smaller K, the lightest well off white; neighbours differ in their dashes."""
    looks = list(k_looks(range(count, 0, -1)).values())
    assert list(k_looks(range(count, 0, -1))) == list(range(1, count + 1))
    lightness = [cielab(look["color"], "grey")[0] for look in looks]
    assert np.all(np.diff(lightness) > 5) and max(lightness) < 80
    assert all(a["linestyle"] != b["linestyle"] for a, b in itertools.pairwise(looks))


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
    fig = histogram_figure(128, d_train, d_synth, 1.0, 1.5, "alex")
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
        (line,) = ax.lines
        assert line.get_xdata()[0] == delta
    assert r"$\delta_m$ = 1 (dashed)" in fig.axes[0].get_title()
    assert_nothing_is_cut_off(fig)


def test_histogram_of_the_ratio_criterion_has_labels_and_no_delta_m():
    labels = np.array([0, 1, 2])
    fig = histogram_figure(4, np.ones(3), np.ones(3), None, 0.5, "l2", labels=labels)
    assert not fig.axes[0].lines and len(fig.axes[1].lines) == 1
    assert [sum(bar.get_height() for bar in bars) for bars in fig.axes[0].containers] == [1, 1, 1]
    with pytest.raises(ValueError, match="labels: found None without delta_m"):
        histogram_figure(4, np.ones(3), np.ones(3), None, 0.5, "l2")


@pytest.mark.parametrize("delta", [0.0, 1e6])
def test_histogram_of_one_sample_without_another(delta):
    fig = histogram_figure(1, np.array([0.5]), np.array([np.inf]), delta, delta, "l2")
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


def test_panel_names_no_metric_that_it_was_not_told(digits):
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


def test_sheet_has_a_row_for_each_K(digits):
    fig = sample_sheet_figure({1500: digits[:3], 2: digits}, columns=5)
    assert [text for text in texts(fig)] == ["K = 2", "K = 1500"]
    assert len(fig.axes[0].images) == 5 + 3
    assert_nothing_is_cut_off(fig)


def test_losses_one_line_a_K():
    rows = [{"step": s, "loss": 1 / s, "valid_loss": None if s < 3 else 2 / s} for s in range(1, 9)]
    fig = loss_figure({64: rows, 2: rows[:1], 3: []})
    left, right = fig.axes
    assert [line.get_label() for line in left.lines] == ["K = 2", "K = 64"]
    np.testing.assert_allclose(left.lines[1].get_ydata(), [1 / s for s in range(1, 9)])
    np.testing.assert_array_equal(right.lines[1].get_xdata(), range(3, 9))
    assert left.get_yscale() == right.get_yscale() == "log"
    assert_nothing_is_cut_off(fig)
    assert_nothing_is_cut_off(loss_figure({}))


def test_grid_pixels():
    """Three 2 x 2 images: two columns, white lines, every pixel 16 times as long and wide."""
    images = np.stack([np.full((1, 2, 2), level, np.float32) for level in (-1, 0, 1)])
    images[0, 0, 0, 1] = 1
    small = np.full((7, 7), 255)  # the third image and the empty place are white as the lines
    small[1:3, 1:3], small[1:3, 4:6] = [[0, 255], [0, 0]], 128
    grid = image_grid(images)
    assert grid.dtype == np.uint8 and grid.shape == (7 * 16, 7 * 16, 3)
    np.testing.assert_array_equal(grid[::16, ::16], np.repeat(small[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(grid[15::16, 15::16], grid[::16, ::16])


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((64, 1, 8, 8), (73 * 4, 73 * 4)),
        ((5, 3, 32, 32), (67, 100)),
        ((1, 1, 28, 28), (60, 60)),
        ((2, 3, 64, 48), (66, 99)),
    ],
)
def test_grid_size(shape, size):
    assert image_grid(np.zeros(shape)).shape == (*size, 3)


def test_grid_keeps_colours_and_bears_broken_samples():
    image = np.full((1, 3, 32, 32), np.nan, np.float32)
    image[0, 1], image[0, 2] = np.inf, -7
    assert (image_grid(image)[1:-1, 1:-1] == (0, 255, 0)).all()


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (1, 2, 8, 8), (1, 8, 8), (8, 8)])
def test_grid_refuses_what_are_no_images(shape):
    with pytest.raises(ValueError, match="images: found shape"):
        image_grid(np.zeros(shape))


def test_numbers_of_a_table():
    values = (0, 0.7, 1.005, 12.34, 99.99, 1234.4, 2.5e7, 1.2e-5)
    shown = ["0.00", "0.700", "1.00", "12.3", "100", "1234", "2.50e+07", "1.20e-05"]
    assert [three_digits(value) for value in values] == shown
    assert distance_label("l2") == "Euclidean distance (L2)"


LOSSES = {2: [{"step": s, "loss": 1 / s, "valid_loss": 2 / s} for s in (1, 2)]}
DISTANCES = np.linspace(0, 2, 30), np.linspace(2, 0, 30)


@pytest.mark.parametrize(
    "draw",
    [
        lambda digits: transition_figure(sweep(2, 16)),
        lambda digits: histogram_figure(16, *DISTANCES, 1.0, 0.5, "l2"),
        lambda digits: panel(digits, 2, 2, 1, metric="l2"),
        lambda digits: sample_sheet_figure({2: digits[:3], 16: digits[:3]}),
        lambda digits: loss_figure(LOSSES),
    ],
    ids=["transition", "histogram", "panel", "sheet", "losses"],
)
def test_saved_as_png_and_pdf(digits, tmp_path, draw):
    assert_files_of_a_figure(lambda: draw(digits), tmp_path)


def test_saved_again_a_figure_stays_as_it_was(tmp_path):
    """No part moves from one drawing to the next: the PDF shows what the PNG shows."""
    fig = histogram_figure(16, *DISTANCES, 1.0, 0.5, "l2")
    files = figure_files(tmp_path / "distances-16.png")
    save_figure(fig, files[0])
    once = [path.read_bytes() for path in files]
    save_figure(fig, files[0])
    assert [path.read_bytes() for path in files] == once


def test_bytes_of_a_figure_are_those_of_any_process(tmp_path):
    """Names of fonts in a PDF are made of hashes."""
    code = (
        "import pathlib, sys; from tests.helpers.figures import sweep; "
        "from utils.figures.save import save_figure; "
        "from utils.stages.classify.figures import transition_figure; "
        "save_figure(transition_figure(sweep(2, 16)), pathlib.Path(sys.argv[1]))"
    )
    mine, theirs = (figure_files(tmp_path / name / "figure.png") for name in ("mine", "theirs"))
    save_figure(transition_figure(sweep(2, 16)), mine[0])
    command, own = [sys.executable, "-c", code, theirs[0]], {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run(command, check=True, cwd=ROOT, env=own)
    for one, other in zip(mine, theirs):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(("side", "kept"), [(8, 2), (64, 2), (300, 0)])
def test_a_pdf_holds_small_images_pixel_by_pixel_and_large_ones_made_smaller(tmp_path, side, kept):
    images = np.random.default_rng(side).uniform(-1, 1, (2, 3, side, side))
    save_figure(sample_sheet_figure({2: images}), tmp_path / "samples.png")
    pdf = (tmp_path / "samples.pdf").read_bytes()
    sizes = re.findall(rb"/Width (\d+) /Height (\d+)", pdf)
    assert sizes.count((b"%d" % side,) * 2) == kept and sizes
    assert len(pdf) < 300_000


def test_a_figure_has_one_name_with_two_endings(tmp_path):
    files = figure_files(tmp_path / "circle-t0.15.png")
    assert files == (tmp_path / "circle-t0.15.png", tmp_path / "circle-t0.15.pdf")
    for name in ("circle-t0.15", "circle.pdf"):
        with pytest.raises(ValueError, match=r"picture: found .*; give a name that ends with .png"):
            save_figure(loss_figure({}), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_saved_nowhere(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose a folder that you may write"):
        save_figure(loss_figure({}), tmp_path / "file" / "loss.png")


def test_the_users_matplotlib_style_stays_as_it_was_and_out():
    """Same bytes under another style, which is untouched afterwards."""

    def picture():
        file = io.BytesIO()
        figures.styled(lambda fig: fig.savefig(file))(transition_figure(sweep(2, 16)))
        return file.getvalue()

    plain = picture()
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9}):
        assert picture() == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_a_grid_needs_neither_matplotlib_nor_torch():
    code = (
        "import sys, numpy; from utils.figures.images import image_grid; "
        "image_grid(numpy.zeros((1, 1, 8, 8))); "
        "print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
