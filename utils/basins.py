"""Images followed through noise: a search for each, all of them in one pool of network calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.neighbours import pair_distances
from models.recovery import Copy, RecoveryPool
from utils.embeddings import Embedder
from utils.searches import Answer, Search
from utils.seeding import mix

Recovered = tuple[Tensor, float]  # an image [C, H, W], and its distance to the original
JUDGED_AT_ONCE = 64  # images of an LPIPS call: always as many, whatever the pool's batch


def image_key(image: Tensor) -> str:
    """What an image's noise depends on: its content, so that its place in a file does not count.

    image: [C, H, W] float32 on the CPU. 16 hex digits of its sha256."""
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16]


def noised_copy(index: int, image: Tensor, key: str, seed: int, t: int, trial: int) -> Copy:
    """The copy of one trial: its noise comes from (seed, image, time, trial) alone."""
    return Copy((index, t, trial), image, t, mix(seed, "trial", key, t, trial))


class Judge:
    """Distances between what was recovered and the images that it should be, in the metric.

    Each image is embedded once, while it is needed. LPIPS waits until a call is full."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._originals: dict[int, Tensor] = {}  # phi by the image's index
        self._copies: list[Copy] = []
        self._recovered: list[Tensor] = []
        self._enough = 1 if embedder.name == "l2" else JUDGED_AT_ONCE

    def distances(
        self, copies: Sequence[Copy], recovered: Tensor, at_once: bool = False
    ) -> Iterator[tuple[Copy, Tensor, float]]:
        """Take copies and their recovered images [n, C, H, W]; yield both where the distance is
        known, with it.

        at_once: all of them. Raises ValueError where an image is not finite."""
        self._copies.extend(copies)
        self._recovered.extend(recovered)
        enough = 1 if at_once else self._enough
        while len(self._copies) >= enough:
            copies, self._copies = self._copies[:JUDGED_AT_ONCE], self._copies[JUDGED_AT_ONCE:]
            images = torch.stack(self._recovered[: len(copies)])
            self._recovered = self._recovered[len(copies) :]
            yield from zip(copies, images, self._measure(copies, images), strict=True)

    def forget(self, index: int) -> None:
        """Image `index` is done with."""
        self._originals.pop(index, None)

    def _measure(self, copies: list[Copy], recovered: Tensor) -> list[float]:
        if not recovered.isfinite().all():
            raise ValueError("recovered: found NaN or infinite values")
        new = {copy.name[0]: copy.image for copy in copies if copy.name[0] not in self._originals}
        if new:
            phi = self._embed(torch.stack(list(new.values())))
            self._originals.update(zip(new, phi, strict=True))
        originals = torch.stack([self._originals[copy.name[0]] for copy in copies])
        squares = pair_distances(self._embed(recovered), originals)
        return (squares if self._embedder.squared else squares.sqrt()).tolist()

    def _embed(self, images: Tensor) -> Tensor:
        """phi [n, D]; calls have one shape, so that an image's bits do not depend on the others."""
        found = []
        for part in images.split(JUDGED_AT_ONCE):
            rows = part.new_zeros(JUDGED_AT_ONCE, *part.shape[1:])
            rows[: len(part)] = part
            found.append(self._embedder(rows)[: len(part)])
        return torch.cat(found)


@dataclass
class _Followed:
    """An image whose search goes on: what was asked, and what is known of it."""

    search: Search
    asked: list[tuple[int, int]]
    answers: dict[tuple[int, int], bool] = field(default_factory=dict)


def follow(
    images: Tensor,
    search: Callable[[], Search],
    pool: RecoveryPool,
    judge: Judge,
    delta: float,
    seed: int,
) -> Iterator[tuple[int, Answer]]:
    """Yield (index, answer) as the search of each image [n, C, H, W] ends, in no order.

    An answer depends on its image, the seed, delta and the search alone. Only what a search asks
    for is computed; as long as rows of a call would be empty, the next image begins."""
    keys = [image_key(image) for image in images]
    waiting, active = iter(range(len(images))), {}

    def ask(i: int, followed: _Followed) -> None:
        pool.add(noised_copy(i, images[i], keys[i], seed, *pair) for pair in followed.asked)

    while True:
        while pool.room and (i := next(waiting, None)) is not None:
            begun = search()
            active[i] = _Followed(begun, next(begun))
            ask(i, active[i])
        if not active:
            return
        copies, recovered = pool.step()
        # A call that would be half empty waits for no full one of LPIPS.
        known = judge.distances(copies, recovered, at_once=2 * pool.room >= pool.batch)
        for copy, _, distance in known:
            i, *pair = copy.name
            followed = active[i]
            followed.answers[tuple(pair)] = distance <= delta
            if len(followed.answers) < len(followed.asked):
                continue
            try:
                followed.asked = followed.search.send([followed.answers[p] for p in followed.asked])
            except StopIteration as ended:
                del active[i]
                judge.forget(i)
                yield i, ended.value
            else:
                followed.answers = {}
                ask(i, followed)


def recover(pool: RecoveryPool, judge: Judge, copies: Sequence[Copy]) -> dict[Hashable, Recovered]:
    """What these copies become, and how far from their images, by their names."""
    pool.add(copies)
    found: dict[Hashable, Recovered] = {}
    while len(found) < len(copies):
        for copy, image, distance in judge.distances(*pool.step(), at_once=True):
            found[copy.name] = image.cpu(), distance
    for copy in copies:
        judge.forget(copy.name[0])
    return found
