"""The work of run_critical_times.py: the largest noise from which each image is recovered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.noise import image_key
from utils.cli.errors import Interrupted
from utils.cli.options.sections import CriticalTimesOptions, CriticalTimesStage
from utils.cli.progress import progress
from utils.descriptors.embedders import ChosenMetric
from utils.figures.save import save_figure
from utils.files.class_folders import figures_folder
from utils.files.provenance import is_finished
from utils.inputs.denoisers import usable_numbers
from utils.inputs.subjects import Subject, plan_subjects
from utils.jobs.devices import prepare
from utils.jobs.k_jobs import is_to_run, work_through
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


def run(options: CriticalTimesStage, redo_changed: bool = False) -> None:
    """Write times/K.npz and its figures for each K of the slice.

    redo_changed redoes a K that was made with other options or samples; else it is refused."""
    settings = options.critical_times
    device = prepare(options.run)
    metric = ChosenMetric(settings, device)
    stage_args = metric.identified({**settings.stored_metric(), **settings.metric_args()})
    if settings.search == "bisect":
        stage_args["trial_times"] = False  # bisection follows images only
    jobs = [
        subject.with_section("critical_times", settings, **stage_args)
        for subject in plan_subjects(settings, options.slice, options)
    ]

    def is_done(job: Subject) -> bool:
        return is_finished(job.target, job.args, STAGES, TIMES_KEYS, redo_changed)

    if not is_to_run(jobs, options.run):
        return
    judge = Judge(metric.embedder)
    for job in work_through(jobs, is_done, options.run.overwrite):
        denoiser = job.model.denoiser(device, options.run.precision, label=settings.label)
        Basins(settings, job).measure(denoiser, judge, fresh=options.run.overwrite)
    show_times(Path(settings.result_path))


class Basins:
    """The samples of one K, and the times to which they are followed."""

    def __init__(self, settings: CriticalTimesOptions, subject: Subject) -> None:
        self.settings, self.subject = settings, subject
        self.rule = Rule(scanned_times(settings, subject), settings.p_trials, settings.p)

    @property
    def unfinished(self) -> Path:
        target = self.subject.target
        return target.parent / "unfinished" / target.name

    def measure(self, denoiser: Denoiser, judge: Judge, fresh: bool) -> None:
        """Write times/K.npz and a picture; continue where a job was stopped, unless fresh."""
        settings = self.settings
        images = torch.from_numpy(self.subject.samples(settings))
        pool = RecoveryPool(denoiser, settings.batch_size, settings.ddim_steps, settings.eta)
        with usable_numbers(f"model of {self.subject.name}"):
            answers = self._answers(images, pool, judge, fresh)
            known = stack(answers)
            at_critical = np.broadcast_to(known["critical_time"][:, None], known["time"].shape)
            times = Times(
                **known,
                radius=self._radii(images, at_critical, denoiser),
                trial_radius=self._radii(images, known["time"], denoiser),
                scanned=np.array(self.rule.times, np.int64),
                delta=settings.delta,
                args=self.subject.args,
            )
            self._draw(images, times, pool, judge)  # at times, too, that no search has tried
        save_times(self.subject.target, times)
        self.unfinished.unlink(missing_ok=True)

    def _answers(
        self, images: Tensor, pool: RecoveryPool, judge: Judge, fresh: bool
    ) -> list[Answer]:
        """One for each image. Equal images have equal answers, and are followed once."""
        keys = [image_key(image) for image in images]
        args, arrays = self.subject.args, [*(f.name for f in fields(Answer)), "image"]
        stored = {} if fresh else load_unfinished(self.unfinished, arrays, args, STAGES)
        known = unstack(stored)
        todo = [i for key, i in {key: i for i, key in enumerate(keys)}.items() if key not in known]
        search = SEARCHES[self.settings.search, args["critical_times"]["trial_times"]]
        saved = time.monotonic()
        try:
            with progress(total=len(todo), unit="image", desc=self.subject.name) as bar:
                limits = self.settings.delta, self.settings.seed
                for i, answer in follow(images[todo], self.rule, search, pool, judge, *limits):
                    known[keys[todo[i]]] = answer
                    bar.update()
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self._save(known)
                        saved = time.monotonic()
        except (Interrupted, KeyboardInterrupt):
            self._save(known)
            raise
        print(f"{self.subject.name}: {pool.evaluations} evaluations in {pool.calls} calls")
        answers = [known[key] for key in keys]
        returned = sum(answer.non_monotone for answer in answers)
        if returned:
            images_of = f"{self.subject.name}: {returned} of {len(answers)} images"
            print(
                f"{images_of} recovered above a time at which they did not: "
                "there --search scan may give another answer"
            )
        return answers

    def _save(self, known: Mapping[str, Answer]) -> None:
        if known:
            arrays = {**stack(list(known.values())), "image": np.array(list(known))}
            save_unfinished(self.unfinished, arrays, self.subject.args)

    def _copy(self, images: Tensor, i: int, t: int, trial: int) -> Copy:
        return noised_copy(i, images[i], image_key(images[i]), self.settings.seed, t, trial)

    def _radii(self, images: Tensor, times: np.ndarray, denoiser: Denoiser) -> np.ndarray:
        """|x_0 - x_t| of the noised copy of each trial at times int: float32, both [n, trials].

        0 at time 0, since an image that is never recovered has no basin; NaN where a trial was
        not followed."""
        radii = np.where(times == NOT_FOLLOWED, np.nan, 0).astype(np.float32)
        for i, trial in zip(*np.nonzero(times > 0), strict=True):
            x_t = self._copy(images, i, int(times[i, trial]), int(trial)).noised(denoiser)
            radii[i, trial] = (x_t - images[i]).double().norm()
        return radii

    def _draw(self, images: Tensor, times: Times, pool: RecoveryPool, judge: Judge) -> None:
        """A picture of some images, what noise makes of them, and what is recovered."""
        rows = []
        for i in spread(times.critical_time, PANEL_ROWS):
            copies = [self._copy(images, i, t, 0) for t in around(times, i)]
            results = recover(pool, judge, copies)
            recovered, distances = zip(*(results[copy.name] for copy in copies), strict=True)
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
        folder, k = self.subject.target.absolute().parent, self.subject.k
        measured = self.settings.metric_name, self.settings.delta
        figure = recovery_panel(k, folder.name, rows, *measured)
        save_figure(figure, figures_folder(folder) / f"recovered-{folder.name}-{k}.png")


SEARCHES = {("scan", True): scan, ("scan", False): scan_image, ("bisect", False): bisect}


def scanned_times(settings: CriticalTimesOptions, subject: Subject) -> tuple[int, ...]:
    """1, 1 + stride, ... below T."""
    return tuple(range(1, subject.args["train"]["timesteps"], settings.stride))


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
