"""The work of run_critical_times.py: how much noise each image survives."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.noise import image_key
from utils.cli.errors import Interrupted, UserError
from utils.cli.options.choices import METRIC_NAMES
from utils.cli.options.samples import metric_name
from utils.cli.options.sections import CriticalTimesOptions, CriticalTimesStage
from utils.cli.progress import progress
from utils.figures.save import save_figure
from utils.files.atomic import check_writable
from utils.files.class_folders import figures_folder
from utils.files.provenance import is_finished
from utils.inputs.subjects import Subject, own_args, plan_subjects
from utils.jobs.devices import prepare
from utils.jobs.k_jobs import Job, print_plan, work_through
from utils.metrics.embedders import load_metric
from utils.stages.critical_times.figures import RecoveryRow, recovery_panel
from utils.stages.critical_times.files import (
    TIMES_KEYS,
    Times,
    load_unfinished,
    save_times,
    save_unfinished,
)
from utils.stages.critical_times.follow import Judge, follow, noised_copy, recover
from utils.stages.critical_times.overview import show_times
from utils.stages.critical_times.pool import Copy, RecoveryPool
from utils.stages.critical_times.search import NOT_FOLLOWED, Answer, Rule, bisect, scan, scan_image

STAGES = ("data", "train", "model", "critical_times")
SAVE_SECONDS = 60.0  # between two savings of what is known of an unfinished K
PANEL_ROWS, PANEL_TIMES = 3, 6


def run(options: CriticalTimesStage, again: bool = False) -> None:
    """Write times/K.npz and its figures for each K of the slice.

    again redoes a K that was made with other options or samples; else it is refused."""
    given = options.critical_times
    device = prepare(options.run)
    subjects = plan_subjects(given, options.slice, options)
    basins = {subject.job: Basins(given, subject) for subject in subjects}
    if options.run.dry_run or not subjects:
        print_plan(basins, options.run.overwrite)
        return
    check_writable(Path(given.result_path))
    judge = Judge(load_metric(metric_name(given), given.lpips_weights, device))

    def done(job: Job) -> bool:
        return is_finished(job.target, basins[job].args, STAGES, TIMES_KEYS, again)

    for job in work_through(list(basins), done, options.run.overwrite):
        denoiser = basins[job].subject.model.denoiser(device, options.run.precision)
        basins[job].measure(denoiser, judge, fresh=options.run.overwrite)
    show_times(Path(given.result_path))


class Basins:
    """The samples of one K, and how far they are to be followed."""

    def __init__(self, given: CriticalTimesOptions, subject: Subject) -> None:
        self.given, self.subject = given, subject
        self.rule = Rule(scanned_times(given, subject), given.p_trials, given.p)
        own = own_args(given, subject)
        own |= {"metric": METRIC_NAMES[metric_name(given)]}
        own |= {"network": given.network if given.use_lpips else ""}
        if given.search == "bisect":
            own["trial_times"] = False  # bisection follows images only
        self.args: dict[str, Any] = {**subject.args, "critical_times": own}

    @property
    def unfinished(self) -> Path:
        target = self.subject.job.target
        return target.parent / "unfinished" / target.name

    def measure(self, denoiser: Denoiser, judge: Judge, fresh: bool) -> None:
        """Write times/K.npz and a picture; go on where a job was stopped, unless fresh."""
        given = self.given
        images = torch.from_numpy(self.subject.samples(given))
        pool = RecoveryPool(denoiser, given.batch_size, given.ddim_steps, given.eta)
        try:
            answers = self._answers(images, pool, judge, fresh)
            times = Times(
                **stack(answers),
                radius=self._radii(images, answers, denoiser),
                scanned=np.array(self.rule.times, np.int64),
                delta=given.delta,
                args=self.args,
            )
            self._draw(images, times, pool, judge)  # at times, too, that no search has asked for
        except ValueError as error:
            remedy = "use an earlier checkpoint, or --precision float32"
            raise UserError(f"model of K = {self.subject.k}", str(error), remedy) from error
        save_times(self.subject.job.target, times)
        self.unfinished.unlink(missing_ok=True)

    def _answers(
        self, images: Tensor, pool: RecoveryPool, judge: Judge, fresh: bool
    ) -> list[Answer]:
        """One for each image. Equal images have equal answers, and are followed once."""
        keys = [image_key(image) for image in images]
        wanted = [*(f.name for f in fields(Answer)), "image"]
        stored = {} if fresh else load_unfinished(self.unfinished, wanted, self.args, STAGES)
        known = unstack(stored)
        todo = [i for key, i in {key: i for i, key in enumerate(keys)}.items() if key not in known]
        followed = self.args["critical_times"]["trial_times"]
        search = SEARCHES[self.given.search, followed]
        saved = time.monotonic()
        try:
            with progress(total=len(todo), unit="image", desc=f"K = {self.subject.k}") as bar:
                limits = self.given.delta, self.given.seed
                for i, answer in follow(images[todo], self.rule, search, pool, judge, *limits):
                    known[keys[todo[i]]] = answer
                    bar.update()
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self._save(known)
                        saved = time.monotonic()
        except (Interrupted, KeyboardInterrupt):
            self._save(known)
            raise
        print(f"K = {self.subject.k}: {pool.evaluations} evaluations in {pool.calls} calls")
        answers = [known[key] for key in keys]
        returned = sum(answer.non_monotone for answer in answers)
        if returned:
            told = (
                f"K = {self.subject.k}: {returned} of {len(answers)} images recovered above a time"
            )
            print(f"{told} at which they did not: there --search scan may give another answer")
        return answers

    def _save(self, known: Mapping[str, Answer]) -> None:
        if known:
            arrays = {**stack(list(known.values())), "image": np.array(list(known))}
            save_unfinished(self.unfinished, arrays, self.args)

    def _copy(self, images: Tensor, i: int, t: int, trial: int) -> Copy:
        return noised_copy(i, images[i], image_key(images[i]), self.given.seed, t, trial)

    def _radii(self, images: Tensor, answers: list[Answer], denoiser: Denoiser) -> np.ndarray:
        """|x_0 - x_t| at the time of each trial, or at the image's: float32 [n, trials]."""
        radii = np.zeros((len(images), self.rule.trials), np.float32)
        for i, trial in np.ndindex(radii.shape):
            t = int(answers[i].time[trial])
            t = answers[i].critical_time if t == NOT_FOLLOWED else t
            if t:  # an image that was never recovered has no basin
                x_t = self._copy(images, i, t, trial).noised(denoiser)
                radii[i, trial] = (x_t - images[i]).double().norm()
        return radii

    def _draw(self, images: Tensor, times: Times, pool: RecoveryPool, judge: Judge) -> None:
        """A picture of some images, what noise makes of them, and what is recovered."""
        rows = []
        for i in spread(times.critical_time, PANEL_ROWS):
            copies = [self._copy(images, i, t, 0) for t in around(times, i)]
            found = recover(pool, judge, copies)
            recovered, distances = zip(*(found[copy.name] for copy in copies), strict=True)
            row = RecoveryRow(
                image=images[i].numpy(),
                times=np.array([copy.t for copy in copies]),
                noised=torch.stack([copy.noised(pool.denoiser) for copy in copies]).numpy(),
                recovered=torch.stack(recovered).numpy(),
                distances=np.array(distances),
                critical_time=int(times.critical_time[i]),
                censored=bool(times.censored[i]),
            )
            rows.append(row)
        folder, k = self.subject.job.target.absolute().parent, self.subject.k
        metric = metric_name(self.given)
        figure = recovery_panel(k, folder.name, rows, metric, self.given.delta)
        save_figure(figure, figures_folder(folder) / f"recovered-{folder.name}-{k}.png")


SEARCHES = {("scan", True): scan, ("scan", False): scan_image, ("bisect", False): bisect}


def scanned_times(given: CriticalTimesOptions, subject: Subject) -> tuple[int, ...]:
    """1, 1 + stride, ... below T."""
    return tuple(range(1, subject.args["train"]["timesteps"], given.stride))


def around(times: Times, i: int) -> list[int]:
    """PANEL_TIMES scanned times, or all there are, with image i's critical time in their middle."""
    scanned = times.scanned.tolist()
    last = scanned.index(times.critical_time[i]) if times.critical_time[i] else -1
    first = min(last + 1 - PANEL_TIMES // 2, len(scanned) - PANEL_TIMES)
    return scanned[max(0, first) :][:PANEL_TIMES]


def spread(values: np.ndarray, count: int) -> list[int]:
    """Positions of up to `count` values, from small to large, with as many between any two.

    >>> spread(np.array([5, 1, 3, 2, 4]), 3)
    [3, 2, 4]"""
    order = np.argsort(values, kind="stable")
    wanted = (np.arange(count) + 0.5) / count * len(order)
    return [int(order[i]) for i in sorted(set(wanted.astype(int)))]


def stack(answers: list[Answer]) -> dict[str, np.ndarray]:
    """The fields of answers as arrays, one row an image."""
    return {
        "critical_time": np.array([a.critical_time for a in answers], np.int64),
        "censored": np.array([a.censored for a in answers], bool),
        "time": np.stack([a.time for a in answers]),
        "recovery": np.stack([a.recovery for a in answers]),
        "non_monotone": np.array([a.non_monotone for a in answers], bool),
    }


def unstack(arrays: Mapping[str, np.ndarray]) -> dict[str, Answer]:
    """The answers of unfinished/K.npz by the key of their image."""
    if not arrays:
        return {}
    rows = zip(*(arrays[f.name] for f in fields(Answer)), strict=True)
    answers = (Answer(int(t), bool(c), time, share, bool(n)) for t, c, time, share, n in rows)
    return dict(zip(arrays["image"].tolist(), answers, strict=True))
