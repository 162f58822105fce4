"""The searches of an audit, among training images that may be mirrored or shifted. Each search is
divided into parts, and a part is kept in a file as soon as it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree

import numpy as np
from torch import Tensor

from utils.cli.errors import UserError
from utils.cli.launcher import Launch, launcher_name
from utils.cli.progress import progress
from utils.data.views import Images, View
from utils.descriptors.embedders import Embedder
from utils.evidence.copying import Near
from utils.files.arrays import read_npz, save_npz
from utils.files.provenance import digest
from utils.jobs.claims import take_turns, wait_for
from utils.jobs.shares import Share
from utils.metrics.nearest import SearchSettings, nearest

KEYS = ("distances", "indices", "key")


# Training images as a copy may show them


@dataclass(frozen=True)
class Variant:
    """A training image that is mirrored or not, cut out at (top, left) of a border of `shifts`."""

    flip: bool = False
    top: int = 0
    left: int = 0
    shifts: int = 0

    def __call__(self, images: Tensor) -> Tensor:
        """[n, C, H, W] to [n, C, H - 2 shifts, W - 2 shifts]."""
        images = images.flip(-1) if self.flip else images
        height, width = (side - 2 * self.shifts for side in images.shape[2:])
        return images[:, :, self.top : self.top + height, self.left : self.left + width]


def variants(flips: bool, shifts: int) -> list[Variant]:
    """All that training images are compared as: 2 (2 shifts + 1)^2 with flips, half without.

    The samples are cut out in the middle, so all images have the same border less."""
    steps = range(2 * shifts + 1)
    mirrored = (False, True) if flips else (False,)
    return [
        Variant(flip, top, left, shifts) for flip in mirrored for top in steps for left in steps
    ]


def middle(images: Images, shifts: int) -> Images:
    """The images without a border of `shifts` pixels."""
    return View(images, change=Variant(False, shifts, shifts, shifts)) if shifts else images


def best_of(
    known: tuple[np.ndarray, np.ndarray] | None, new: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of two results of one search: distances [n, k] and indices [n, k], each
    training image once, by its nearest variant. Ascending, equal distances by index."""
    if known is None:
        return new
    distances, indices = (np.concatenate(pair, axis=1) for pair in zip(known, new, strict=True))
    order = np.lexsort((indices, distances), axis=1)
    distances, indices = (np.take_along_axis(x, order, axis=1) for x in (distances, indices))
    same = indices[:, :, None] == indices[:, None, :]  # [n, c, c]
    again = np.tril(same, -1).any(axis=2)  # an earlier column has that image
    order = np.argsort(again, axis=1, kind="stable")[:, :k]
    return tuple(np.take_along_axis(x, order, axis=1) for x in (distances, indices))


# Searches


@dataclass(frozen=True)
class Search:
    """The k nearest of references for each query; content: stands for both sets.

    exclude_self: the references are the queries. variants: what references are compared as."""

    name: str
    queries: Images
    references: Images
    k: int
    content: str
    exclude_self: bool = False
    variants: Sequence[Variant] = (Variant(),)

    def run(self, embedder: Embedder, rows: range, settings: SearchSettings) -> Near:
        """Distances in the metric and indices of the queries of rows."""
        best, total = None, len(self.references) * len(self.variants)
        with progress(total=total, unit="image", desc=self.name) as bar:
            settings = replace(settings, on_compared=bar.update)
            for variant in self.variants:
                queries = middle(self.queries, variant.shifts)
                references = self.references
                if variant != Variant():
                    references = View(references, change=variant)
                result = nearest(
                    embedder,
                    queries,
                    references,
                    self.k,
                    exclude_self=self.exclude_self,
                    rows=rows,
                    settings=settings,
                )
                best = best_of(best, result, result[0].shape[1])
        return Near(*best)


@dataclass(frozen=True)
class Parts:
    """The folder of finished parts, and which share of each search this job does.

    metric: name and weights of the embedder, which the parts were made with."""

    folder: Path
    share: Share
    metric: str

    def file(self, search: Search, index: int) -> Path:
        return self.folder / f"{index}-of-{self.share.count}" / f"{search.name}.npz"

    def key(self, search: Search) -> str:
        """Stands for all that a result depends on."""
        settings = (self.metric, search.content, str(search.k), str(list(search.variants)))
        return digest(np.array("\n".join(settings)))

    def is_there(self, search: Search, index: int) -> bool:
        """Whether a part is finished; one that was made from other images is not."""
        path = self.file(search, index)
        if not path.exists():
            return False
        return str(read_npz(path, KEYS)["key"]) == self.key(search)

    def compute(
        self,
        searches: Sequence[Search],
        embedder: Embedder,
        settings: SearchSettings,
        is_whole: Callable[[], bool],
    ) -> None:
        """This job's part of each search, unless it or the whole audit is finished: another job
        with the same command removes the parts at its end."""
        mine = self.share.index

        def target(search: Search) -> Path:
            return self.file(search, mine)

        def done(search: Search) -> bool:
            return is_whole() or self.is_there(search, mine)

        for (search,) in take_turns(searches, target, done):
            near = search.run(embedder, self.share.of(len(search.queries)), settings)
            arrays = {"distances": near.distances, "indices": near.indices}
            save_npz(target(search), **arrays, key=self.key(search))

    def wait_for_ranks(self, searches: Sequence[Search], launch: Launch) -> None:
        """Wait for the parts of the other ranks of this launch; one that has found all of them
        removes them when it has written the audit."""
        first = self.share.index - launch.rank
        for search in searches:
            files = {self.file(search, first + r): first + r for r in range(launch.world)}

            def is_there(path: Path, search: Search = search, index: Mapping = files) -> bool:
                return self.is_there(search, index[path]) or not self.folder.exists()

            wait_for(list(files), is_there, f"{launcher_name()}, {search.name}")

    def missing(self, searches: Sequence[Search]) -> int:
        """How many of the parts other jobs have still to do."""
        count = self.share.count
        return sum(not all(self.is_there(s, i) for s in searches) for i in range(count))

    def merged(self, searches: Sequence[Search]) -> dict[str, Near]:
        """Whole searches from their parts, by name. Raises UserError where a part is damaged."""
        return {
            search.name: Near(*map(np.concatenate, zip(*self._arrays(search), strict=True)))
            for search in searches
        }

    def _arrays(self, search: Search) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in range(self.share.count):
            path = self.file(search, index)
            arrays = read_npz(path, KEYS)
            rows = len(Share(index, self.share.count).of(len(search.queries)))
            distances, indices = arrays["distances"], arrays["indices"]
            if distances.shape != indices.shape or len(distances) != rows:
                raise UserError(path, "arrays of other shapes", "delete it and run again")
            yield distances, indices

    def remove(self) -> None:
        """Delete all parts: the audit is written."""
        rmtree(self.folder, ignore_errors=True)
