"""What report.js does with the bins of the report, for comparison."""

import numpy as np


def shares_at(flat, i, j):
    """(memorized, spurious, generalized): counts for thresholds at edge i of x and edge j of y."""
    x_bin, y_bin, count = np.reshape(flat, (-1, 3)).T
    memorized = x_bin <= i
    spurious = ~memorized & (y_bin <= j)
    return tuple(int(count[part].sum()) for part in (memorized, spurious, ~memorized & ~spurious))
