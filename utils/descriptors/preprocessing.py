"""Images as a network was trained to see them: size, interpolation, mean, standard deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from utils.descriptors.lpips import IMAGENET_MEAN, IMAGENET_STD

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
LARGEST_SIDE = 4096  # pixels
LEVELS = ((0.0,) * 3, (1 / 255,) * 3)  # mean and std that make the input 0 to 255


@dataclass(frozen=True)
class Preprocessing:
    """size: side that images are resized to, both ways; None: they stay as they are.
    interpolation: one of INTERPOLATIONS, with antialiasing where images shrink. mean, std: of the
    three channels of images in [0, 1]. Raises ValueError for other values."""

    size: int | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.size is not None and not (
            type(self.size) is int and 1 <= self.size <= LARGEST_SIDE
        ):
            raise ValueError(f"size: found {self.size!r}; give 1 to {LARGEST_SIDE} pixels")
        if self.interpolation not in INTERPOLATIONS:
            names = ", ".join(INTERPOLATIONS)
            raise ValueError(f"interpolation: found {self.interpolation!r}; give one of {names}")
        for name, low in (("mean", -1e6), ("std", 1e-6)):
            values = getattr(self, name)
            numbers = isinstance(values, tuple) and all(type(x) in (int, float) for x in values)
            if not numbers or len(values) != 3 or not all(low <= x <= 1e6 for x in values):
                raise ValueError(f"{name}: found {values!r}; give three numbers of colours in 0..1")

    def with_values(self, values: Mapping[str, Any]) -> Preprocessing:
        """This one, with other values of some names, as of a YAML file. Raises ValueError for
        others."""
        fields = self.__dataclass_fields__
        unknown = set(values) - set(fields)
        if unknown:
            first = sorted(map(str, unknown))[0]
            raise ValueError(f"{first}: found no such name; give {', '.join(fields)}")
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return replace(self, **lists)

    @property
    def makes_levels(self) -> bool:
        """Whether the input is 0 to 255, as of networks that take images of 8 bits."""
        return (self.mean, self.std) == LEVELS

    def __call__(self, images: Tensor) -> Tensor:
        """The network's input [B, 3, size, size] float32, of images [B, 1 or 3, H, W] in [-1, 1]:
        (resized (x + 1) / 2 - mean) / std. Grey images are repeated in three channels."""
        x = (images.float() * 0.5 + 0.5).expand(-1, 3, -1, -1)
        if self.size is not None and tuple(x.shape[2:]) != (self.size, self.size):
            smooth = self.interpolation != "nearest"
            mode = self.interpolation if smooth else "nearest-exact"
            options = {"antialias": True, "align_corners": False} if smooth else {}
            x = F.interpolate(x, (self.size, self.size), mode=mode, **options)
        mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std

    def describe(self) -> str:
        """`224 x 224 (bicubic), mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225`."""
        side = "their own size"
        if self.size is not None:
            side = f"{self.size} x {self.size} ({self.interpolation})"
        if self.makes_levels:
            return f"{side}, 0 to 255"
        mean, std = (", ".join(f"{x:.4g}" for x in v) for v in (self.mean, self.std))
        return f"{side}, mean {mean}, std {std}"
