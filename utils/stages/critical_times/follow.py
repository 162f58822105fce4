"""Images followed through noise: a search for each, all of them in one pool of network calls."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from models.noise import image_key, mix
from utils.descriptors.embedders import Embedder
from utils.metrics.pairs import squared_distances
from utils.stages.critical_times.pool import Copy, RecoveryPool
from utils.stages.critical_times.search import Answer, Rule, Search

Pair = tuple[int, int]  # time and trial
Recovered = tuple[Tensor, float]  # an image [C, H, W], and its distance to the original
JUDGED_AT_ONCE = 64  # images of an LPIPS call: always as many, whatever the pool's batch


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
        self._enough = JUDGED_AT_ONCE if embedder.fingerprint else 1

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

    def clear(self) -> None:
        """All images are done with: another image may take an index."""
        self._originals, self._copies, self._recovered = {}, [], []

    def _measure(self, copies: list[Copy], recovered: Tensor) -> list[float]:
        if not recovered.isfinite().all():
            raise ValueError("recovered: found NaN or infinite values")
        new = {copy.name[0]: copy.image for copy in copies if copy.name[0] not in self._originals}
        if new:
            phi = self._embed(torch.stack(list(new.values())))
            self._originals.update(zip(new, phi, strict=True))
        originals = torch.stack([self._originals[copy.name[0]] for copy in copies])
        squares = squared_distances(self._embed(recovered), originals)
        return (squares if self._embedder.squared else squares.sqrt()).tolist()

    def _embed(self, images: Tensor) -> Tensor:
        """phi [n, D]; calls have one shape, so that an image's bits do not depend on the others."""
        embedded = []
        for part in images.split(JUDGED_AT_ONCE):
            rows = part.new_zeros(JUDGED_AT_ONCE, *part.shape[1:])
            rows[: len(part)] = part
            embedded.append(self._embedder(rows)[: len(part)])
        return torch.cat(embedded)


class _Followed:
    """An image whose search is not finished: what was sent to the pool, and its results so far."""

    def __init__(self, index: int, image: Tensor, search: Search, seed: int) -> None:
        self.index, self._image, self._search = index, image, search
        self._key, self._seed = image_key(image), seed
        self._sent: set[Pair] = set()
        self._known: dict[Pair, bool] = {}
        self._asked: list[Pair] = next(search)

    def copies(self, pairs: Iterable[Pair], most: int | None = None) -> list[Copy]:
        """Copies of these pairs (time, trial) that were not sent before, `most` at most."""
        new = [pair for pair in pairs if pair not in self._sent][:most]
        self._sent.update(new)
        return [noised_copy(self.index, self._image, self._key, self._seed, *p) for p in new]

    def requested(self) -> list[Copy]:
        return self.copies(self._asked)

    def guesses(self, trials: int, most: int) -> list[Copy]:
        """Copies that may be requested next: the other trials at the requested time."""
        t = self._asked[0][0]
        return self.copies(((t, trial) for trial in range(trials)), most)

    def tell(self, pair: Pair, recovered: bool) -> Answer | None:
        """Take an answer; go on as far as what is known allows; the search's answer at its end."""
        self._known[pair] = recovered
        while all(pair in self._known for pair in self._asked):
            try:
                self._asked = self._search.send([self._known[pair] for pair in self._asked])
            except StopIteration as ended:
                return ended.value
        return None


def follow(
    images: Tensor,
    rule: Rule,
    search: Callable[[Rule], Search],
    pool: RecoveryPool,
    judge: Judge,
    delta: float,
    seed: int,
) -> Iterator[tuple[int, Answer]]:
    """Yield (index, answer) as the search of each image [n, C, H, W] ends, in no order.

    An answer depends on its image, the seed, delta, rule and search alone. What searches ask for
    is computed; where rows of a call would be empty the next image begins, and where there is
    none they take what may be requested next: that costs nothing and is looked up later."""
    waiting = iter(range(len(images)))
    active: dict[int, _Followed] = {}
    while True:
        while pool.room and (i := next(waiting, None)) is not None:
            active[i] = _Followed(i, images[i], search(rule), seed)
            pool.add(active[i].requested())
        if not active:
            pool.clear()
            judge.clear()
            return
        for followed in active.values():
            if not pool.room:
                break
            pool.add(followed.guesses(rule.trials, pool.room))
        copies, recovered = pool.step()
        # A call that would be half empty waits for no full one of LPIPS.
        known = judge.distances(copies, recovered, at_once=2 * pool.room >= pool.batch)
        for copy, _, distance in known:
            i, *pair = copy.name
            if i not in active:
                continue  # a guess that was not requested
            answer = active[i].tell(tuple(pair), distance <= delta)
            if answer is None:
                pool.add(active[i].requested())
            else:
                del active[i]
                judge.forget(i)
                yield i, answer


def recover(pool: RecoveryPool, judge: Judge, copies: Sequence[Copy]) -> dict[Hashable, Recovered]:
    """What these copies become, and how far from their images, by their names."""
    judge.clear()
    pool.add(copies)
    recovered: dict[Hashable, Recovered] = {}
    while len(recovered) < len(copies):
        for copy, image, distance in judge.distances(*pool.step(), at_once=True):
            recovered[copy.name] = image.cpu(), distance
    judge.clear()
    return recovered
