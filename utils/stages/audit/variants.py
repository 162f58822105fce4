"""Training images as a copy may show them: mirrored, or shifted by some pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from utils.data.views import Images, View


@dataclass(frozen=True)
class Variant:
    """A training image that is mirrored or not, cut out at (top, left) of a border of `shifts`."""

    flip: bool = False
    top: int = 0
    left: int = 0
    shifts: int = 0

    def __call__(self, images: Tensor) -> Tensor:
        """[n, C, H, W] to [n, C, H - 2 shifts, W - 2 shifts]."""
        images = images.flip(-1) if self.flip else images
        height, width = (side - 2 * self.shifts for side in images.shape[2:])
        return images[:, :, self.top : self.top + height, self.left : self.left + width]


def variants(flips: bool, shifts: int) -> list[Variant]:
    """All that training images are compared as: 2 (2 shifts + 1)^2 with flips, half without.

    The samples are cut out in the middle, so all images have the same border less."""
    steps = range(2 * shifts + 1)
    mirrored = (False, True) if flips else (False,)
    return [
        Variant(flip, top, left, shifts) for flip in mirrored for top in steps for left in steps
    ]


def middle(images: Images, shifts: int) -> Images:
    """The images without a border of `shifts` pixels."""
    return View(images, change=Variant(False, shifts, shifts, shifts)) if shifts else images


def best_of(
    known: tuple[np.ndarray, np.ndarray] | None, new: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of two results of one search: distances [n, k] and indices [n, k], each
    training image once, by its nearest variant. Ascending, equal distances by index."""
    if known is None:
        return new
    distances, indices = (np.concatenate(pair, axis=1) for pair in zip(known, new, strict=True))
    order = np.lexsort((indices, distances), axis=1)
    distances, indices = (np.take_along_axis(x, order, axis=1) for x in (distances, indices))
    same = indices[:, :, None] == indices[:, None, :]  # [n, c, c]
    again = np.tril(same, -1).any(axis=2)  # an earlier column has that image
    order = np.argsort(again, axis=1, kind="stable")[:, :k]
    return tuple(np.take_along_axis(x, order, axis=1) for x in (distances, indices))
