"""The answer of an audit: which samples are copies, what held-out images give, and the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from utils.evidence.copying import Near
from utils.metrics.intervals import wilson_interval
from utils.stages.audit.criteria import (
    copies_interval,
    discoveries,
    is_copy_by_ratio,
    p_values,
    ratios,
)

NEEDS_HELD_OUT = ("p-values", "the control", "C_T", "authenticity")


@dataclass(frozen=True)
class Groups:
    """Duplicates in a set of N images: of each image the group it is in, int64 [N].

    exact: groups of equal pixels. near: those, joined with near-duplicates; None if these were not
    looked for."""

    exact: np.ndarray
    near: np.ndarray | None

    @property
    def widest(self) -> np.ndarray:
        return self.exact if self.near is None else self.near

    def counts(self) -> dict[str, int | None]:
        """How many groups of two images or more there are, and of how many images."""
        counts: dict[str, int | None] = {}
        for name, groups in (("exact", self.exact), ("near", self.near)):
            sizes = None if groups is None else np.bincount(groups)
            counts[f"{name}_groups"] = None if sizes is None else int((sizes > 1).sum())
            counts[f"{name}_images"] = None if sizes is None else int(sizes[sizes > 1].sum())
        sizes = np.bincount(self.widest)
        return {**counts, "distinct": int((sizes > 0).sum()), "largest": int(sizes.max())}


@dataclass(frozen=True)
class Judged:
    """Images judged by each criterion: bool [n] each; near: their nearest training images, indices
    into all of them; ratio [n]; p [n], or None without held-out images."""

    near: Near
    ratio: np.ndarray
    p: np.ndarray | None
    by: Mapping[str, np.ndarray]

    @property
    def copies(self) -> np.ndarray:
        return np.logical_or.reduce(list(self.by.values()))

    def share(self) -> dict[str, Any]:
        """The share of copies with its interval, and how many by each criterion."""
        count, total = int(self.copies.sum()), len(self.copies)
        low, high = wilson_interval(count, total)
        if self.p is not None:
            low, high = copies_interval(self.by["equal"] | self.by["ratio"], self.p)
        counts = {name: int(hits.sum()) for name, hits in self.by.items()}
        share = {"share": count / total, "low": low, "high": high}
        return {"count": count, "total": total, **share, "by": counts}

    def named_criteria(self, i: int) -> str:
        """`equal+ratio`: the criteria that make image i a copy; empty for a new one."""
        return "+".join(name for name, hits in self.by.items() if hits[i])

    def worst_first(self) -> np.ndarray:
        """Positions [n]: copies first, then by ratio, by distance, by position."""
        ratio = np.nan_to_num(self.ratio, nan=np.inf)
        return np.lexsort((self.near.distances[:, 0], ratio, ~self.copies))


@dataclass
class Audit:
    """The answer. Shares are dicts with `count`, `total`, `share`, `low`, `high` (95 %) and `by`.

    control: the same of the held-out images; None without them. findings: tests of the whole set,
    by name. cutoffs: the shares within published cut-offs of the metric, with `_control`.
    quality: QUALITY_COLUMNS; empty without held-out images, or with too few. copied:
    training images by how often they were copied. samples, train, held_out: what was read, in
    words. table: the columns of neighbours.csv, worst sample first; groups: the rows of
    duplicates.csv."""

    copies: dict[str, Any]
    control: dict[str, Any] | None
    smallest_p: float | None
    duplicates: dict[str, Any]
    states: dict[str, Any]
    findings: dict[str, Any]
    copied: list[dict[str, Any]]
    inputs: dict[str, str]
    metric: str
    cutoffs: dict[str, Any]
    quality: dict[str, float | None]
    warnings: list[str] = field(default_factory=list)
    needs_held_out: list[str] = field(default_factory=list)
    table: dict[str, list] = field(default_factory=dict, repr=False)
    groups: list[dict[str, Any]] = field(default_factory=list, repr=False)


def judge(
    near: Near, lengths: np.ndarray, equal: np.ndarray, groups: np.ndarray, held_out: Judged | None
) -> Judged:
    """Samples judged by all criteria; without held_out by equality and ratio alone.

    lengths [n, k]: the distances of near as Euclidean ones; groups: of all training images."""
    ratio = ratios(lengths, near.indices, groups)
    by = {"equal": equal, "ratio": is_copy_by_ratio(ratio)}
    p = None
    if held_out is not None:
        p = p_values(near.distances[:, 0], held_out.near.distances[:, 0])
        by["p-value"] = discoveries(p)
    return Judged(near, ratio, p, by)


def with_cutoff(held_out: Judged, samples: Judged) -> Judged:
    """The held-out images judged as the samples were: by the largest distance at which one of
    these is a discovery."""
    distances = samples.near.distances[samples.by["p-value"], 0]
    cutoff = distances.max() if len(distances) else -1.0
    hits = held_out.near.distances[:, 0] <= cutoff
    return Judged(held_out.near, held_out.ratio, None, {**held_out.by, "p-value": hits})


def copied_images(judged: Judged, names: list[str], times: np.ndarray) -> list[dict[str, Any]]:
    """The training images nearest to copies: `train`, `copies`, `times_in_train`, most copied
    first. times [K]: how often each training image occurs."""
    counts = Counter(judged.near.indices[judged.copies, 0].tolist())
    return [
        {"train": names[i], "copies": count, "times_in_train": int(times[i])}
        for i, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def neighbours_table(
    judged: Judged, samples: list[str], train: list[str], k: int
) -> dict[str, list]:
    """The columns of neighbours.csv: a row for each sample, worst first."""
    order = judged.worst_first().tolist()
    copies = judged.copies
    table: dict[str, list] = {
        "sample": [samples[i] for i in order],
        "verdict": ["copy" if copies[i] else "new" for i in order],
        "by": [judged.named_criteria(i) for i in order],
        "p_value": [None if judged.p is None else float(judged.p[i]) for i in order],
        "ratio": [None if np.isnan(judged.ratio[i]) else float(judged.ratio[i]) for i in order],
    }
    for j in range(min(k, judged.near.indices.shape[1])):
        table[f"train_{j + 1}"] = [train[judged.near.indices[i, j]] for i in order]
        table[f"distance_{j + 1}"] = [float(judged.near.distances[i, j]) for i in order]
    return table
