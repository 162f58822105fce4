"""The figure of energies: its labels and its axis."""

import numpy as np
import pytest

from tests.helpers.figures import assert_nothing_is_cut_off, texts
from utils.stages.energy.figures import energy_figure


def test_energies_are_labelled():
    fig = energy_figure({"memorized": {2: np.array([1.0, np.nan, 3.0])}}, 7, 3)
    assert fig.axes[0].containers[0][0].get_ydata().tolist() == [2]
    assert "Relative energy u(r) - u(x) at t = 7" in texts(fig)
    caption = "mean over 3 references; higher: the sample lies deeper; bars: quartiles"
    assert f"{caption}; not finite: 1 of 3" in texts(fig)
    far = {2: np.array([1e5, np.inf]), 64: np.array([1.0])}  # the log axis has a caption of its own
    assert any("not finite: 1 of 3\nlog" in t for t in texts(energy_figure({"a": far}, 0, 3)))
    assert any(t.startswith("one reference;") for t in texts(energy_figure({"a": {2: [1]}}, 0, 1)))


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ({2: [90, 100, 110], 64: [-3, -2, -1]}, "linear"),  # 2 % of the axis: small but readable
        ({2: [-90, 0, 110], 64: [-90, 1e-6, 90]}, "linear"),  # near 0, but the bars are not
        ({2: [9000, 10000, 11000], 64: [-3, -2, -1]}, "symlog"),
        ({2: [9000, 10000, 11000], 64: [0, 0, 0]}, "linear"),  # no scale tells 0 from 0
        ({2: [1e9, 1e9, 1e9], 64: [-1e-9, -1e-9, -1e-9], 128: [1, 1, 1]}, "symlog"),
    ],
)
def test_the_axis_of_energies_hides_nothing(values, scale):
    fig = energy_figure({"memorized": {k: np.array(v, float) for k, v in values.items()}}, 0, 4)
    (ax,) = fig.axes
    assert ax.get_yscale() == scale
    assert any("log axis, linear from" in text for text in texts(fig)) == (scale == "symlog")
    assert_nothing_is_cut_off(fig)
    if scale == "symlog":
        boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
        assert len(boxes) >= 4  # 0, and enough to read the others from
        assert all(a.y1 <= b.y0 for a, b in zip(boxes, boxes[1:]))
        drawn = ax.transData.transform([(2, v) for v in (*np.ravel(list(values.values())),)])[:, 1]
        assert np.ptp(drawn) > 0.8 * ax.bbox.height  # no limits left from the linear axis
