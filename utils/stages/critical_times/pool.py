"""Noised copies of images, denoised by DDIM in batches that always have the same shape.

The result for a copy depends on that copy alone. Kernels choose the order of their sums by the
shape of a batch, so the shape never changes: a copy that is finished is replaced by the next one,
and rows that stay empty at the end are computed without use."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.samplers import clipped, ddim_step, recovery_times
from models.schedule import add_noise


@dataclass(frozen=True, eq=False)
class Copy:
    """A noised copy to be made of image [C, H, W] (on the CPU) at time t in 1 .. T - 1.

    Its noise, and with eta > 0 that of its steps, comes from seed; `name` is for the caller."""

    name: Hashable
    image: Tensor
    t: int
    seed: int

    def noise(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def noised(self, denoiser: Denoiser) -> Tensor:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, [C, H, W] on the CPU."""
        return _noised(self, self.noise(), denoiser)


def _noised(copy: Copy, noise: torch.Generator, denoiser: Denoiser) -> Tensor:
    # Drawn one by one, on the CPU: the numbers depend on nothing but the seed and the shape.
    eps = torch.randn(copy.image.shape, generator=noise)
    return add_noise(copy.image, eps, denoiser.schedule.alpha_bar_at(copy.t))


class RecoveryPool:
    """Denoises copies, `batch` at a time, each with its own time and number of steps left.

    steps: DDIM steps of each (see `recovery_times`); eta as in `ddim_step`. `evaluations` counts
    network evaluations of copies, `calls` the network's calls, each of `batch` rows."""

    def __init__(self, denoiser: Denoiser, batch: int, steps: int, eta: float = 0.0) -> None:
        if batch < 1:
            raise ValueError(f"batch: found {batch}; choose 1 or more")
        self.denoiser, self._steps, self._eta = denoiser, steps, eta
        self.batch = batch
        self._queue: deque[Copy] = deque()
        self._rows: list[tuple[Copy, torch.Generator] | None] = [None] * batch
        self._taken = torch.zeros(batch, dtype=torch.bool)
        self._x = torch.zeros(batch, *denoiser.shape, device=denoiser.device)
        self._t = torch.ones(batch, dtype=torch.int64)  # in an empty row any time will do
        self._stride = torch.ones(batch, dtype=torch.int64)
        self.evaluations = self.calls = 0

    def add(self, copies: Iterable[Copy]) -> None:
        self._queue.extend(copies)

    def clear(self) -> None:
        """Drop every copy that is not done."""
        self._queue.clear()
        self._taken[:] = False
        self._rows = [None] * self.batch

    @property
    def room(self) -> int:
        """Rows that would be computed for nothing if nothing were added."""
        return max(0, self._rows.count(None) - len(self._queue))

    @torch.no_grad()
    def step(self) -> tuple[list[Copy], Tensor]:
        """One network call; the copies that it ended, and what they became: [n, C, H, W].

        In [-1, 1] or NaN, float32, on the denoiser's device. Without copies there is no call."""
        self._fill()
        if not self._taken.any():
            return [], self._x[:0]
        x_0 = self.denoiser.x_0(self._x, self._t)
        self.calls += 1
        self.evaluations += int(self._taken.sum())
        later = self._t - self._stride
        ended = (self._taken & (later < 1)).nonzero().flatten()
        copies = [self._rows[i][0] for i in ended.tolist()]
        later.clamp_(min=1)
        self._x, self._t = self._ddim_step(x_0, later), later
        self._taken[ended] = False
        for i in ended.tolist():
            self._rows[i] = None
        return copies, clipped(x_0[ended.to(x_0.device)], self.denoiser)

    def _fill(self) -> None:
        """Put copies that wait into empty rows."""
        rows, noised = [], []
        for i in (~self._taken).nonzero().flatten().tolist():
            if not self._queue:
                break
            copy = self._queue.popleft()
            noise = copy.noise()
            noised.append(_noised(copy, noise, self.denoiser))
            rows.append(i)
            self._rows[i] = copy, noise
            self._t[i], self._stride[i] = copy.t, -recovery_times(copy.t, self._steps).step
        if rows:
            self._taken[rows] = True
            self._x[rows] = torch.stack(noised).to(self._x.device)

    def _ddim_step(self, x_0: Tensor, later: Tensor) -> Tensor:
        alpha_bar_t, alpha_bar_s = self.denoiser.schedule.alpha_bar_at(
            torch.stack([self._t, later])
        )
        z = self._draw() if self._eta else None
        return ddim_step(self._x, x_0, alpha_bar_t, alpha_bar_s, z, self._eta)

    def _draw(self) -> Tensor:
        shape = self.denoiser.shape
        rows = (torch.randn(shape, generator=r[1]) if r else torch.zeros(shape) for r in self._rows)
        return torch.stack(list(rows)).to(self._x.device)
