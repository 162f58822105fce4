"""Each pixel from its neighbourhood, wherever in a training image such a neighbourhood occurs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.machines.local import LocalDenoiser, PosteriorMean
from models.schedule import Schedule

# Pairs of a patch of x_t and one of the patterns that are compared together, and values of those
# of the patterns: 4 MiB each in float64.
TILE_ENTRIES = 2**19


class EquivariantDenoiser(LocalDenoiser):
    """Each pixel is the posterior mean of a patch's centre, over the patches of all positions.

        D(x, t)[c, i] = sum_{m, j} w_mj(i) y_m[c, j],
            w(i) = softmax_{m, j}(-|P_i x - sqrt(a) P_j y_m|^2 / (2 (1 - a)))

    P_i x: the p x p patch around position i. With borders image, j runs over the positions whose
    patch is cut off at the borders as that of i is: in corners and, for a large p, everywhere that
    is i alone, as in `LocalDenoiser`. With circular, over all of them, and D commutes with circular
    shifts; then p <= H, W.

    most_patches: of each kind of border so many patches of the patterns are compared at most, drawn
    at random once (by `seed`); None: all. Needs under 100 MiB beside its copy of the patterns, and
    up to 160 bytes for each of most_patches, whatever K.
    Source: the equivariant local score machine, with borders, of Kamb and Ganguli 2024, arXiv
    2412.20292."""

    def __init__(
        self,
        patterns: Tensor,
        schedule: Schedule,
        sides: int | Mapping[int, int],
        borders: str = "image",
        most_patches: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(patterns, schedule, sides, borders)
        if most_patches is not None and most_patches < 1:
            raise ValueError(f"most_patches: found {most_patches}; choose 1 or more")
        largest = max(side for _, side in self._sides)
        if borders == "circular" and largest > min(self.shape[1:]):
            raise ValueError(f"sides: found {largest}; choose {min(self.shape[1:])} or less")
        self.most_patches, self._seed = most_patches, seed

    def mean_at(self, x: Tensor, alpha_bar: float) -> Tensor:
        side = self.side(alpha_bar)
        kinds = [kind for kind in self._kinds(side) if len(kind[0]) * len(kind[1]) > 1]
        height, width = self.shape[1:]
        covered = sum(len(rows) * len(columns) for rows, columns in kinds)
        # Where a kind of border has one position, patches of that position alone are compared.
        complete = covered == height * width
        result = torch.zeros_like(x) if complete else super().mean_at(x, alpha_bar)
        for rows, columns in kinds:
            part = self._mean_of_kind(x, alpha_bar, rows, columns)
            result[:, :, rows.start : rows.stop, columns.start : columns.stop] = part
        return result

    def _kinds(self, side: int) -> Iterator[tuple[range, range]]:
        """The positions whose patches are cut off alike: rows and columns."""
        if self.borders == "circular":
            return iter([(range(self.shape[1]), range(self.shape[2]))])
        return product(*(_alike(size, side // 2) for size in self.shape[1:]))

    def _mean_of_kind(self, x: Tensor, alpha_bar: float, rows: range, columns: range) -> Tensor:
        """D at the positions of one kind: [B, C, rows, columns]."""
        radius, noise = self.side(alpha_bar) // 2, 1 - alpha_bar
        centre = self._centre(radius, rows, columns)
        means = [PosteriorMean() for _ in x]
        for keys in self._pattern_patches(radius, rows, columns):
            values = keys[:, centre]  # [n, C]
            # -|P x - y|^2 / (2 (1 - a)) without |P x|^2, which is the same for all patches y.
            own = -alpha_bar / (2 * noise) * keys.square().sum(1)  # [n]
            y = alpha_bar**0.5 / noise * keys.T  # [d, n]
            for image, mean in zip(x, means, strict=True):
                patch = self._patches(image[None], radius, rows, columns)  # [q, d]
                logits = torch.addmm(own, patch, y)  # [q, n]
                mean.add(logits, lambda w, values=values: (w @ values).T)
        shape = self.shape[0], len(rows), len(columns)
        return torch.stack([mean.value().reshape(shape) for mean in means])

    def _pattern_patches(self, radius: int, rows: range, columns: range) -> Iterator[Tensor]:
        """The patches of this kind in the patterns, a part at a time: [n, d] float64."""
        count, positions = self._patterns.shape[-1], len(rows) * len(columns)
        values = self.shape[0] * (2 * radius + 1) ** 2
        step = max(1, TILE_ENTRIES // max(positions, values))
        if self.most_patches is not None and count * positions > self.most_patches:
            generator = np.random.default_rng([self._seed, radius, rows.start, columns.start])
            total = count * positions
            numbers = generator.choice(total, self.most_patches, replace=False, shuffle=False)
            for part in torch.from_numpy(np.sort(numbers)).split(step):
                images, own = (part // positions).unique(return_inverse=True)
                places = (part % positions).to(self._compute_device)
                windows = self._windows(self._images_of(images), radius, rows, columns)
                # Only these patches are copied: [n, C, ph, pw].
                own = own.to(self._compute_device)
                chosen = windows[own, :, places // len(columns), places % len(columns)]
                yield chosen.flatten(1).double()
            return
        for images in torch.arange(count).split(max(1, step // positions)):
            patches = self._patches(self._images_of(images), radius, rows, columns)
            yield from patches.double().split(step)

    def _images_of(self, numbers: Tensor) -> Tensor:
        """The patterns of these numbers, [n, C, H, W]."""
        return self._patterns[..., numbers.to(self._compute_device)].movedim(-1, 0)

    def _patches(self, images: Tensor, radius: int, rows: range, columns: range) -> Tensor:
        """The patches around these positions, of images [n, C, H, W]: [n q, d], d = C ph pw."""
        windows = self._windows(images, radius, rows, columns)
        return windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)

    def _windows(self, images: Tensor, radius: int, rows: range, columns: range) -> Tensor:
        """A view of the patches around these positions: [n, C, rows, columns, ph, pw]."""
        if self.borders == "circular":
            images = functional.pad(images, (radius,) * 4, mode="circular")
            top, left, height, width = 0, 0, 2 * radius + 1, 2 * radius + 1
            bottom, right = images.shape[2:]
        else:
            top, left = max(0, rows.start - radius), max(0, columns.start - radius)
            bottom = min(self.shape[1], rows.stop + radius)
            right = min(self.shape[2], columns.stop + radius)
            height, width = bottom - top - len(rows) + 1, right - left - len(columns) + 1
        region = images[:, :, top:bottom, left:right]
        return region.unfold(2, height, 1).unfold(3, width, 1)

    def _centre(self, radius: int, rows: range, columns: range) -> Tensor:
        """Where the centre's channels stand among the d values of a patch: int64 [C]."""
        if self.borders == "circular":
            down, right, height, width = radius, radius, 2 * radius + 1, 2 * radius + 1
        else:
            down, right = min(radius, rows.start), min(radius, columns.start)
            height = min(self.shape[1], rows.start + radius + 1) - rows.start + down
            width = min(self.shape[2], columns.start + radius + 1) - columns.start + right
        place = down * width + right
        return torch.arange(self.shape[0], device=self._compute_device) * height * width + place


def _alike(size: int, radius: int) -> list[range]:
    """The places of an axis of this size, by how a window of this radius is cut off there."""
    inside = range(radius, size - radius)
    if not inside:
        return [range(i, i + 1) for i in range(size)]
    before = [range(i, i + 1) for i in range(radius)]
    after = [range(i, i + 1) for i in range(size - radius, size)]
    return [*before, inside, *after]
