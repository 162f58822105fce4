"""The figure of relative energies; `groups` are explained in utils/figures/groups.py."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from utils.figures.groups import CAPTION, Values, filled, quartile_figure
from utils.figures.style import PALE, styled

TOO_SMALL = 0.01  # part of a linear axis: bars nearer to 0 cannot be read


@styled
def energy_figure(groups: Values, t: int, references: int) -> Figure:
    """The relative energy u(r) - u(x) of samples x at time t over K: medians and quartiles of [n].

    Each value is the mean over `references` references r; above 0, x lies deeper than these. The
    axis is linear unless some bars would be too near to 0 on it; then it is logarithmic on both
    sides of 0, and the caption says so. Raises ValueError without samples."""
    subject = "one reference" if references == 1 else f"mean over {references} references"
    caption = f"{subject}; higher: the sample lies deeper; bars: quartiles"
    label = f"Relative energy u(r) - u(x) at t = {t}"
    fig, reaches = quartile_figure(filled(groups), label, caption)
    (ax,) = fig.axes
    ax.axhline(0, color=PALE, linewidth=0.8, zorder=1)
    reaches = reaches[reaches > 0]
    if len(reaches) and reaches.min() < TOO_SMALL * reaches.max():
        # There is no room for more than six decades.
        least = math.floor(math.log10(max(reaches.min(), 1e-6 * reaches.max())))
        most = math.ceil(math.log10(reaches.max()))
        edge = 10.0**least
        ax.set_yscale("symlog", linthresh=edge)
        ax.autoscale_view(scalex=False)  # the margins were those of the linear axis
        caption = ax.get_title(loc="left")
        ax.set_title(f"{caption}\nlog axis, linear from {-edge:g} to {edge:g}", **CAPTION)
        # matplotlib's default ticks would overlap between 0 and the edge.
        ticks = 10.0 ** np.arange(least, most + 1, math.ceil((most - least) / 5))
        low, high = ax.get_ylim()
        ax.set_yticks([t for t in (*-ticks[::-1], 0, *ticks) if low <= t <= high])
    return fig
