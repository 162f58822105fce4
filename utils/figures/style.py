"""How every picture looks: the classes' colours, the house style, empty figures to draw on.

A class has the same colour, marker, line and hatch everywhere. The colours differ in lightness
too, so that they are told apart in grey and by colour-blind readers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.cli.options.choices import CLASSES

if TYPE_CHECKING:  # matplotlib is loaded by the first picture: training needs none for its grids
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Look(NamedTuple):
    """How a class is drawn, wherever it is drawn."""

    colour: str
    marker: str
    line: str
    hatch: str


CLASS_LOOKS = (  # in the order of verdicts.CLASSES: memorized, spurious, generalized
    Look("#9E2A2B", "o", "-", ""),
    Look("#EBA92A", "^", "--", "////"),
    Look("#3A8FC8", "s", "-.", "...."),
)
INK, PALE, FAINT = "#222222", "#666666", "#D9D9D9"
LIGHTEST = 0.8  # of viridis: what lies beyond is too pale for white paper
LINES = ("-", "--", "-.", ":")
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
    "pdf.fonttype": 42,  # fonts as TrueType: a journal's programs can read them
}


def styled(draw: Callable) -> Callable:
    """Run draw under the house style, whatever the user's matplotlibrc says."""

    @functools.wraps(draw)
    def drawn(*args: Any, **options: Any) -> Any:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **options)

    return drawn


def k_looks(sizes: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Colour and style of the line of each K: from dark to light as K grows, and neighbours
    differ in their dashes, which tell them apart in grey too."""
    from matplotlib import colormaps

    sizes = sorted(sizes)
    shades = colormaps["viridis"](np.linspace(0, LIGHTEST, len(sizes)))
    return {
        k: {"color": tuple(shade), "linestyle": LINES[i % len(LINES)]}
        for i, (k, shade) in enumerate(zip(sizes, shades, strict=True))
    }


def distance_label(metric: str) -> str:
    """The name of an axis of distances: `distance_label("alex") == "LPIPS (alex)"`."""
    return "Euclidean distance (L2)" if metric == "l2" else f"LPIPS ({metric})"


def three_digits(value: float) -> str:
    """A distance as in a table: 0.7 is `0.700`, 1234.4 is `1234`."""
    return f"{value:.0f}" if 99.95 <= value < 1e6 else f"{value:#.3g}"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches whose parts make room for each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def blank_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one bare axes over all of it, in inches from the upper left corner."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return fig, ax


def log_ticks(ax: Axes, sizes: np.ndarray, width: float) -> None:
    """A log axis, `width` inches long, with a tick at each K and a label where there is room."""
    ax.set_xscale("log")
    low, high = math.log(sizes[0]), math.log(sizes[-1])
    margin = max(0.04 * (high - low), 0.1)
    ax.set_xlim(math.exp(low - margin), math.exp(high + margin))
    inches = (np.log(sizes) - low) * width / (high - low + 2 * margin)
    upright = 0.085 * len(str(sizes[-1])) + 0.06  # inches that a horizontal label needs
    turned = len(sizes) > 1 and np.diff(inches).min() < upright
    labels, last = [], -math.inf
    for k, at in zip(sizes, inches, strict=True):
        fits = at - last >= (0.17 if turned else upright)
        labels.append(str(k) if fits else "")
        last = at if fits else last
    ax.set_xticks(sizes, labels, rotation=45 if turned else 0)
    ax.set_xticks([], minor=True)


LOOKS = dict(zip(CLASSES, CLASS_LOOKS, strict=True))
