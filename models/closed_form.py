"""What denoisers in closed form share: patterns, times, tiles of rows, and float64."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from models.denoiser import Denoiser
from models.schedule import Schedule

# Kernels choose the order of summation by the shape of a batch. Rows are therefore computed in
# tiles of this many, the last one padded: a row's bits depend on that row alone.
TILE_ROWS = 64
# D is padded with zeros to a multiple of this. With odd D every second row of a tile has another
# alignment, and MKL sums such rows in another order.
ALIGNED = 8


class ClosedForm(Denoiser):
    """A denoiser that follows from K training images, the patterns, by a formula.

    patterns: [K, C, H, W], K >= 1, float32 or float64 in [-1, 1]. Everywhere x_t is
    [B, C, H, W], and t an int or int64 [B] on the CPU, one for each row, in 0 .. T - 1. Everything
    is computed in float64, differentiably; images are returned like x_t. No bit of a row depends
    on the other rows of its batch. Subclasses define `mean`. Raises ValueError for other patterns,
    shapes and times."""

    def __init__(self, patterns: Tensor, schedule: Schedule) -> None:
        if patterns.dim() != 4 or not patterns.numel() or not patterns.is_floating_point():
            found = f"{patterns.dtype} {list(patterns.shape)}"
            raise ValueError(f"patterns: found {found}; give [K, C, H, W] of floats, K >= 1")
        self.schedule, self.shape = schedule, tuple(patterns.shape[1:])
        self.device = patterns.device
        # MPS has no float64: the CPU computes instead, and float64 results stay there.
        self._compute_device = torch.device("cpu") if self.device.type == "mps" else self.device
        self._dim = math.prod(self.shape)

    @abstractmethod
    def mean(self, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        """D(x_t, t): float64 [B, C, H, W], where it is computed, for x_t as there and alpha_bar
        float64 [B, 1]."""

    def x_0(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """D(x_t, t), [B, C, H, W], rounded once from float64."""
        return self._from_mean(lambda x, mean, alpha_bar: mean, x_t, t)

    def eps(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """(x_t - sqrt(alpha_bar_t) D) / sqrt(1 - alpha_bar_t), rounded once from float64."""

        def eps(x: Tensor, mean: Tensor, alpha_bar: Tensor) -> Tensor:
            return (x - alpha_bar.sqrt() * mean) / (1 - alpha_bar).sqrt()

        return self._from_mean(eps, x_t, t)

    def score(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """(sqrt(alpha_bar_t) D - x_t) / (1 - alpha_bar_t), rounded once from float64."""

        def score(x: Tensor, mean: Tensor, alpha_bar: Tensor) -> Tensor:
            return (alpha_bar.sqrt() * mean - x) / (1 - alpha_bar)

        return self._from_mean(score, x_t, t)

    def _from_mean(
        self, formula: Callable[[Tensor, Tensor, Tensor], Tensor], x_t: Tensor, t: int | Tensor
    ) -> Tensor:
        """formula(x_t, D, alpha_bar), all float64 [B, ...], as images like x_t."""
        x, alpha_bar = self._inputs(x_t, t)
        images = formula(x, self.mean(x, alpha_bar), alpha_bar[..., None, None])
        return images.to(x_t.dtype).to(x_t.device)

    def _inputs(self, x_t: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """x_t [B, C, H, W] and alpha_bar [B, 1] in float64, where they are computed with."""
        if x_t.shape[1:] != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(f"x_t: found {list(x_t.shape)}; give [B, {expected}]")
        alpha_bar = self._alpha_bar(t, len(x_t)).to(self._compute_device)[:, None]
        return x_t.to(self._compute_device).double(), alpha_bar

    def _alpha_bar(self, t: int | Tensor, rows: int) -> Tensor:
        """alpha_bar of each row, [B] float64 on the CPU."""
        t = torch.as_tensor(t, device="cpu")
        if t.dtype != torch.int64 or t.shape not in ((), (rows,)):
            raise ValueError(f"t: found {t.dtype} {list(t.shape)}; give an int or int64 [{rows}]")
        outside = t[(t < 0) | (t >= self.schedule.timesteps)]
        if len(outside):
            remedy = f"choose 0 to {self.schedule.timesteps - 1}"
            raise ValueError(f"t: found {outside[0].item()}; {remedy}")
        alpha_bar = self.schedule.alpha_bar_at(t)
        if (alpha_bar == 1).any():
            raise ValueError("t: found 0, at which this schedule has no noise; choose 1 or more")
        return alpha_bar.expand(rows)

    def _by_tiles(self, work: Callable[..., Tensor], x: Tensor, *more: Tensor) -> Tensor:
        """work(x [R, D], ...) on tiles of R rows in float64, [B, ...]; D is padded.

        x and more: images [B, C, H, W], or tables [B, n]."""
        tables = (self._vectors(y) if y.dim() == 4 else y for y in (x, *more))
        tiles = zip(*map(_tiles, tables), strict=True)
        return torch.cat([work(*tile) for tile in tiles])[: len(x)]

    def _vectors(self, images: Tensor) -> Tensor:
        """[B, C, H, W] as rows [B, D], D padded, on the device that computes."""
        flat, padding = images.to(self._compute_device).flatten(1), -self._dim % ALIGNED
        return functional.pad(flat, (0, padding)) if padding else flat

    def _images(self, flat: Tensor) -> Tensor:
        """Rows [B, D], D padded, as images [B, C, H, W]."""
        return flat[:, : self._dim].reshape(len(flat), *self.shape)


def _tiles(table: Tensor) -> tuple[Tensor, ...]:
    """table [B, n], padded with rows of zeros, as whole tiles [R, n].

    Always a copy: the order of summation may depend on the alignment in memory."""
    padding = table.new_zeros(-len(table) % TILE_ROWS, table.shape[1])
    return torch.cat([table, padding]).split(TILE_ROWS)
