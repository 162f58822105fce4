"""What a model records of its training images, so that later stages find or refuse them."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from utils.cli.errors import UserError
from utils.cli.progress import print_once
from utils.data.image_files import FileSet

MOST_CHARACTERS = 2**18  # of a list of names: every file of a sweep carries it
MOST_BYTES = 2**26  # of the names themselves, when they are read


def origin_of(image_set: Any, indices: Tensor, images: Tensor) -> dict[str, Any]:
    """What tells the training images from others: the number of images in the data set, a hash
    of the K images in their order, and of a folder the names of all its images.

    Of files the bytes are hashed, since other versions of a decoder may give other pixels. Images
    in a database have no hash: it is large, and nobody adds an image to it."""
    sha, record = hashlib.sha256(), {"count": len(image_set)}
    if not isinstance(image_set, FileSet):
        sha.update(images.contiguous().numpy().data)
    elif image_set.raw is None:
        return record
    else:
        for i in indices.tolist():
            sha.update(hashlib.sha256(image_set.raw(image_set.keys[i])).digest())
    record["sha256"] = sha.hexdigest()[:16]
    names = pack_names(image_set.names()) if isinstance(image_set, FileSet) else ""
    return {**record, "names": names} if names else record


def check_origin(args: Mapping, now: Mapping[str, Any]) -> None:
    """Raises UserError where args record other training images than those of now: the samples of
    one set of images would be compared with another one.

    Files of the original toolkit, and of our first versions, record none."""
    before = args.get("images")
    if not isinstance(before, Mapping) or not {"count", "sha256"} <= before.keys() & now.keys():
        return
    if before["sha256"] == now["sha256"]:
        return
    old, new = before["count"], now["count"]
    if old != new:
        raise other_images(args, f"{old} images then, {new} now")
    raise other_images(args, f"{new} images, some of them altered")


def other_images(args: Mapping, changed: str) -> UserError:
    """The error about training images that have changed since a model was trained."""
    problem = f"other training images than the model's ({changed})"
    remedy = "put the images of that time there, or train and sample again"
    return UserError(f"--data-path {args.get('data', {}).get('data_path')}", problem, remedy)


def as_recorded(image_set: Any, args: Mapping) -> Any:
    """The images of a folder that were there when the model of args was trained, in their order.

    Images that came later are left out, with a line: K images are chosen from the whole list, and
    one more name would choose others. Raises UserError where one of that time is gone."""
    record = args.get("images")
    names = unpack_names(record.get("names")) if isinstance(record, Mapping) else []
    if not names or not isinstance(image_set, FileSet) or image_set.names() == names:
        return image_set
    keys = dict(zip(image_set.names(), image_set.keys, strict=True))
    if gone := [name for name in names if name not in keys]:
        count = f"{len(names)} images then, {len(keys)} now"
        raise other_images(args, f"{count}; {len(gone)} are gone, as {gone[0]}")
    known = set(names)
    if newer := [name for name in keys if name not in known]:
        print_once(
            f"{image_set.root}: the {len(names)} images of the model's training are used; "
            f"{len(newer)} newer ones, as {newer[0]}, are left out"
        )
    return dataclasses.replace(image_set, keys=[keys[name] for name in names])


def pack_names(names: Sequence[str]) -> str:
    """Names as one short text; empty where it would be long, or where there are none."""
    if not names:
        return ""
    packed = zlib.compress("\n".join(names).encode("utf-8", "surrogateescape"), 9)
    text = base64.b85encode(packed).decode()
    return text if len(text) <= MOST_CHARACTERS else ""


def unpack_names(text: Any) -> list[str]:
    """The names that `pack_names` was given; none where a file holds anything else.

    >>> unpack_names(pack_names(["a/1.png", "b.png"]))
    ['a/1.png', 'b.png']
    >>> unpack_names("other")
    []"""
    if not isinstance(text, str) or not text:
        return []
    try:
        packed = base64.b85decode(text)
        data = zlib.decompressobj().decompress(packed, MOST_BYTES)
    except (ValueError, binascii.Error, zlib.error):
        return []
    return data.decode("utf-8", "surrogateescape").split("\n")
