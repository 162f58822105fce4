"""Arrays of images as images: which axes, which range, read in blocks.

The layout and the range are recognised from the whole array. Where two readings are possible the
user is asked: a wrong one would give wrong distances without a message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.cli.options.choices import PICTURE_CHANNELS
from utils.data.image_files import Form, to_tensor
from utils.data.views import positions_of

BLOCK = 2**26  # bytes of an array that are read at once
ANY_CHANNELS = 0  # of latents whose number of channels is not known: the second axis of four
LAYOUTS = ("nchw", "nhwc", "nhw", "chw", "hwc")
EDGE = 1e-3  # by so much, as a part of a range, values may leave it: rounding
LEVEL = 0.1  # largest distance of a value from one of 256 levels that float16 explains


class Range(NamedTuple):
    """The values of black and white."""

    low: float
    high: float

    @classmethod
    def parse(cls, text: str, flag: str) -> Range:
        """`Range.parse("0,1", "--samples-range") == Range(0, 1)`. Raises UserError."""
        try:
            low, high = (float(part) for part in text.strip("[]() ").split(","))
        except ValueError:
            low = high = 0.0
        if not (np.isfinite([low, high]).all() and low < high):
            raise UserError(flag, text, "give the values of black and white, as 0,1 or -1,1")
        return cls(low, high)

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"


UNIT, SIGNED, BYTES = Range(0, 1), Range(-1, 1), Range(0, 255)


@dataclass
class Values:
    """What is known of the values of a whole array: least and most, whether 0 and 1 are among
    them, whether all lie on the 256 levels of a range."""

    least: float = np.inf
    most: float = -np.inf
    has_zero: bool = False
    has_one: bool = False
    levels: dict[Range, bool] = field(
        default_factory=lambda: dict.fromkeys((UNIT, SIGNED, BYTES), True)
    )

    def add(self, block: np.ndarray) -> None:
        """Take a block of finite values into account."""
        self.least = min(self.least, float(block.min()))
        self.most = max(self.most, float(block.max()))
        self.has_zero |= bool((block == 0).any())
        self.has_one |= bool((block == 1).any())
        for known, still in self.levels.items():
            self.levels[known] = still and on_levels(block, known)

    def inside(self, known: Range) -> bool:
        edge = EDGE * (known.high - known.low)
        return known.low - edge <= self.least and self.most <= known.high + edge

    def range(self) -> Range | None:
        """The only range that these values can have; None where none or several are possible.

        Values within [0, 1] may be the bright half of [-1, 1]. They are not where all are
        multiples of 1/255, or where both 0 and 1 occur, at which a set in [0, 1] is cut off."""
        if self.least < -EDGE:
            return SIGNED if self.inside(SIGNED) else None
        if self.inside(UNIT):
            return UNIT if self.levels[UNIT] or (self.has_zero and self.has_one) else None
        return BYTES if self.most > 2 and self.inside(BYTES) else None


def on_levels(block: np.ndarray, known: Range) -> bool:
    """Whether all values are 0 to 255 in a range, but for rounding."""
    levels = (block.astype(np.float64) - known.low) * (255 / (known.high - known.low))
    return bool((np.abs(levels - np.rint(levels)) <= LEVEL).all())


def layout_of(
    shape: Sequence[int],
    where: object,
    asked: str | None,
    flag: str | None,
    channels: tuple[int, ...] = PICTURE_CHANNELS,
) -> str:
    """One of LAYOUTS: what was asked for, else the only one that fits the shape.

    Raises UserError where none or several fit."""
    fitting = [layout for layout in LAYOUTS if fits(shape, layout, channels)]
    if asked is not None:
        if asked not in fitting:
            remedy = f"choose one that fits {list(shape)}: {', '.join(fitting) or 'none does'}"
            raise UserError(f"{flag}-layout", asked, remedy)
        return asked
    if len(fitting) > 1:
        axes = " or ".join(fitting)
        remedy = f"say which axes these are: {flag}-layout {axes}"
        remedy = remedy if flag else "give images [N, C, H, W]"
        raise UserError(where, f"an array of shape {list(shape)}", remedy)
    if not fitting:
        remedy = "give images [N, C, H, W], [N, H, W, C] or [N, H, W], with C = 1 or 3"
        raise UserError(where, f"an array of shape {list(shape)}", remedy)
    return fitting[0]


def fits(shape: Sequence[int], layout: str, channels: tuple[int, ...] = PICTURE_CHANNELS) -> bool:
    """Whether a shape may be images of a layout: C is one of channels."""
    if len(shape) != len(layout) or 0 in shape:
        return False
    if "c" in layout:
        return shape[layout.index("c")] in channels
    return shape[1] not in channels and shape[2] not in channels  # [H, W, C] has three axes too


class ArraySource:
    """An array of images, or several of one shape: anything with a shape and slices.

    channels: of latents, another number than 1 or 3: their values are taken as they are.
    known: the range, where it is known without looking (our own files). Raises UserError where
    layout or range are not clear, for NaN, and for types other than whole numbers and floats."""

    def __init__(
        self,
        arrays: Sequence[Any],
        where: object,
        *,
        names: Sequence[str] | None = None,
        flag: str | None = "--samples",
        layout: str | None = None,
        value_range: Range | None = None,
        known: Range | None = None,
        channels: int | None = None,
    ) -> None:
        self.where, self._arrays = where, arrays
        shape = tuple(arrays[0].shape)
        self.latent = channels not in (None, *PICTURE_CHANNELS)
        if channels == ANY_CHANNELS:
            channels = shape[1] if len(shape) == 4 else 1
        allowed = (channels,) if self.latent else PICTURE_CHANNELS
        self.layout = layout_of(shape, where, layout, flag, allowed)
        for array in arrays:
            if self.layout in ("chw", "hwc") and tuple(array.shape) != shape:
                raise UserError(where, "arrays of several shapes", "give images of one shape")
            if tuple(array.shape[1:]) != shape[1:] or array.dtype != arrays[0].dtype:
                raise UserError(where, "arrays of several shapes or types", "give images of one")
        single = "n" not in self.layout
        counts = [1 if single else len(array) for array in arrays]
        self._ends = np.cumsum(counts)
        count = int(self._ends[-1])
        self.names = [str(i) for i in range(count)] if names is None else list(names)
        self.dtype = dtype_of(arrays[0])
        self.note = ""
        if self.latent:
            self._look(range(count))
            self.range, self.eight_bits = SIGNED, False
        elif self.dtype.kind == "u" and self.dtype.itemsize <= 2 and value_range is None:
            self.range = Range(0, 255 if self.dtype.itemsize == 1 else 65_535)
            self.eight_bits = True
        else:
            values = self._look(range(count))
            self.range = value_range or known or values.range()
            if self.range is None:
                raise unclear(where, values, self.dtype, flag)
            eight = values.levels.get(self.range)
            self.eight_bits = self._levels(self.range) if eight is None else eight
            self._note_clipped(values)
        _, channels, height, width = self._block(0, 1).shape
        self.first = (width, height, channels)

    def __len__(self) -> int:
        return len(self.names)

    def describe(self) -> str:
        """`float32 [N, H, W, C] in [0, 1], 8-bit levels`."""
        axes = ", ".join(self.layout.upper())
        if self.latent:
            return f"{self.dtype} [{axes}], latents"
        levels = ", 8-bit levels" if self.eight_bits and self.dtype.kind == "f" else ""
        return f"{self.dtype} [{axes}], black and white {self.range}{levels}{self.note}"

    def read(self, positions: np.ndarray, form: Form) -> Tensor:
        """[n, C, H, W] of a form: uint8 where the values are 8 or 16 bits, or are resized; else
        float32 in [-1, 1]."""
        blocks = [self._block(a, b) for a, b in runs(positions)]
        images = self._scaled(np.concatenate(blocks))
        if images.shape[1:] == form.shape:
            return images
        if self.latent:
            found = f"latents {list(images.shape[1:])}"
            raise UserError(self.where, found, f"give them as {list(form.shape)}")
        if (images.shape[2], images.shape[3]) == (form.size, form.size) and form.channels == 3:
            return images.expand(-1, 3, -1, -1).contiguous()
        if images.dtype != torch.uint8:  # Pillow resizes 8 bits
            images = ((images + 1) * 127.5).round().to(torch.uint8)
        return torch.stack([reformed(image, self.where, form) for image in images])

    def _look(self, span: range) -> Values:
        """The values of the whole array. Raises UserError for NaN and other types."""
        if self.dtype.kind not in "uif":
            problem = f"an array of {self.dtype}"
            raise UserError(self.where, problem, "give whole numbers or floats, as uint8")
        values = Values()
        for start, stop in self._blocks(span):
            block = self._block(start, stop)
            bad = ~np.isfinite(block).reshape(len(block), -1).all(1)
            if bad.any():
                name = self.names[start + int(np.argmax(bad))]
                problem = f"NaN or infinite values in image {name}"
                raise UserError(self.where, problem, "remove these images")
            values.add(block)
        return values

    def _levels(self, known: Range) -> bool:
        spans = self._blocks(range(len(self)))
        return all(on_levels(self._block(start, stop), known) for start, stop in spans)

    def _note_clipped(self, values: Values) -> None:
        if not values.inside(self.range):
            seen = f"{values.least:.4g} to {values.most:.4g}"
            self.note = f"; values {seen} are cut off at this range"

    def _blocks(self, span: range) -> list[tuple[int, int]]:
        size = self._block(0, 1).nbytes
        step = max(1, BLOCK // (8 * max(1, size)))
        return [(a, min(a + step, span.stop)) for a in range(span.start, span.stop, step)]

    def _block(self, start: int, stop: int) -> np.ndarray:
        """The images start .. stop - 1 as they are, with axes [n, C, H, W]."""
        parts = []
        for number, end in enumerate(self._ends):
            first = self._ends[number - 1] if number else 0
            a, b = max(start, first), min(stop, end)
            if a < b:
                array = self._arrays[number]
                part = array[None] if "n" not in self.layout else array[a - first : b - first]
                parts.append(to_numpy(part))
        block = np.concatenate(parts) if len(parts) > 1 else parts[0]
        layout = self.layout.replace("n", "")
        if layout == "hw":
            return block[:, None]
        return block if layout == "chw" else np.moveaxis(block, -1, 1)

    def _scaled(self, block: np.ndarray) -> Tensor:
        if self.latent:
            return torch.from_numpy(block.astype(np.float32))
        low, high = self.range
        if self.dtype == np.uint8 and self.range == BYTES:
            return torch.from_numpy(np.ascontiguousarray(block))
        unit = ((block.astype(np.float64) - low) / (high - low)).clip(0, 1)
        if self.eight_bits:
            return torch.from_numpy(np.rint(unit * 255).astype(np.uint8))
        return torch.from_numpy((2 * unit - 1).astype(np.float32))


def reformed(image: Tensor, where: object, form: Form) -> Tensor:
    """One image uint8 [C, H, W] in another size or number of channels, as pictures are."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).squeeze(2).contiguous().numpy()
    picture = Image.fromarray(pixels).convert("L" if form.channels == 1 else "RGB")
    return to_tensor(picture, where, form)


def runs(positions: np.ndarray) -> list[tuple[int, int]]:
    """Positions as spans (start, stop) of consecutive ones, in their order.

    >>> runs(np.array([3, 4, 5, 9]))
    [(3, 6), (9, 10)]"""
    positions = positions_of(positions, 0)
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    parts = np.split(positions, breaks) if len(positions) else []
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]


def to_numpy(values: Any) -> np.ndarray:
    """A part of an array or a tensor; bfloat16, which numpy lacks, as float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()
    return np.asarray(values)


def dtype_of(array: Any) -> np.dtype:
    if isinstance(array, Tensor):
        return np.dtype("float32") if array.dtype == torch.bfloat16 else to_numpy(array[:0]).dtype
    return np.dtype(array.dtype)


def unclear(where: object, values: Values, dtype: np.dtype, flag: str | None) -> UserError:
    """The error where the values have no range, or several are possible. flag: of the option that
    says the range; None without one."""
    seen = f"{dtype} values {values.least:.4g} to {values.most:.4g}"
    if flag is None:
        return UserError(where, f"{seen}: their range is not clear", "save them as 8 bits (uint8)")
    if values.inside(UNIT):
        remedy = f"say what black and white are: {flag}-range=0,1 or {flag}-range=-1,1"
        return UserError(where, f"{seen}, in [0, 1] or the bright half of [-1, 1]", remedy)
    remedy = f"say what black and white are, as {flag}-range=0,1"
    return UserError(where, f"{seen}, which is no range that images usually have", remedy)
