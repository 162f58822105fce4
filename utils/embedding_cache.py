"""Embeddings on disk: each image passes through a network once, for every K and every job.

A block is one memory-mapped file with the digests of some images, their embeddings and a checksum.
Images are found by their digest, wherever they come from: the nested subsets of a sweep share
theirs, and a killed job goes on where it stopped."""

from __future__ import annotations

import hashlib
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.claims import take_turns
from utils.errors import UserError
from utils.storage import make_folder, map_npy, remove_leftovers, save_npy

BLOCK_BYTES = 2**26  # of embeddings in a block: what a killed job loses, and what is read at once
DIGEST_BYTES = 16
ATTEMPTS = 3  # to read what was just written

Progress = Callable[[int], object]  # told how many images were embedded just now


class EmbeddingCache:
    """phi [D] of images, in the blocks of one folder, which belong to one network and image shape.

    Several processes may fill it: the images that one is embedding are claimed, and the others
    wait for them. A block whose checksum is wrong is deleted, with one line, and made again.
    Rows are float32: from float16 ones near-duplicates could not be told apart.

    embed: images [n, C, H, W] -> phi [n, dim] float32. `embedded` counts the images that it was
    called for. Raises UserError where the folder cannot be written."""

    def __init__(self, folder: Path, dim: int, embed: Callable[[Tensor], Tensor]) -> None:
        self.folder, self.dim, self.embedded = Path(folder), dim, 0
        self._embed = embed
        self._where: dict[bytes, tuple[Path, int]] = {}  # digest -> block, row
        self._known: set[Path] = set()
        self._sound: set[Path] = set()  # blocks whose checksum was right
        make_folder(self.folder)
        remove_leftovers(self.folder)
        self._look()

    @property
    def rows(self) -> int:
        """Images of one block."""
        return max(1, BLOCK_BYTES // (4 * self.dim))

    def size(self) -> int:
        """Bytes that the blocks take."""
        return sum(path.stat().st_size for path in self._known if path.exists())

    def missing(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """The digests that no block holds, each once, with the first position of each."""
        if any(digest not in self._where for digest in digests):
            self._look()
        absent = {}
        for position, digest in enumerate(digests):
            if digest not in self._where:
                absent.setdefault(digest, position)
        return absent

    def fill(
        self,
        images: Tensor,
        digests: Sequence[bytes],
        span: range,
        batch: int,
        told: Progress = lambda _: None,
    ) -> None:
        """Embed what is missing of the images at the positions of span, `batch` at once.

        digests: of all images, so that jobs with other spans of the same set share its grid of
        blocks, and what they both need is embedded by one of them."""
        cells = list(_cells(span, self.rows))

        def done(cell: range) -> bool:
            return not self.missing(digests[cell.start : cell.stop])

        def target(cell: range) -> Path:
            return self.folder / digests[cell.start // self.rows * self.rows].hex()

        for (cell,) in take_turns(cells, target, done):
            absent = self.missing(digests[cell.start : cell.stop])
            positions = [cell.start + place for place in absent.values()]
            self._write(images[positions], list(absent), batch, told)

    def read(self, digests: Sequence[bytes]) -> Tensor | None:
        """phi [n, D] float32 on the CPU; None where some are missing (or were found corrupt)."""
        found = np.empty((len(digests), self.dim), np.float32)
        if self.missing(digests):
            return None
        places: dict[Path, list[tuple[int, int]]] = {}
        for position, digest in enumerate(digests):
            path, row = self._where[digest]
            places.setdefault(path, []).append((position, row))
        whole = True
        for path, pairs in places.items():
            block = self._open(path)
            if block is None:
                whole = False  # the other blocks are looked at too: all that is lost is made at once
                continue
            positions, rows = (_as_slice(list(part)) for part in zip(*pairs, strict=True))
            found[positions] = block["phi"][rows]
        return torch.from_numpy(found) if whole else None

    def _write(self, images: Tensor, digests: list[bytes], batch: int, told: Progress) -> None:
        block = np.zeros(1, _block_type(len(digests), self.dim))
        block["images"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)
        phi, done = torch.from_numpy(block["phi"][0]), 0  # filled in place
        for part in images.split(batch):
            phi[done : done + len(part)] = self._embed(part).cpu()
            done += len(part)
            told(len(part))
        block["checksum"] = _checksum(block[0])
        # Named by its content: two blocks never compete for a name.
        path = self.folder / f"{hashlib.sha256(b''.join(digests)).hexdigest()[:32]}.npy"
        save_npy(path, block)
        self.embedded += len(digests)
        self._add(path)

    def _look(self) -> None:
        """Take note of the blocks that other jobs have written since."""
        for path in sorted(self.folder.glob("*.npy")):
            if path not in self._known:
                self._add(path)

    def _add(self, path: Path) -> None:
        block = self._open(path, check=False)
        if block is None:
            return
        digests = block["images"].tobytes()
        for row in range(len(block["images"])):
            key = digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]
            self._where.setdefault(key, (path, row))
        self._known.add(path)

    def _open(self, path: Path, check: bool = True) -> np.void | None:
        """The block, mapped; None where it has gone, or was corrupt and is deleted."""
        try:
            array = map_npy(path)
            rows = array.dtype["images"].shape[0] if array.dtype.names else 0
            if array.dtype != _block_type(rows, self.dim) or array.shape != (1,):
                raise ValueError("another shape")
            if check and path not in self._sound:
                if int(array["checksum"][0]) != _checksum(array[0]):
                    raise ValueError("a wrong checksum")
                self._sound.add(path)
            return array[0]
        except FileNotFoundError:
            self._forget(path)
        except (ValueError, KeyError, IndexError) as error:
            line = f"{path}: a corrupt block ({error}); it is deleted and made again"
            print(line, file=sys.stderr, flush=True)
            with suppress(OSError):
                path.unlink()
            self._forget(path)
        return None

    def _forget(self, path: Path) -> None:
        self._where = {key: place for key, place in self._where.items() if place[0] != path}
        self._known.discard(path)


class Embedded:
    """phi of a set of images by position, from the cache where there is one, else afresh.

    embed: images [n, C, H, W] -> phi [n, dim], on `device`. batch: images embedded at once."""

    def __init__(
        self,
        images: Tensor,
        embed: Callable[[Tensor], Tensor],
        dim: int,
        device: torch.device,
        batch: int = 256,
        cache: EmbeddingCache | None = None,
        told: Progress = lambda _: None,
    ) -> None:
        self.dim, self.device = dim, device
        self._images, self._embed, self._batch = images, embed, batch
        self._cache, self._told = cache, told
        self._digests = image_digests(images) if cache else []
        self._held, self._first = torch.empty(0, dim, device=device), 0

    def __len__(self) -> int:
        return len(self._images)

    def fill(self, span: range) -> None:
        """Bring the images at the positions of span into the cache, where there is one."""
        if self._cache:
            self._cache.fill(self._images, self._digests, span, self._batch, self._told)

    def read(self, span: range) -> Tensor:
        """phi [n, D] of the positions of span."""
        first = span.start - self._first
        if first >= 0 and first + len(span) <= len(self._held):
            return self._held[first : first + len(span)]
        if self._cache is None:
            return self._afresh(span)
        digests = self._digests[span.start : span.stop]
        for _ in range(ATTEMPTS):
            self.fill(span)
            found = self._cache.read(digests)
            if found is not None:
                return found.to(self.device)
        remedy = "check the disk, or choose another --cache-path, or --no-cache"
        raise UserError(self._cache.folder, "embeddings that do not stay as written", remedy)

    def hold(self, span: range) -> Tensor:
        """`read`, kept in memory until the next `hold`."""
        self._held = torch.empty(0, self.dim, device=self.device)  # free the last ones first
        self._held, self._first = self.read(span), span.start
        return self._held

    def _afresh(self, span: range) -> Tensor:
        found = torch.empty(len(span), self.dim, device=self.device)  # filled in place: held once
        done = 0
        for part in self._images[span.start : span.stop].split(self._batch):
            found[done : done + len(part)] = self._embed(part)
            done += len(part)
            self._told(len(part))
        return found


def image_digests(images: Tensor) -> list[bytes]:
    """What stands for each image [C, H, W]: 16 bytes of the sha256 of its numbers."""
    kind = f"{images.dtype} {list(images.shape[1:])}".encode()
    digests = []
    for image in images.contiguous().cpu().numpy():
        digests.append(hashlib.sha256(kind + image.tobytes()).digest()[:DIGEST_BYTES])
    return digests


def _block_type(rows: int, dim: int) -> np.dtype:
    digest = ("images", np.uint8, (rows, DIGEST_BYTES))
    return np.dtype([digest, ("checksum", np.uint64), ("phi", np.float32, (rows, dim))])


def _checksum(block: np.void) -> int:
    """CRC-32 of digests and embeddings: it finds any accidental change but one in 2^32."""
    return zlib.crc32(np.ascontiguousarray(block["phi"]), zlib.crc32(block["images"].tobytes()))


def _cells(span: range, rows: int) -> Iterator[range]:
    """span cut at the multiples of rows."""
    start = span.start
    while start < span.stop:
        stop = min(span.stop, (start // rows + 1) * rows)
        yield range(start, stop)
        start = stop


def _as_slice(positions: list[int]) -> slice | list[int]:
    """Neighbouring rows as a slice, which is copied without a detour."""
    first, count = positions[0], len(positions)
    neighbouring = positions[-1] - first == count - 1 and positions == list(
        range(first, first + count)
    )
    return slice(first, first + count) if neighbouring else positions
