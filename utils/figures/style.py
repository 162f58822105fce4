"""The style of all figures: the classes' colours, matplotlib's settings, empty figures.

A class has the same colour, marker, line and hatch everywhere. The colours also differ in
lightness, for prints in grey and colour-blind readers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.cli.options.choices import CLASSES, CUTOFFS, DESCRIPTOR, is_normalised, metric_family

if TYPE_CHECKING:  # matplotlib is loaded with the first figure: training needs none for its grids
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Look(NamedTuple):
    """How a class is drawn in every figure."""

    colour: str
    marker: str
    line: str
    hatch: str


CLASS_LOOKS = (  # in the order of CLASSES: memorized, spurious, generalized
    Look("#9E2A2B", "o", "-", ""),
    Look("#EBA92A", "^", "--", "////"),
    Look("#3A8FC8", "s", "-.", "...."),
)
LOOKS = dict(zip(CLASSES, CLASS_LOOKS, strict=True))
INK, PALE, FAINT = "#222222", "#666666", "#D9D9D9"
LIGHTEST = 0.8  # of viridis: lighter colours are too pale on white paper
LINES = ("-", "--", "-.", ":")
COSINES = (1, 0.9, 0.7, 0.5, 0.2, 0, -0.5, -1)  # of an axis of cosine similarities
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "pdf.fonttype": 42,  # TrueType fonts, which journals require
}


def styled(draw: Callable) -> Callable:
    """Run draw with STYLE, whatever the user's matplotlibrc says."""

    @functools.wraps(draw)
    def drawn(*args: Any, **options: Any) -> Any:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **options)

    return drawn


def k_looks(sizes: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Colour and style of the line of each K: from dark to light as K grows; neighbours differ in
    their dashes, for prints in grey."""
    from matplotlib import colormaps

    sizes = sorted(sizes)
    shades = colormaps["viridis"](np.linspace(0, LIGHTEST, len(sizes)))
    return {
        k: {"color": tuple(shade), "linestyle": LINES[i % len(LINES)]}
        for i, (k, shade) in enumerate(zip(sizes, shades, strict=True))
    }


def distance_label(metric: str) -> str:
    """The name of an axis of distances: `distance_label("alex") == "LPIPS (alex)"`."""
    named = {"l2": "Euclidean distance (L2)", DESCRIPTOR: f"Distance ({metric})"}
    return named.get(metric_family(metric) or "", f"LPIPS ({metric})")


def add_cosine_axis(ax: Axes, metric: str) -> None:
    """The cosine similarity s = 1 - d^2 / 2 above an axis of distances d, where embeddings have
    norm 1; and, as dotted lines, the similarities from which published studies speak of copies."""
    if not is_normalised(metric):
        return

    def cosine(d: np.ndarray) -> np.ndarray:
        return 1 - np.square(d) / 2

    def distance(s: np.ndarray) -> np.ndarray:
        return np.sqrt(2 * np.clip(1 - np.asarray(s), 0, None))

    top = ax.secondary_xaxis("top", functions=(cosine, distance))
    top.set_xlabel("cosine similarity")
    last, first = cosine(np.array(ax.get_xlim()))[::-1]
    top.set_ticks([s for s in COSINES if last <= s <= first])
    for name, value in CUTOFFS.items():
        if name.startswith(f"{metric}-"):
            ax.axvline(float(distance(value)), color=PALE, linestyle=":", linewidth=0.8)


def three_digits(value: float) -> str:
    """A distance as in a table: 0.7 is `0.700`, 1234.4 is `1234`."""
    return f"{value:.0f}" if 99.95 <= value < 1e6 else f"{value:#.3g}"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, with matplotlib's constrained layout."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def blank_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure covered by one axes without frame, in inches from the upper left corner."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return fig, ax


def log_ticks(ax: Axes, sizes: np.ndarray, width: float) -> None:
    """Make the x axis logarithmic, with a tick at each K and a label where it fits.

    sizes: the K, ascending. width: of the axes in inches."""
    ax.set_xscale("log")
    low, high = math.log(sizes[0]), math.log(sizes[-1])
    margin = max(0.04 * (high - low), 0.1)
    ax.set_xlim(math.exp(low - margin), math.exp(high + margin))
    inches = (np.log(sizes) - low) * width / (high - low + 2 * margin)
    horizontal = 0.085 * len(str(sizes[-1])) + 0.06  # inches that a horizontal label needs
    turned = len(sizes) > 1 and np.diff(inches).min() < horizontal
    labels, last = [], -math.inf
    for k, at in zip(sizes, inches, strict=True):
        fits = at - last >= (0.17 if turned else horizontal)
        labels.append(str(k) if fits else "")
        last = at if fits else last
    ax.set_xticks(sizes, labels, rotation=45 if turned else 0)
    ax.set_xticks([], minor=True)
