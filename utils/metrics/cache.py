"""Embeddings on disk: each image passes through a network once, for every K and every job.

A block is one memory-mapped file with the digests of some images, their embeddings and a checksum.
Embeddings are found by the digest of the image, whichever set it is in: the nested subsets of a
sweep share theirs, and a killed job continues where it stopped."""

from __future__ import annotations

import hashlib
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.cli.options.run import CacheOptions
from utils.data.views import DIGEST_BYTES, Images, image_digests
from utils.descriptors.embedders import Embedder
from utils.files.arrays import map_npy, save_npy
from utils.files.atomic import free_space, make_folder
from utils.jobs.claims import clear_up, take_turns
from utils.jobs.memory import as_size

BLOCK_BYTES = 2**26  # of embeddings in a block: the most that a killed job loses
CODE = 2  # raise it when the same weights give other embeddings: old caches are then not read
ROW_BITS = 32
ATTEMPTS = 3  # to read what was just written

OnProgress = Callable[[int], object]  # called with the number of images embedded since


def open_cache(
    embedder: Embedder, settings: CacheOptions, beside: Path, images: Tensor, count: int
) -> EmbeddingCache | None:
    """The cache of embeddings for images like these; None with --no-cache, and for L2.

    beside: the stage's result folder. count: how many images will be embedded at most. Prints how
    much space they take; None also where the disk has less."""
    if settings.no_cache or not embedder.fingerprint:  # pixels: reading a file takes longer
        return None
    dim = embedder.dim(images)
    shape = "x".join(map(str, images.shape[1:]))
    root = settings.cache_path or Path(beside).parent / "embeddings"
    name = re.sub(r"[^\w.-]+", "-", embedder.name)  # timm:NAME
    folder = Path(root) / f"{name}-{shape}-{embedder.fingerprint}-{CODE}"
    cache = EmbeddingCache(folder, dim, embedder)
    needed, free = max(0, count * dim * 4 - cache.size()), free_space(folder)
    line = f"embeddings of {dim:,} numbers in {folder}"
    if needed:
        line += f": up to {as_size(needed)} more, {as_size(free)} free"
    if needed > free:
        remedy = "none are kept; free space or choose another --cache-path to embed only once"
        print(f"{line}: {remedy}", file=sys.stderr, flush=True)
        return None
    print(line, flush=True)
    return cache


class EmbeddingCache:
    """Embeddings phi [D] of images of one shape by one network, in the blocks of one folder.

    Several processes may fill it: each claims the images that it embeds, and the others wait for
    them. A block whose checksum is wrong is deleted, with one line, and made again. Rows are
    float32: float16 does not distinguish near-duplicates.

    embed: images [n, C, H, W] -> phi [n, dim] float32. `embedded` counts the images that it was
    called for. Raises UserError where the folder cannot be written."""

    def __init__(self, folder: Path, dim: int, embed: Callable[[Tensor], Tensor]) -> None:
        self.folder, self.dim, self.embedded = Path(folder), dim, 0
        self.version = 0  # changes when `locate` may give other positions
        self._embed = embed
        self._blocks: list[Path] = []
        self._place: dict[bytes, int] = {}  # digest -> position in _blocks, and row
        self._checked: set[Path] = set()  # blocks whose checksum is right
        make_folder(self.folder)
        clear_up(self.folder)
        self._look()

    @property
    def rows(self) -> int:
        """Images of one block."""
        return max(1, BLOCK_BYTES // (4 * self.dim))

    def size(self) -> int:
        """Bytes that the embeddings take."""
        return len(self._place) * self.dim * 4

    def locate(self, digests: Sequence[bytes]) -> np.ndarray:
        """Positions of the embeddings for `read`, int64 [n]; -1 where they are missing."""
        return np.fromiter((self._place.get(d, -1) for d in digests), np.int64, len(digests))

    def fill(
        self,
        images: Images,
        digests: Sequence[bytes],
        span: range,
        batch: int,
        on_progress: OnProgress = lambda _: None,
    ) -> None:
        """Embed the missing ones of the images at the positions of span, `batch` at once.

        digests: of all images, since blocks start at multiples of `rows` of the whole set: jobs
        with other spans of it then share blocks, and each is made by one of them."""

        def missing(cell: range) -> dict[bytes, int]:
            """The digests that no block has, each once, with the first position."""
            first: dict[bytes, int] = {}
            for position in cell:
                if digests[position] not in self._place:
                    first.setdefault(digests[position], position)
            return first

        def done(cell: range) -> bool:
            if missing(cell):
                self._look()
            return not missing(cell)

        def target(cell: range) -> Path:
            return self.folder / digests[cell.start // self.rows * self.rows].hex()

        for (cell,) in take_turns(_cells(span, self.rows), target, done):
            new = missing(cell)
            self._write(images[list(new.values())], list(new), batch, on_progress)

    def read(self, places: np.ndarray) -> Tensor | None:
        """phi [n, D] float32 on the CPU at positions of `locate`; read-only.

        None where some have been deleted since, or are corrupt."""
        if (places < 0).any():
            return None
        numbers, rows = places >> ROW_BITS, places & (2**ROW_BITS - 1)  # of blocks, and in them
        if len(places) and (numbers == numbers[0]).all() and (np.diff(rows) == 1).all():
            block = self._open(self._blocks[numbers[0]])  # neighbours in one block: no copy
            return None if block is None else torch.from_numpy(block["phi"][rows[0] : rows[-1] + 1])
        phi, complete = np.empty((len(places), self.dim), np.float32), True
        for number in np.unique(numbers):
            block = self._open(self._blocks[number])
            if block is None:  # check the others too, so that all lost rows are made again at once
                complete = False
                continue
            here = np.flatnonzero(numbers == number)
            phi[_as_slice(here)] = block["phi"][_as_slice(rows[here])]
        return torch.from_numpy(phi) if complete else None

    def _write(
        self, images: Images, digests: list[bytes], batch: int, on_progress: OnProgress
    ) -> None:
        block = np.zeros(1, _block_type(len(digests), self.dim))
        block["images"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)
        phi, done = torch.from_numpy(block["phi"][0]), 0  # filled in place
        for part in images.split(batch):
            phi[done : done + len(part)] = self._embed(part).cpu()
            done += len(part)
            on_progress(len(part))
        block["checksum"] = _checksum(block[0])
        # Named by its content: two blocks never compete for a name.
        path = self.folder / f"{hashlib.sha256(b''.join(digests)).hexdigest()[:32]}.npy"
        save_npy(path, block, lasting=False)  # the checksum finds a block that a crash cut short
        self.embedded += len(digests)
        self._add(path)

    def _look(self) -> None:
        """Add the blocks that other jobs have written since."""
        for path in sorted(set(self.folder.glob("*.npy")) - set(self._blocks)):
            self._add(path)

    def _add(self, path: Path) -> None:
        block = self._open(path, check=False)
        if block is None:
            return
        digests, first = block["images"].tobytes(), len(self._blocks) << ROW_BITS
        for row in range(len(block["images"])):
            key = digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]
            self._place.setdefault(key, first + row)
        self._blocks.append(path)
        self.version += 1

    def _open(self, path: Path, check: bool = True) -> np.void | None:
        """The block, memory-mapped; None if it is gone, or was corrupt and is now deleted."""
        try:
            array = map_npy(path)
            rows = array.dtype["images"].shape[0] if array.dtype.names else 0
            if array.dtype != _block_type(rows, self.dim) or array.shape != (1,):
                raise ValueError("another shape")
            if check and path not in self._checked:
                if int(array["checksum"][0]) != _checksum(array[0]):
                    raise ValueError("a wrong checksum")
                self._checked.add(path)
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
        """Remove a block. The numbers of other blocks stay, so that their positions stay valid."""
        if path in self._blocks:
            number = self._blocks.index(path)
            self._blocks[number] = Path()
            places = self._place.items()
            self._place = {key: place for key, place in places if place >> ROW_BITS != number}
        self._checked.discard(path)
        self.version += 1


class Embedded:
    """phi of a set of images by position, from the cache if there is one, else computed anew.

    embed: images [n, C, H, W] -> phi [n, dim], on `device`. batch: images embedded at once."""

    def __init__(
        self,
        images: Images,
        embed: Callable[[Tensor], Tensor],
        dim: int,
        device: torch.device,
        batch: int = 256,
        cache: EmbeddingCache | None = None,
        on_progress: OnProgress = lambda _: None,
    ) -> None:
        self.dim, self.device = dim, device
        self._images, self._embed, self._batch = images, embed, batch
        self._cache, self._on_progress = cache, on_progress
        self._digests = image_digests(images) if cache else []
        self._places, self._version = np.empty(0, np.int64), -1
        self._held, self._first = torch.empty(0, dim, device=device), 0

    def fill(self, span: range) -> None:
        """Embed the images at the positions of span into the cache, if there is one."""
        if self._cache and (self._located(span) < 0).any():
            self._cache.fill(self._images, self._digests, span, self._batch, self._on_progress)

    def read(self, span: range) -> Tensor:
        """phi [n, D] at the positions of span; read-only."""
        first = span.start - self._first
        if first >= 0 and first + len(span) <= len(self._held):
            return self._held[first : first + len(span)]
        if self._cache is None:
            return self._embedded(span)
        for _ in range(ATTEMPTS):
            self.fill(span)
            phi = self._cache.read(self._located(span))
            if phi is not None:
                return phi.to(self.device)
        remedy = "check the disk, or choose another --cache-path, or --no-cache"
        raise UserError(self._cache.folder, "embeddings that do not stay as written", remedy)

    def _located(self, span: range) -> np.ndarray:
        if self._version != self._cache.version:
            self._places, self._version = self._cache.locate(self._digests), self._cache.version
        return self._places[span.start : span.stop]

    def hold(self, span: range) -> Tensor:
        """`read`, kept in memory until the next `hold`."""
        self._held = torch.empty(0, self.dim, device=self.device)  # free the last ones first
        self._held, self._first = self.read(span), span.start
        return self._held

    def _embedded(self, span: range) -> Tensor:
        phi, done = torch.empty(len(span), self.dim, device=self.device), 0  # filled in place
        for part in self._images[span.start : span.stop].split(self._batch):
            phi[done : done + len(part)] = self._embed(part)
            done += len(part)
            self._on_progress(len(part))
        return phi


def _block_type(rows: int, dim: int) -> np.dtype:
    digest = ("images", np.uint8, (rows, DIGEST_BYTES))
    return np.dtype([digest, ("checksum", np.uint64), ("phi", np.float32, (rows, dim))])


def _checksum(block: np.void) -> int:
    """CRC-32 of digests and embeddings: it misses one accidental change in 2^32."""
    return zlib.crc32(np.ascontiguousarray(block["phi"]), zlib.crc32(block["images"].tobytes()))


def _cells(span: range, rows: int) -> Iterator[range]:
    """span cut at the multiples of rows."""
    start = span.start
    while start < span.stop:
        stop = min(span.stop, (start // rows + 1) * rows)
        yield range(start, stop)
        start = stop


def _as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """Neighbouring rows as a slice, which numpy copies faster."""
    first, last = int(positions[0]), int(positions[-1])
    neighbours = last - first == len(positions) - 1 and (np.diff(positions) == 1).all()
    return slice(first, last + 1) if neighbours else positions
