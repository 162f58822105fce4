"""Images from a model: image i from its seed alone, whoever asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from models.denoiser import Denoiser
from models.noise import SeededNoise
from models.samplers import SAMPLERS
from utils.cli.errors import UserError
from utils.cli.options.choices import SAMPLER_NAMES
from utils.cli.options.sections import GeneralizationOptions, GenerateOptions

Seeds = range | np.ndarray


def sampling_steps(given: GenerateOptions | GeneralizationOptions, timesteps: int) -> int:
    """Network calls an image. Raises UserError where the model has fewer timesteps."""
    steps = given.steps or min(SAMPLER_NAMES[given.sampler].calls or timesteps, timesteps)
    if steps > timesteps:
        raise UserError("--steps", steps, f"choose {timesteps} or less, the model's timesteps")
    return steps


def draw_images(
    denoiser: Denoiser, seeds: Seeds, sampler: str, steps: int, batch_size: int
) -> Iterator[Tensor]:
    """Yield images [b, C, H, W] in [-1, 1] on the CPU, b <= batch_size, in the order of seeds.

    An image depends on its seed alone, beyond rounding. sampler: a name in SAMPLERS."""
    for start in range(0, len(seeds), batch_size):
        noise = SeededNoise(seeds[start : start + batch_size], denoiser.shape)
        yield SAMPLERS[sampler](denoiser, noise.draw, steps).cpu()


def finite(images: Tensor, k: int) -> np.ndarray:
    """Samples of the model of K. Raises UserError where they are not finite."""
    if not images.isfinite().all():
        remedy = "use an earlier checkpoint, or --precision float32"
        raise UserError(f"model of K = {k}", "NaN in its samples", remedy)
    return images.numpy()
