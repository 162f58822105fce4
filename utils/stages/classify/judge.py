"""One K, judged by every criterion that can be applied, with real images as a control."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from utils.cli.errors import UserError
from utils.data.subsets import held_out, held_out_images
from utils.descriptors.embedders import Embedder
from utils.evidence.cutoffs import cutoff_shares
from utils.evidence.duplicates import duplicate_groups, nearest_different
from utils.evidence.image_quality import image_quality, quality_columns
from utils.metrics.nearest import SearchSettings
from utils.stages.classify.files import Judged, JudgedDistances
from utils.stages.classify.held_out import HeldOut, measure_held_out
from utils.stages.classify.summary import Judgement, judge_row
from utils.stages.classify.thresholds import Calibration, calibrate, pooled
from utils.stages.classify.verdicts import (
    Limits,
    States,
    labels_of,
    nearest_column,
    reach,
    spurious_states,
)
from utils.stages.distances.files import Distances


@dataclass(frozen=True)
class Judge:
    """How the distances of real images are measured."""

    embedder: Embedder
    search: SearchSettings

    def judge(
        self, args: Mapping[str, Any], dists: Distances, train: Tensor, samples: Tensor
    ) -> tuple[Judged, np.ndarray, list[np.ndarray]]:
        """The row of a K with what it was made from, the labels [N] of its samples, and its
        distinct spurious states.

        args: with the options of the stage. train: the K training images, uint8 [K, C, H, W].
        samples: those of the distances, float32 [N, C, H, W].
        Raises UserError where the criterion of args cannot be applied."""
        arrays, metric, criterion = dists.arrays, dists.metric_name, args["classify"]["criterion"]
        groups = self.groups(train, args["train"]["train_size"])
        near = nearest_different(arrays["data-dists"], arrays["data-indices"], groups)
        neighbours = nearest_column(arrays["synth-dists"])
        real = measure_held_out(args, self.embedder, train, len(near), self.search, groups)
        calibrations = self.calibrations(args, real, len(near))
        limits: dict[str, Limits] = {n: (c.delta_m, c.delta_s) for n, c in calibrations.items()}
        if criterion == "delta":
            limits["delta"] = args["classify"]["delta_m"], args["classify"]["delta_s"]
        if near.shape[1] > 1 and len(near) > 1:
            limits["ratio"] = None, None
        judgements = {}
        for name, pair in limits.items():
            control = None
            if real is not None and real.control[1].size:
                control = labels_of(name, pair, metric, *real.control)
            judgements[name] = Judgement(labels_of(name, pair, metric, near, neighbours), control)
        labels, (_, delta_s) = judgements[criterion].labels, limits[criterion]
        states = spurious_states(
            labels,
            arrays["synth-indices"],
            arrays["synth-dists"],
            reach(near[:, 0], delta_s, metric),
        )
        used = calibrations.get(criterion)
        k = args["train"]["train_size"]
        counted = States.summed_up(states, len(labels))
        if real is None:
            real = HeldOut(near[:0], np.empty((0, len(near)), np.float32), 0)
        row = judge_row(k, criterion, metric, judgements, limits[criterion], counted, used)
        row |= cutoff_shares(metric, near[:, 0], real.near[:, 0])
        if len(real.near):
            row |= self.quality(args, train, samples)
        return Judged(row, dict(args), JudgedDistances(near, neighbours, real)), labels, states

    def quality(
        self, args: Mapping[str, Any], train: Tensor, samples: Tensor
    ) -> dict[str, float | None]:
        """Frechet distance, precision, recall, ... of the samples, by column."""
        most = args["classify"]["quality_size"]
        new = held_out_images(args, 2 * most)
        return quality_columns(image_quality(self.embedder, samples, train, new, most, self.search))

    def groups(self, train: Tensor, k: int) -> np.ndarray:
        """The duplicates among the training images; prints how many there are, if any."""
        groups = duplicate_groups(self.embedder, train, self.search)
        sizes = np.bincount(groups)
        if (sizes > 1).any():
            some = f"{(sizes > 1).sum()} groups of duplicates ({sizes[sizes > 1].sum()} images)"
            note = "d_2 is the distance to an image of another group"
            print(f"K = {k}: {some} among the training images: {note}", flush=True)
        return groups

    def calibrations(
        self, args: Mapping[str, Any], real: HeldOut | None, n: int
    ) -> dict[str, Calibration]:
        """Thresholds from real images, by criterion. Raises UserError where the criterion of args
        needs them and there are too few images."""
        options, k = args["classify"], args["train"]["train_size"]
        criterion, rate = options["criterion"], options["false_positive_rate"]
        found = {}
        if criterion == "calibrated":
            if real is None:
                held_out(args)  # raises the error that says why there are none
            found["calibrated"] = calibrate(real, k, n, rate)
        elif real is not None:
            with suppress(UserError):  # its columns stay empty
                found["calibrated"] = calibrate(real, k, n, rate)
        if criterion == "pooled":
            pool = options["pool_size"]
            found["pooled"] = pooled(args, self.embedder, rate, pool, n, self.search)
        return found
