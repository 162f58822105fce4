"""Denoisers from patches (`models/machines`) against a plain loop in float32.

    python -m benchmarks.machines

The baseline is what one writes first: patches by torch's unfold, torch.cdist, softmax. Local and
pca-local go position by position, all images of a batch at once; equivariant (circular borders)
compares all positions with all patches of the patterns in one matrix. Ours computes in float64,
in parts of bounded memory. Results agree to 1e-3. One thread; noised digits of 28 x 28, t = 100.
Counted are pairs: pixel positions x patterns x images, of equivariant pairs of patches. Of
pca-local the choice of pixels is not timed: it is made once for a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.digit_images import digit_images
from benchmarks.ratio import compare
from models.machines.equivariant import EquivariantDenoiser
from models.machines.local import LocalDenoiser, PcaLocalDenoiser
from models.schedule import Schedule, add_noise
from utils.data.datasets import to_float

SIDE, T, SCHEDULE = 28, 100, Schedule()
SIDES, BATCHES = (3, 7, 15), (1, 16)
PATTERNS = (1000, 4000)
EQUIVARIANT_PATTERNS, EQUIVARIANT_BATCHES = 100, (1, 4)
POSITIONS = SIDE * SIDE
TOLERANCE = 1e-3


def posterior_mean(x: Tensor, y: Tensor, values: Tensor, alpha_bar: float) -> Tensor:
    """For patches x [B, d] and sqrt(alpha_bar) times patches y [K, d]: mean values, [B, C]."""
    logits = torch.cdist(x, alpha_bar**0.5 * y).square() / (-2 * (1 - alpha_bar))
    return logits.softmax(1) @ values


def windows(images: Tensor, side: int, **padding: str) -> Tensor:
    """[n, C, H, W, side, side] around each position; outside is 0, or the opposite side."""
    padded = functional.pad(images, (side // 2,) * 4, **padding)
    return padded.unfold(2, side, 1).unfold(3, side, 1)


def plain_local(patterns: Tensor, x: Tensor, side: int, alpha_bar: float) -> Tensor:
    of_x, of_patterns = windows(x, side), windows(patterns, side)
    result = torch.empty_like(x)
    for i in range(SIDE):
        for j in range(SIDE):
            patches = of_x[:, :, i, j].flatten(1), of_patterns[:, :, i, j].flatten(1)
            result[:, :, i, j] = posterior_mean(*patches, patterns[:, :, i, j], alpha_bar)
    return result


def plain_pca_local(patterns: Tensor, x: Tensor, chosen: Tensor, alpha_bar: float) -> Tensor:
    """chosen: [H W, p^2], the pixels that count for each."""
    flat, of_patterns, result = x.flatten(1), patterns.flatten(1), torch.empty(len(x), POSITIONS)
    for i, pixels in enumerate(chosen):
        patches = flat[:, pixels], of_patterns[:, pixels]
        result[:, i : i + 1] = posterior_mean(*patches, of_patterns[:, i : i + 1], alpha_bar)
    return result.view(x.shape)


def plain_equivariant(patterns: Tensor, x: Tensor, side: int, alpha_bar: float) -> Tensor:
    def patches(images: Tensor) -> Tensor:  # [n H W, d]
        of_images = windows(images, side, mode="circular")
        return of_images.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)

    keys, values = patches(patterns), patterns.reshape(-1, 1)
    means = [posterior_mean(patches(image[None]), keys, values, alpha_bar) for image in x]
    return torch.stack(means).view(x.shape)


def noised(patterns: Tensor, batch: int) -> Tensor:
    eps = torch.randn(batch, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return add_noise(patterns[:batch], eps, SCHEDULE.alpha_bar_at(T))


def measure_local(patterns: Tensor, batch: int, side: int) -> None:
    a, x = SCHEDULE.alpha_bar[T].item(), noised(patterns, batch)
    denoiser = LocalDenoiser(patterns, SCHEDULE, side)
    compare(
        "machines-local",
        lambda: plain_local(patterns, x, side, a),
        lambda: denoiser.x_0(x, T),
        count=POSITIONS * len(patterns) * batch,
        tolerance=TOLERANCE,
        p=side,
        patterns=len(patterns),
        images=batch,
    )


def measure_pca_local(patterns: Tensor, batch: int, side: int) -> None:
    a, x = SCHEDULE.alpha_bar[T].item(), noised(patterns, batch)
    denoiser = PcaLocalDenoiser(patterns, SCHEDULE, side)
    chosen = denoiser.neighbours(a, side**2).nonzero()[:, 1].view(POSITIONS, side**2)
    compare(
        "machines-pca-local",
        lambda: plain_pca_local(patterns, x, chosen, a),
        lambda: denoiser.x_0(x, T),
        count=POSITIONS * len(patterns) * batch,
        tolerance=TOLERANCE,
        p=side,
        patterns=len(patterns),
        images=batch,
    )


def measure_equivariant(patterns: Tensor, batch: int, side: int) -> None:
    a, x = SCHEDULE.alpha_bar[T].item(), noised(patterns, batch)
    denoiser = EquivariantDenoiser(patterns, SCHEDULE, side, "circular")
    compare(
        "machines-equivariant",
        lambda: plain_equivariant(patterns, x, side, a),
        lambda: denoiser.x_0(x, T),
        count=POSITIONS**2 * len(patterns) * batch,
        tolerance=TOLERANCE,
        p=side,
        patterns=len(patterns),
        images=batch,
    )


def main() -> None:
    torch.set_num_threads(1)
    patterns = to_float(digit_images(max(PATTERNS), SIDE))
    for side in SIDES:
        for batch in BATCHES:
            for count in PATTERNS:
                measure_local(patterns[:count], batch, side)
            measure_pca_local(patterns[: PATTERNS[0]], batch, side)
        for batch in EQUIVARIANT_BATCHES:
            measure_equivariant(patterns[:EQUIVARIANT_PATTERNS], batch, side)


if __name__ == "__main__":
    main()
