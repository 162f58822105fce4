"""Each pixel from its neighbourhood alone: a square, or pixels that a linear filter looks at."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from models.closed_form import ClosedForm
from models.machines.wiener import WienerDenoiser
from models.schedule import Schedule

CPU_CHUNK_BYTES = 2**20  # float64 of one image's squared differences: they fit into a cache
GPU_CHUNK_BYTES = 2**27
FILTER_BYTES = 2**26  # of the rows of a Wiener filter that are looked at together
# Up to this share of neighbours a sparse product is faster: 0.22 ns a neighbour against 0.04 ns a
# pixel, on one core of an EPYC.
SPARSE_SHARE = 1 / 6
BORDERS = ("image", "circular")


class PosteriorMean:
    """sum_m w_m y_m with w = softmax_m(logits), patterns given in parts.

    log sum_m exp(logits_m) of the parts so far is kept: it weighs them against the next one."""

    def __init__(self) -> None:
        self._log_sum: Tensor | None = None

    def add(self, logits: Tensor, combine: Callable[[Tensor], Tensor]) -> None:
        """logits [..., k] of the next k patterns; combine(w [..., k]): sum_m w_m y_m over them,
        with the axes of `logits` but the last one at its end."""
        # Not exp: far below the largest logit it is five times as slow as near it, softmax is not.
        w = logits.softmax(-1)
        # The largest weight is exp(0) over the sum relative to the largest logit.
        log_sum, mean = logits.amax(-1) - w.amax(-1).log(), combine(w)
        if self._log_sum is not None:
            total = torch.logaddexp(log_sum, self._log_sum)
            mean = (log_sum - total).exp() * mean + (self._log_sum - total).exp() * self._mean
            log_sum = total
        self._log_sum, self._mean = log_sum, mean

    def value(self) -> Tensor:
        return self._mean


class NeighbourhoodDenoiser(ClosedForm):
    """Each pixel is the posterior mean of that pixel given its neighbourhood N(i) in x_t.

        D(x, t)[c, i] = sum_m w_m(i) y_m[c, i],
            w(i) = softmax_m(-sum_{j in N(i)} |x[:, j] - sqrt(a) y_m[:, j]|^2 / (2 (1 - a)))

    over the K patterns y_m, a = alpha_bar_t; i and j are positions with all their channels.
    sides: the odd patch side p, or {t: p}; a time between takes the p of the t that is nearest in
    log(a / (1 - a)). Patterns, x_t, t and what is raised: as for every `ClosedForm`, and ValueError
    for other sides. Not a gradient field unless N(i) is the image: there is no density to it.

    The squared differences of an image and a pattern are taken once, and summed over all
    neighbourhoods by matrix products, so that the cost hardly depends on p. Needs under 100 MiB
    beside its copy of the patterns, whatever K."""

    def __init__(
        self, patterns: Tensor, schedule: Schedule, sides: int | Mapping[int, int]
    ) -> None:
        super().__init__(patterns, schedule)
        self._sides = self._by_noise(sides)
        images = patterns.detach().to(self._compute_device)
        self._patterns = images.permute(1, 2, 3, 0).contiguous()  # [C, H, W, K]
        height, width = self.shape[1:]
        size = CPU_CHUNK_BYTES if self._compute_device.type == "cpu" else GPU_CHUNK_BYTES
        self._chunk = max(1, size // (8 * height * width))

    def side(self, alpha_bar: float) -> int:
        """The patch side p at this alpha_bar."""
        logit = torch.logit(torch.tensor(alpha_bar, dtype=torch.float64)).item()
        return min(self._sides, key=lambda entry: abs(entry[0] - logit))[1]

    def with_sides(self, sides: int | Mapping[int, int]) -> NeighbourhoodDenoiser:
        """The same machine with other patch sides; it shares the patterns."""
        other = copy.copy(self)
        other._sides = self._by_noise(sides)
        return other

    def mean(self, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        if not len(x_t):
            return x_t
        values = alpha_bar[:, 0]
        means, places = [], []
        for value in values.unique():
            rows = (values == value).nonzero()[:, 0]
            means.append(self.mean_at(x_t[rows], value.item()))
            places.append(rows)
        return torch.cat(means)[torch.cat(places).argsort()]

    @abstractmethod
    def minus_summed(self, alpha_bar: float) -> Callable[[Tensor], Tensor]:
        """Minus the sum over the neighbourhood of each position, of squares [H, W, k]."""

    def mean_at(self, x: Tensor, alpha_bar: float) -> Tensor:
        """D of images x [B, C, H, W], all at this alpha_bar."""
        minus_summed, means = self.minus_summed(alpha_bar), [PosteriorMean() for _ in x]
        # Squares of these differences are logits: nothing is left to divide.
        scale = (2 * (1 - alpha_bar)) ** -0.5
        x = scale * x
        for part in self._patterns.split(self._chunk, -1):
            y = part.double()  # [C, H, W, k]
            scaled = scale * alpha_bar**0.5 * y
            for image, mean in zip(x, means, strict=True):
                logits = minus_summed(_squared_differences(image, scaled))
                mean.add(logits, lambda w, y=y: (w * y).sum(-1))
        return torch.stack([mean.value() for mean in means])

    def _by_noise(self, sides: int | Mapping[int, int]) -> list[tuple[float, int]]:
        """log(a / (1 - a)) and p for each entry. Raises ValueError where there is none, or p is
        even or below 1, or t outside 0 .. T - 1."""
        table = {0: sides} if isinstance(sides, int) else dict(sides)
        if not table:
            raise ValueError("sides: found none; give a patch side, or one for each of some t")
        for t, side in table.items():
            if side < 1 or side % 2 == 0:
                raise ValueError(f"sides: found {side}; give odd numbers, 1 or more")
            if not 0 <= t < self.schedule.timesteps:
                raise ValueError(f"sides: found t = {t}; choose 0 to {self.schedule.timesteps - 1}")
        alpha_bar = self.schedule.alpha_bar_at(list(table))
        logits = torch.logit(alpha_bar, eps=1e-300).tolist()
        return list(zip(logits, table.values(), strict=True))


def _squared_differences(image: Tensor, patterns: Tensor) -> Tensor:
    """sum_c (image[c] - patterns[c])^2, [H, W, k], of [C, H, W] and [C, H, W, k]."""
    squares = None
    for own, others in zip(image, patterns, strict=True):
        difference = own[..., None] - others
        square = difference * difference
        squares = square if squares is None else squares + square
    return squares


class LocalDenoiser(NeighbourhoodDenoiser):
    """The neighbourhood of a pixel is the p x p square around it, cut off at the borders.

    borders: image, or circular (the square goes on at the opposite side). p = 2 max(H, W) - 1
    covers the image from every pixel: the exact model. p = 1 is the posterior mean of each pixel by
    itself. Formula: `NeighbourhoodDenoiser`. Source: the local score machine of Kamb and Ganguli
    2024, arXiv 2412.20292."""

    def __init__(
        self,
        patterns: Tensor,
        schedule: Schedule,
        sides: int | Mapping[int, int],
        borders: str = "image",
    ) -> None:
        if borders not in BORDERS:
            raise ValueError(f"borders: found {borders!r}; choose {' or '.join(BORDERS)}")
        super().__init__(patterns, schedule, sides)
        self.borders = borders

    def minus_summed(self, alpha_bar: float) -> Callable[[Tensor], Tensor]:
        side = self.side(alpha_bar)
        if side == 1:
            return torch.neg
        down, across = (self._band(size, side) for size in self.shape[1:])

        minus_across = -across

        def minus_summed(squares: Tensor) -> Tensor:
            rows = down @ squares.flatten(1)  # [H, W k]
            return minus_across @ rows.view(squares.shape)

        return minus_summed

    def _band(self, size: int, side: int) -> Tensor:
        """[size, size], 1 where two places of an axis are within (side - 1) / 2, else 0."""
        place = torch.arange(size, device=self._compute_device)
        apart = (place[:, None] - place).abs()
        if self.borders == "circular":
            apart = torch.minimum(apart, size - apart)
        return (apart <= side // 2).double()


class PcaLocalDenoiser(NeighbourhoodDenoiser):
    """The neighbourhood of a pixel is the p^2 pixels that the Wiener filter weighs most for it.

    The weight of pixel j for pixel i at time t is the sum over channels of the squares of the
    filter sqrt(a) C (a C + (1 - a) I)^-1 of the patterns, from j to i; the first of equal ones
    count. p^2 >= H W is the exact model. Formula: `NeighbourhoodDenoiser`. [H W, H W] float64 are
    kept while a time lasts, and what `WienerDenoiser` keeps. Source: after Lukoianov et al. 2025,
    arXiv 2509.09672, who weigh pixels by this filter; here they count or do not, as in a patch."""

    def __init__(
        self, patterns: Tensor, schedule: Schedule, sides: int | Mapping[int, int]
    ) -> None:
        super().__init__(patterns, schedule, sides)
        self._wiener = WienerDenoiser(patterns, schedule)
        self._last: tuple[tuple[float, int], Tensor | _Sparse] | None = None

    def minus_summed(self, alpha_bar: float) -> Callable[[Tensor], Tensor]:
        asked = alpha_bar, self.side(alpha_bar) ** 2
        if self._last is None or self._last[0] != asked:
            minus = -self.neighbours(*asked)
            few = asked[1] <= SPARSE_SHARE * len(minus)
            self._last = asked, _Sparse.of(minus) if few else minus
        minus = self._last[1]
        return lambda squares: (minus @ squares.flatten(0, 1)).view(squares.shape)

    def neighbours(self, alpha_bar: float, count: int) -> Tensor:
        """[H W, H W] float64: 1 where the pixel of a column is one of the row's, else 0."""
        positions = self.shape[1] * self.shape[2]
        if count >= positions:
            return torch.ones(positions, positions, device=self._compute_device).double()
        parts = []
        for part in self._weights_of_pixels(alpha_bar):
            # With names alone: the method, or a position, fails below a forward derivative.
            order = torch.sort(part, stable=True, dim=1, descending=True).indices
            parts.append(torch.zeros_like(part).scatter_(1, order[:, :count], 1.0))
        return torch.cat(parts)

    def _weights_of_pixels(self, alpha_bar: float) -> Iterator[Tensor]:
        """Parts [n, H W] of the weights of pixels for pixels."""
        channels, height, width = self.shape
        positions = height * width
        a = torch.full((1, 1), alpha_bar, dtype=torch.float64, device=self._compute_device)
        step = max(1, FILTER_BYTES // (8 * self._dim * channels))
        for first in range(0, positions, step):
            end = min(first + step, positions)
            blocks = (
                self._wiener.rows(a, c * positions + first, c * positions + end)
                for c in range(channels)
            )
            yield sum(b.view(-1, channels, positions).square().sum(1) for b in blocks)


class _Sparse:
    """A constant sparse matrix whose products with tensors have all derivatives."""

    def __init__(self, matrix: Tensor, transposed: Tensor) -> None:
        self.matrix, self.transposed = matrix, transposed

    @classmethod
    def of(cls, dense: Tensor) -> _Sparse:
        return cls(dense.to_sparse(), dense.T.to_sparse())

    def __matmul__(self, other: Tensor) -> Tensor:
        return _Product.apply(other, self)


class _Product(torch.autograd.Function):
    """matrix @ other: torch itself has no forward derivative of it."""

    @staticmethod
    def forward(other: Tensor, sparse: _Sparse) -> Tensor:
        return sparse.matrix @ other

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, _Sparse], output: Tensor) -> None:
        ctx.sparse = inputs[1]

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple[Tensor, None]:
        return _Sparse(ctx.sparse.transposed, ctx.sparse.matrix) @ slope, None

    @staticmethod
    def jvp(ctx, direction: Tensor, _: None) -> Tensor:
        return ctx.sparse @ direction

    @staticmethod
    def vmap(info, in_dims: tuple, other: Tensor, sparse: _Sparse) -> tuple[Tensor, int]:
        columns = other.movedim(in_dims[0], -1)  # [n, k, several]
        return (sparse @ columns.flatten(1)).view(columns.shape), columns.dim() - 1
