"""From three sets of images to an `Audit`: search, judge, compare with held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.cli.options.samples import AuditOptions
from utils.data.views import Images, Union, View
from utils.descriptors.embedders import Embedder, as_float
from utils.evidence.copying import Cells, Near, copying_tests
from utils.evidence.cutoffs import cutoff_shares
from utils.evidence.definitions import TESTS
from utils.evidence.duplicates import MOST_NEAR, NEAR_DEPTH, near_groups
from utils.evidence.image_quality import image_quality, quality_columns
from utils.metrics.nearest import SearchSettings
from utils.stages.audit.criteria import FALSE_DISCOVERIES
from utils.stages.audit.figures import PAIRS, caption
from utils.stages.audit.inputs import Sets, as_keys, shared
from utils.stages.audit.neighbours import Search, variants
from utils.stages.audit.result import (
    NEEDS_HELD_OUT,
    Audit,
    Groups,
    Judged,
    copied_images,
    judge,
    neighbours_table,
    with_cutoff,
)

DEPTH = 16  # neighbours searched for: the nearest different image lies beyond the duplicates


@dataclass(frozen=True)
class Distinct:
    """A set of images with each of its pixels once.

    images: the first of equal ones, in their order. first [K']: their positions in the set; of [K]:
    the place in images of each of the set; times [K']: how often each occurs."""

    images: Images
    first: np.ndarray
    of: np.ndarray
    times: np.ndarray


def distinct(images: Images, digests: np.ndarray) -> Distinct:
    """The images without exact duplicates."""
    _, first, of, times = np.unique(
        as_keys(digests), return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    first = first[order]
    chosen = images if len(first) == len(digests) else View(images, first)
    return Distinct(chosen, first, place[of], times[order])


@dataclass(frozen=True)
class Shown:
    """What the figures show: the worst pairs (images [n, C, H, W], captions, which are copies), and
    the distances to the nearest training image of samples [N] and held-out images."""

    samples: np.ndarray
    train: np.ndarray
    captions: list[str]
    framed: list[bool]
    distances: np.ndarray
    copies: np.ndarray
    held_out: np.ndarray | None


class Examination:
    """An audit at work: the searches it needs, and the answer once they are done."""

    def __init__(self, sets: Sets, options: AuditOptions, embedder: Embedder) -> None:
        self.sets, self.options, self.embedder = sets, options, embedder
        self.train = distinct(sets.train, sets.train.digests)
        self.samples = distinct(sets.samples, sets.samples.digests)
        depth = max(options.k, DEPTH)
        queries, names = self.joined(), "+".join(one.fingerprint for one in sets.named().values())
        compared = variants(options.flips, options.shifts)
        nearest = Search("nearest", queries, self.train.images, depth, names, variants=compared)
        self.searches = {"nearest": nearest}
        if len(compared) > 1 and sets.held_out is not None:
            self.searches["plain"] = Search("plain", queries, self.train.images, depth, names)
        for name, once, digests in (
            ("train", self.train, sets.train.fingerprint),
            ("samples", self.samples, sets.samples.fingerprint),
        ):
            if len(once.first) > 2 and self.looks_for_near(len(once.first)):
                images = once.images
                own = Search(name, images, images, NEAR_DEPTH, digests, exclude_self=True)
                self.searches[name] = own

    def looks_for_near(self, count: int) -> bool:
        """Whether near-duplicates among so many images are looked for."""
        asked = self.options.duplicates
        return asked == "near" or (asked == "auto" and count <= MOST_NEAR)

    def joined(self) -> Images:
        """Samples and held-out images, as one set of queries."""
        sets = [one for one in (self.sets.samples, self.sets.held_out) if one is not None]
        if len({one[:1].dtype for one in sets}) > 1:
            sets = [View(one, change=as_float) for one in sets]
        return Union(*sets) if len(sets) > 1 else sets[0]

    def answer(self, near: Mapping[str, Near], settings: SearchSettings) -> tuple[Audit, Shown]:
        """The audit, from the results of all searches by name."""
        n, sets = len(self.sets.samples), self.sets
        groups = self.groups("train", self.train, near)
        of_distinct = groups.widest[self.train.first]
        both = split(near["nearest"], n)
        control = None
        if sets.held_out is not None:
            equal = shared(sets.held_out, sets.train)
            control = judge(both[1], self.lengths(both[1]), equal, of_distinct, None)
        equal = shared(sets.samples, sets.train)
        judged = judge(both[0], self.lengths(both[0]), equal, of_distinct, control)
        if control is not None:
            control = with_cutoff(control, judged)
        train_names = [sets.train.names[i] for i in self.train.first.tolist()]
        audit = Audit(
            copies=judged.share(),
            control=control and control.share(),
            smallest_p=None if control is None else 1 / (len(control.copies) + 1),
            duplicates=groups.counts(),
            states=self.groups("samples", self.samples, near).counts(),
            findings=self.findings(
                split(near.get("plain", near["nearest"]), n), of_distinct, settings
            ),
            copied=copied_images(judged, train_names, self.train.times),
            inputs={name: one.describe() for name, one in sets.named().items()},
            metric=self.embedder.name,
            cutoffs=self.cutoffs(judged, control),
            quality=self.quality(settings),
            warnings=[*sets.warnings, *self.warnings(control)],
            needs_held_out=[] if control else list(NEEDS_HELD_OUT),
            table=neighbours_table(judged, sets.samples.names, train_names, self.options.k),
            groups=duplicates_table(groups, sets.train.names),
        )
        return audit, self.shown(judged, control)

    def quality(self, settings: SearchSettings) -> dict[str, float | None]:
        """Frechet distance, precision, recall, ... of the samples, by column; empty without, or
        with too few, held-out images."""
        sets, most = self.sets, self.options.quality_size
        if sets.held_out is None:
            return {}
        estimates = image_quality(
            self.embedder, sets.samples, sets.train, sets.held_out, most, settings
        )
        return quality_columns(estimates) if estimates else {}

    def cutoffs(self, judged: Judged, control: Judged | None) -> dict[str, Any]:
        """Shares within published cut-offs; empty for metrics that have none."""
        d, metric = judged.near.distances[:, 0], self.embedder.name
        real = d[:0] if control is None else control.near.distances[:, 0]
        shares = cutoff_shares(metric, d, real)
        return {name: share for name, share in shares.items() if name.startswith(f"{metric}-")}

    def shown(self, judged: Judged, control: Judged | None) -> Shown:
        """The worst pairs, and all distances."""
        worst = judged.worst_first()[:PAIRS]
        distances, indices = judged.near.distances[:, 0], judged.near.indices[worst, 0]
        return Shown(
            as_float(self.sets.samples[worst]).numpy(),
            as_float(self.train.images[indices]).numpy(),
            [caption(distances[i], judged.named_criteria(i)) for i in worst.tolist()],
            judged.copies[worst].tolist(),
            distances,
            judged.copies,
            None if control is None else control.near.distances[:, 0],
        )

    def lengths(self, near: Near) -> np.ndarray:
        """Distances whose ratios mean lengths: LPIPS is the square of one, so its root."""
        return np.sqrt(near.distances) if self.embedder.squared else near.distances

    def groups(self, name: str, once: Distinct, near: Mapping[str, Near]) -> Groups:
        """The duplicates of a set."""
        if name not in near:
            few = len(once.first) <= 2  # a second neighbour is needed to tell what is near
            return Groups(once.of, once.of if few else None)
        joined = near_groups(self.lengths(near[name]), near[name].indices)
        return Groups(once.of, joined[once.of])

    def findings(
        self, near: list[Near], groups: np.ndarray, settings: SearchSettings
    ) -> dict[str, Any]:
        """C_T, authenticity and the ratio test, by name; none without held-out images."""
        if self.sets.held_out is None:
            return {}
        sets = self.sets.samples, self.train.images, self.sets.held_out
        cells = Cells(seed=self.options.seed)
        tests, _ = copying_tests(self.embedder, *sets, cells, settings, (near[0], near[1]), groups)
        return {
            one.test: {
                "title": TESTS[one.test].title,
                **{name: getattr(one, name) for name in ("value", "low", "high", "p_value")},
                "verdict": one.verdict,
                "details": dict(one.details),
            }
            for one in tests
        }

    def warnings(self, control: Judged | None) -> list[str]:
        """What the numbers cannot show."""
        notes, n = [], len(self.sets.samples)
        if control is not None:
            count = len(control.copies)
            needed = int(np.ceil(n / (FALSE_DISCOVERIES * (count + 1)) - 1e-9))
            if needed > 1:
                notes.append(
                    f"{count} held-out images: no p-value is below {1 / (count + 1):.2g}, so fewer "
                    f"than {needed} copies among {n} samples are not found by p-values; give "
                    f"{int(n / FALSE_DISCOVERIES)} held-out images to find a single one"
                )
        if len(self.train.first) < 2:
            notes.append("one distinct training image: the ratio test needs two")
        if "train" not in self.searches and len(self.train.first) > 2:
            notes.append("near-duplicates among training images were not looked for")
        return notes


def split(near: Near, n: int) -> list[Near]:
    """The neighbours of the samples, and those of the held-out images, which may be none."""
    parts = (near.distances[:n], near.distances[n:]), (near.indices[:n], near.indices[n:])
    return [Near(*pair) for pair in zip(*parts, strict=True)]


def duplicates_table(groups: Groups, names: list[str]) -> list[dict[str, Any]]:
    """The training images with duplicates, the largest group first: `group`, `images`, `kind`,
    `train`."""
    sizes = np.bincount(groups.widest)
    members = np.flatnonzero(sizes[groups.widest] > 1)
    order = members[np.lexsort((members, groups.widest[members], -sizes[groups.widest[members]]))]
    exact = np.bincount(groups.exact)
    numbers: dict[int, int] = {}
    rows = []
    for i in order.tolist():
        group = int(groups.widest[i])
        number = numbers.setdefault(group, len(numbers) + 1)
        kind = "exact" if exact[groups.exact[i]] > 1 else "near"
        rows.append({"group": number, "images": int(sizes[group]), "kind": kind, "train": names[i]})
    return rows
