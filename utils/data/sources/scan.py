"""A set of images brought to one form: each is looked at once, and read again when needed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.data.image_files import Form
from utils.data.sources.arrays import ArraySource
from utils.data.sources.opened import Source
from utils.data.sources.pictures import PictureSource
from utils.data.views import DIGEST_BYTES, Positions, image_digests, positions_of

AT_ONCE = 1024  # images read at once
MOST_NAMED = 3  # damaged files that an error names


@dataclass
class ImageList:
    """N images of one form, which are kept in memory or read from their source again.

    names: of each. digests: uint8 [N, 16], equal where the pixels are. sizes: how many have which
    width and height before any change. damaged: the names of pictures that were left out."""

    source: Source
    form: Form
    names: list[str]
    digests: np.ndarray
    sizes: Counter
    damaged: list[str]
    _positions: np.ndarray
    _kept: Tensor | None

    ndim = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.names), *self.form.shape)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: Positions) -> Tensor:
        """A block [n, C, H, W]: uint8, or float32 in [-1, 1]."""
        if self._kept is not None:
            return self._kept[torch.from_numpy(positions_of(key, len(self)))]
        return self.source.read(self._positions[positions_of(key, len(self))], self.form)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that stand for all pixels, in their order."""
        return hashlib.sha256(self.digests.tobytes()).hexdigest()[:16]

    @property
    def resized(self) -> bool:
        """Whether some images had another size."""
        return any(size != (self.form.size, self.form.size) for size in self.sizes)

    def describe(self) -> str:
        """Where they are, how many, of what kind and size, and what was done to them."""
        usual = ", ".join(f"{w} x {h}" for (w, h), _ in self.sizes.most_common(3))
        more = " and others" if len(self.sizes) > 3 else ""
        text = f"{self.source.where}: {len(self)} images {usual}{more}; {self.source.describe()}"
        if self.resized:
            text += f"; cropped and resized to {self.form.size} x {self.form.size}"
        if self.damaged:
            text += f"; {len(self.damaged)} damaged ones left out: {', '.join(self.damaged[:3])}"
        return text


def scan(
    source: Source,
    form: Form,
    *,
    skip_damaged: bool = False,
    keep_bytes: int = 0,
    on_images: Callable[[int], Any] = lambda _: None,
) -> ImageList:
    """Look at every image once, `AT_ONCE` at a time.

    They are kept in memory where they take keep_bytes or less. on_images: called with the number
    of images just read. Raises UserError that names the damaged pictures, unless skip_damaged."""
    kept = Keeper(keep_bytes, len(source))
    positions, digests, sizes, damaged = [], [], Counter(), []
    for start in range(0, len(source), AT_ONCE):
        span = np.arange(start, min(start + AT_ONCE, len(source)))
        if isinstance(source, ArraySource):
            block, sound = source.read(span, form), span
            sizes[source.first[:2]] += len(span)
        else:
            block, sound = read_sound(source, span, form, sizes, damaged)
        kept.add(block)
        digests += image_digests(block)
        positions.append(sound)
        on_images(len(span))
    if damaged and not skip_damaged:
        names = ", ".join(name for name, _ in damaged[:MOST_NAMED])
        problem = f"{len(damaged)} damaged pictures: {names} (the first: {damaged[0][1]})"
        raise UserError(source.where, problem, "copy them again, or add --skip-damaged")
    chosen = np.concatenate(positions)
    if not len(chosen):
        raise UserError(source.where, "no picture that can be read", "copy them again")
    return ImageList(
        source,
        form,
        [source.names[i] for i in chosen.tolist()],
        np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES),
        sizes,
        [name for name, _ in damaged],
        chosen,
        kept.result(),
    )


def read_sound(
    source: PictureSource, span: np.ndarray, form: Form, sizes: Counter, damaged: list
) -> tuple[Tensor, np.ndarray]:
    """The pictures of span that can be read, and their positions."""
    images, sound = [], []
    for position, (image, size) in zip(span.tolist(), source.read_each(span, form), strict=True):
        if isinstance(image, UserError):
            damaged.append((source.names[position], image))
        else:
            images.append(image)
            sound.append(position)
            sizes[size] += 1
    block = torch.stack(images) if images else torch.empty((0, *form.shape), dtype=torch.uint8)
    return block, np.array(sound, np.int64)


class Keeper:
    """Images kept in memory, as long as all of them will take `most` bytes or less."""

    def __init__(self, most: int, count: int) -> None:
        self._most, self._count, self._blocks = most, count, []

    def add(self, block: Tensor) -> None:
        if self._most and len(block):
            each = block[0].numel() * block.element_size()
            if each * self._count > self._most:
                self._most, self._blocks = 0, []
            else:
                self._blocks.append(block)

    def result(self) -> Tensor | None:
        return torch.cat(self._blocks) if self._blocks else None
