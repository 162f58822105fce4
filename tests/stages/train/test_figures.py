"""The figure of training losses."""

import numpy as np

from tests.helpers.figures import assert_nothing_is_cut_off
from utils.stages.train.figures import loss_figure


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
