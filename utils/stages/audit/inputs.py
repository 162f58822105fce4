"""The three sets of images of an audit, brought to one form, and warnings about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.cli.options.checks import flag
from utils.cli.options.samples import SOURCES, AuditOptions
from utils.cli.progress import progress
from utils.data.image_files import Form
from utils.data.sources.arrays import Range
from utils.data.sources.by_name import open_source
from utils.data.sources.opened import Opening, Source, parse_layout
from utils.data.sources.scan import ImageList, scan

KEPT = 4  # a set is kept in memory where it takes a part of the budget, 1 in KEPT, or less


@dataclass(frozen=True)
class Sets:
    """Samples, training images and, if there are some, held-out images of one form."""

    samples: ImageList
    train: ImageList
    held_out: ImageList | None
    warnings: list[str] = field(default_factory=list)

    def named(self) -> dict[str, ImageList]:
        """Those that there are, by name."""
        sets = zip(SOURCES, (self.samples, self.train, self.held_out), strict=True)
        return {name: images for name, images in sets if images is not None}


def open_sets(given: Mapping[str, Any], options: AuditOptions, budget: int) -> Sets:
    """Open and look at every image. given: by SOURCES, a path or what Python holds; None for no
    held-out images. budget: bytes, of which the images in memory may take a part.

    Raises UserError where a set is missing, damaged or unclear, or the samples differ in size."""
    for name in ("samples", "train"):
        if given.get(name) is None:
            raise UserError(flag(name), "nothing", "give a folder, a file, or NAME:train")
    sources: dict[str, Source] = {}
    size = options.image_size
    for name in SOURCES:
        if given.get(name) is not None:
            sources[name] = open_source(given[name], opening(name, options, size))
            size = size or side_of(sources[name])
    if 2 * options.shifts >= size:
        remedy = "choose less than half of the side of the images"
        raise UserError("--shifts", f"{options.shifts}, with images of {size} x {size}", remedy)
    form = Form(size, sources["samples"].first[2], crop=True)
    lists = {name: read(name, source, form, options, budget) for name, source in sources.items()}
    if options.image_size is None:
        check_sizes(lists["samples"], size)
    sets = Sets(lists["samples"], lists["train"], lists.get("held_out"))
    sets.warnings.extend(warnings(sets, {n: s.first[2] for n, s in sources.items()}))
    return sets


def opening(name: str, options: AuditOptions, size: int | None) -> Opening:
    values, layout = getattr(options, f"{name}_range"), getattr(options, f"{name}_layout")
    return Opening(
        flag(name),
        Range.parse(values, flag(f"{name}_range")) if values else None,
        parse_layout(layout, flag(f"{name}_layout")),
        options.data_path,
        size,
    )


def side_of(source: Source) -> int:
    """The side of the first image. Raises UserError where it is not square."""
    width, height, _ = source.first
    if width != height:
        remedy = "choose the side that images are cropped and resized to, as 64"
        raise UserError("--image-size", f"nothing, with samples of {width} x {height}", remedy)
    return width


def read(name: str, source: Source, form: Form, options: AuditOptions, budget: int) -> ImageList:
    with progress(total=len(source), unit="image", desc=f"read {flag(name)}") as bar:
        return scan(
            source,
            form,
            skip_damaged=options.skip_damaged,
            keep_bytes=budget // KEPT,
            on_images=bar.update,
        )


def check_sizes(samples: ImageList, size: int) -> None:
    """Raises UserError where the samples have several sizes, and none was chosen."""
    others = [f"{w} x {h}" for w, h in samples.sizes if (w, h) != (size, size)]
    if others:
        found = f"nothing, with samples of {size} x {size} and {', '.join(others[:3])}"
        raise UserError("--image-size", found, "choose the side that all are resized to")


def warnings(sets: Sets, channels: Mapping[str, int]) -> list[str]:
    """What may make distances mean something else than the user thinks."""
    notes = []
    sizes = {name: usual_size(images) for name, images in sets.named().items()}
    for name in sizes:
        if name != "samples" and sizes[name] != sizes["samples"]:
            (w, h), (a, b) = sizes["samples"], sizes[name]
            notes.append(
                f"samples of {w} x {h} and {flag(name)} of {a} x {b} were resized differently, "
                "which alone changes distances; give images that went through the same resizing"
            )
        if channels[name] != channels["samples"]:
            kinds = {1: "grey", 3: "in colour"}
            notes.append(f"{flag(name)} is {kinds[channels[name]]}, the samples are not")
    if sets.held_out is not None:
        known = shared(sets.held_out, sets.train)
        if known.any():
            total = f"{known.sum()} of {len(known)} held-out images"
            notes.append(f"{total} are training images: the control counts them as copies")
    return notes


def usual_size(images: ImageList) -> tuple[int, int]:
    return images.sizes.most_common(1)[0][0]


def shared(images: ImageList, others: ImageList) -> np.ndarray:
    """Which images have the pixels of one of the others: bool [n]."""
    return np.isin(as_keys(images.digests), as_keys(others.digests))


def as_keys(digests: np.ndarray) -> np.ndarray:
    """One value for each digest: [n] of uint8 [n, 16], of which half are enough to tell apart."""
    return np.ascontiguousarray(digests).view(np.uint64)[:, 0]
