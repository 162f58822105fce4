"""The work of run_distances.py: the nearest training and synthetic images of each sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.cli.launcher import Launch, launched, launcher_name
from utils.cli.options.checks import parse_memory, required
from utils.cli.options.samples import DistancesOptions
from utils.cli.options.sections import DistancesStage
from utils.cli.options.training import image_shape
from utils.cli.progress import progress
from utils.data.subsets import training_subset
from utils.descriptors.embedders import ChosenMetric, Embedder
from utils.files.arrays import read_shape
from utils.files.provenance import digest, is_finished, with_data_path
from utils.inputs.samples import SampleSet, known_of, load_synthetics, sample_files
from utils.inputs.training_args import check_contradiction, stated_size
from utils.inputs.unchanged import Input, first_read
from utils.jobs.claims import take_turns, wait_for
from utils.jobs.devices import pick_dtype, prepare
from utils.jobs.k_jobs import Job, is_to_run, plan_jobs, work_through
from utils.jobs.memory import search_budget
from utils.jobs.shares import WHOLE, Share
from utils.metrics.cache import open_cache
from utils.metrics.nearest import SearchSettings, as_distances, nearest_in
from utils.stages.distances.files import DISTANCE_KEYS, Distances, save_dists
from utils.stages.distances.parts import (
    Part,
    merge_parts,
    part_file,
    part_of,
    parts_folder,
    remove_parts,
    save_part,
)

STAGES = ("data", "train", "model", "generate", "distances")


@dataclass(frozen=True, kw_only=True)
class DistancesJob(Job):
    """One K; its target is dists/K.npz."""

    samples: Input[SampleSet]
    n: int  # how many there are

    def is_done(self) -> bool:
        """Whether dists/K.npz is there, made with these options. Raises UserError otherwise."""
        return is_finished(self.target, self.args, STAGES, DISTANCE_KEYS)


@dataclass(frozen=True)
class Search:
    """How the neighbours of a K are searched for, and which share of each K is this worker's."""

    embedder: Embedder
    settings: SearchSettings
    options: DistancesOptions
    share: Share


def run(options: DistancesStage) -> None:
    """Write dists/K.npz for each synthetic set of the slice, or this worker's parts of them."""
    settings, overwrite = options.distances, options.run.overwrite
    device = prepare(options.run)
    launch = launched()
    share = Share.parse(settings.shard, "--shard").split(launch.rank, launch.world)
    metric = ChosenMetric(settings, device)
    jobs = plan_distances(options, metric.identified(settings.metric_args()))
    # While there is no whole, this worker writes its part.
    parts = [job if share == WHOLE else part_job(job, share) for job in jobs]
    todo = [job if job.target.exists() else part for job, part in zip(jobs, parts, strict=True)]
    if not is_to_run(todo, options.run):
        return
    embedder = metric.embedder
    like = torch.zeros(1, *image_shape(jobs[0].args["model"]))
    most = sum(job.n for job in jobs) + max(job.n for job in jobs)
    search_settings = SearchSettings(
        settings.eval_batch_size,
        settings.ref_batch_size or settings.eval_batch_size,
        cache=open_cache(embedder, options.cache, settings.result_path, like, most),
        product=pick_dtype(options.run.precision, device),
    )
    search = Search(embedder, search_settings, settings, share)
    if share == WHOLE:
        compute_whole(jobs, search, overwrite)
    else:
        compute_parts(jobs, parts, search, overwrite)
        wait_for_ranks(jobs, share, launch)
        merge(jobs, search, overwrite)


def plan_distances(options: DistancesStage, metric: Mapping[str, Any]) -> list[DistancesJob]:
    """The sets of the slice, and what their results will carry. metric: as args store it.

    Raises UserError."""
    settings = options.distances
    synth, result = Path(required(settings, "synth_path")), Path(required(settings, "result_path"))
    remedy = "give the folder of synthetic sets, K.npz"
    files = sample_files(synth, "--synth-path", remedy, stated_size(settings))
    load = partial(load_synthetics, known=known_of(settings, "--synth-path", settings.known()))
    jobs = []
    for job in plan_jobs(files, result, options.slice, cost):
        samples, sample_set = first_read(job.source, load)
        stage_args = {
            **metric,
            "k": settings.k,
            "samples": digest(sample_set.samples),
        }
        check_contradiction(job.source, sample_set.args, settings.known())
        args = {**with_data_path(sample_set.args, settings.data_path), "distances": stage_args}
        n = len(sample_set.samples)
        jobs.append(DistancesJob(job.k, job.source, job.target, args, samples=samples, n=n))
    return jobs


def cost(k: int, path: Path) -> float:
    """Pairs to compare, N (K + N): at most K's products take most of the time."""
    n = (read_shape(path, "samples") or (1,))[0]
    return n * (k + n)


def part_job(job: DistancesJob, share: Share) -> DistancesJob:
    """A share of a job, as a job that writes the file of that part."""
    return replace(job, target=part_file(job.target.parent, job.k, share))


def compute_whole(jobs: list[DistancesJob], search: Search, overwrite: bool) -> None:
    """Write dists/K.npz for each K."""
    for job in work_through(jobs, DistancesJob.is_done, overwrite):
        _, arrays, subset = compare(job, search)
        save(job, search.embedder, arrays, subset)
        print(f"{job.name}: {job.target} written", flush=True)
        remove_parts(job.target.parent, job.k)


def compute_parts(
    jobs: list[DistancesJob], parts: list[DistancesJob], search: Search, overwrite: bool
) -> None:
    """Write this worker's part of each K."""
    whole = {job.k: job for job in jobs}

    def is_done(part: DistancesJob) -> bool:
        if not overwrite and whole[part.k].is_done():
            return True
        return is_finished(part.target, part.args, STAGES, ("part", "subset"))

    for job in work_through(parts, is_done, overwrite):
        part, arrays, subset = compare(job, search)
        save_part(job.target, part, arrays, subset, job.args)
        print(f"{job.name}: shard {search.share} written", flush=True)


def compare(job: DistancesJob, search: Search) -> tuple[Part, dict[str, np.ndarray], str]:
    """This worker's part of a K, its arrays of `nearest_in`, and the training subset."""
    embedder, share = search.embedder, search.share
    samples = torch.from_numpy(job.samples.read().samples)
    subset = training_subset(job.args)
    part = part_of(share, len(samples), len(subset.images))
    name = job.name if share == WHOLE else f"{job.name}, shard {share}"
    with progress(total=len(part.columns), unit="image", desc=name) as bar:
        # After the images are loaded: the memory that they take is not free any more.
        memory = search_budget(parse_memory(search.options.memory), embedder.device)
        settings = replace(search.settings, memory_bytes=memory, on_compared=bar.update)
        arrays = nearest_in(
            embedder, samples, subset.images, search.options.k, part.rows, part.columns, settings
        )
    return part, arrays, subset.fingerprint


def wait_for_ranks(jobs: list[DistancesJob], share: Share, launch: Launch) -> None:
    """Wait for the other ranks of this launch, so that none ends well while work is left; the jobs
    of an array, other shares of --shard, are not waited for."""
    if launch.world == 1:
        return
    first = share.index - launch.rank
    for job in jobs:
        files = [
            part_file(job.target.parent, job.k, Share(first + rank, share.count))
            for rank in range(launch.world)
        ]

        def is_there(path: Path, whole: Path = job.target) -> bool:
            return path.exists() or (whole.exists() and not path.parent.parent.exists())

        wait_for(files, is_there, f"{launcher_name()}, {job.name}")


def merge(jobs: list[DistancesJob], search: Search, overwrite: bool) -> None:
    """Make dists/K.npz of each K whose parts are all there, and print which K lack some.

    Where another job merges a K it is waited for: should that job die, this one takes over."""
    count = search.share.count
    present: dict[int, int] = {}  # how many parts there are, of each K that lacks some

    def is_settled(job: DistancesJob) -> bool:
        """True if merged, or still waiting for other jobs' parts."""
        present.pop(job.k, None)
        folder = job.target.parent
        if not overwrite and job.target.exists():
            return not parts_folder(folder, job.k).exists()
        parts = sum(part_file(folder, job.k, Share(i, count)).exists() for i in range(count))
        if 0 < parts < count:  # none: another job has merged them, again
            present[job.k] = parts
        return parts < count

    for (job,) in take_turns(jobs, lambda job: job.target, is_settled):
        if overwrite or not job.target.exists():
            merged = merge_parts(job.target.parent, job.k, count, job.n, job.args, STAGES)
            save(job, search.embedder, *merged)
            print(f"{job.name}: {job.target} merged from {count} parts", flush=True)
        remove_parts(job.target.parent, job.k)
    for k, parts in present.items():
        waiting = f"{parts} of {count} parts are there; the job of the last one merges them"
        print(f"K = {k}: {waiting}", flush=True)


def save(
    job: DistancesJob, embedder: Embedder, arrays: Mapping[str, np.ndarray], subset: str
) -> None:
    """Write dists/K.npz."""
    metric = job.args["distances"]
    distances = as_distances(embedder, arrays)
    save_dists(
        job.target, Distances(distances, metric["metric"], metric["network"], subset, job.args)
    )
