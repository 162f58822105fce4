"""Many different real images from scikit-learn's 1,797 digits: enlarged, rotated and shifted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.data.datasets import load_image_set

AT_ONCE = 5000


def digit_images(count: int, side: int, channels: int = 1, seed: int = 0) -> Tensor:
    """uint8 [count, channels, side, side]: digits rotated by up to 20 degrees, shifted by up to
    an eighth of the side and scaled by 0.8 to 1.1; all different, and equal on every machine."""
    generator = torch.Generator().manual_seed(seed)
    digits = load_image_set("digits", ".", 8, 1)
    source = digits.read(range(len(digits)))
    parts = []
    for first in range(0, count, AT_ONCE):
        n = min(AT_ONCE, count - first)
        chosen = source[torch.randint(len(source), (n,), generator=generator)].float()
        angle, across, down, scale = torch.rand(4, n, generator=generator).unbind()
        angle, scale = (angle - 0.5) * 0.7, 0.9 + 0.35 * scale
        cos, sin = angle.cos() * scale, angle.sin() * scale
        rows = [torch.stack([cos, -sin, (across - 0.5) / 2], 1)]
        rows.append(torch.stack([sin, cos, (down - 0.5) / 2], 1))
        grid = F.affine_grid(torch.stack(rows, 1), [n, 1, side, side], align_corners=False)
        image = F.grid_sample(chosen, grid, mode="bilinear", align_corners=False)
        parts.append(image.round().byte().expand(-1, channels, -1, -1))
    return torch.cat(parts)
