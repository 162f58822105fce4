"""The work of run_distances.py: each sample's nearest training and synthetic images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.cli.launcher import launched
from utils.cli.options.checks import parse_memory, required
from utils.cli.options.choices import METRIC_NAMES
from utils.cli.options.samples import DistancesOptions, metric_name
from utils.cli.options.sections import DistancesStage
from utils.cli.progress import progress
from utils.data.subsets import training_subset
from utils.files.arrays import read_shape
from utils.files.atomic import check_writable
from utils.files.k_files import k_files
from utils.files.provenance import digest, is_finished, with_data_path
from utils.inputs.samples import SampleSet, load_synthetics
from utils.inputs.unchanged import Input, first_read
from utils.jobs.claims import take_turns
from utils.jobs.devices import pick_dtype, prepare
from utils.jobs.k_jobs import Job, plan_jobs, print_plan, work_through
from utils.jobs.memory import search_budget
from utils.jobs.shares import WHOLE, Share
from utils.metrics.embedders import Embedder, load_metric, open_cache
from utils.metrics.nearest import SearchSettings, as_distances, nearest_in
from utils.stages.distances.files import DISTANCE_KEYS, Distances, save_dists
from utils.stages.distances.parts import (
    Part,
    forget_parts,
    merge_parts,
    part_file,
    part_of,
    parts_folder,
    save_part,
)

STAGES = ("data", "train", "model", "generate", "distances")


@dataclass(frozen=True)
class Plan:
    """What a run will do: known, and refused, before work starts."""

    jobs: list[Job]  # the target is dists/K.npz
    args: dict[int, dict[str, Any]]  # what each K's file will carry
    sets: dict[int, Input[SampleSet]]  # the samples of each K, as its args tell of them
    counts: dict[int, int]  # N, samples of each K
    share: Share  # of each K
    given: DistancesOptions
    overwrite: bool

    @property
    def result(self) -> Path:
        return Path(self.given.result_path)

    def own_job(self, job: Job) -> Job:
        """What is left of a job for this worker: all of it, or its part while there is no whole."""
        if self.share == WHOLE or job.target.exists():
            return job
        return replace(job, target=part_file(self.result, job.k, self.share))

    def is_done(self, job: Job) -> bool:
        """Whether dists/K.npz is there, made with these options. Raises UserError otherwise."""
        return is_finished(job.target, self.args[job.k], STAGES, DISTANCE_KEYS)


def run(options: DistancesStage) -> None:
    """Write dists/K.npz for each synthetic set of the slice, or this worker's parts of them."""
    device = prepare(options.run)
    plan = plan_distances(options)
    if options.run.dry_run:
        print_plan(map(plan.own_job, plan.jobs), plan.overwrite)
        return
    if not plan.jobs:
        return
    given = plan.given
    check_writable(given.result_path)
    embedder = load_metric(metric_name(given), given.lpips_weights, device)
    model = plan.args[plan.jobs[0].k]["model"]
    like = torch.zeros(1, model["in_channels"], model["image_size"], model["image_size"])
    most = sum(plan.counts.values()) + max(plan.counts)
    cache = open_cache(embedder, options.cache, given.result_path, like, most)
    settings = SearchSettings(
        given.eval_batch_size,
        given.ref_batch_size or given.eval_batch_size,
        cache=cache,
        product=pick_dtype(options.run.precision, device),
    )
    work = compute_whole if plan.share == WHOLE else compute_parts
    work(plan, embedder, settings)


def plan_distances(options: DistancesStage) -> Plan:
    """The sets of the slice, and what their results will carry. Raises UserError."""
    given = options.distances
    synth, result = Path(required(given, "synth_path")), Path(required(given, "result_path"))
    files = k_files(synth, ".npz", "--synth-path", "give the folder of synthetic sets, K.npz")
    jobs = plan_jobs(files, result, options.slice, cost)
    args, sets, counts = {}, {}, {}
    for job in jobs:
        sets[job.k], found = first_read(job.source, load_synthetics)
        own = {
            "metric": METRIC_NAMES[metric_name(given)],
            "network": given.network if given.use_lpips else "",
            "k": given.k,
            "samples": digest(found.samples),
        }
        args[job.k] = {**with_data_path(found.args, given.data_path), "distances": own}
        counts[job.k] = len(found.samples)
    launch = launched()
    share = Share.parse(given.shard, "--shard").split(launch.rank, launch.world)
    return Plan(jobs, args, sets, counts, share, given, options.run.overwrite)


def cost(k: int, path: Path) -> float:
    """Pairs to compare, N (K + N): at most K's products take most of the time."""
    n = (read_shape(path, "samples") or (1,))[0]
    return n * (k + n)


def compute_whole(plan: Plan, embedder: Embedder, settings: SearchSettings) -> None:
    """Write dists/K.npz for each K."""
    for job in work_through(plan.jobs, plan.is_done, plan.overwrite):
        _, arrays, subset = compare(plan, job, embedder, settings)
        save(plan, job, embedder, arrays, subset)
        print(f"K = {job.k}: {job.target} written", flush=True)
        forget_parts(plan.result, job.k)


def compute_parts(plan: Plan, embedder: Embedder, settings: SearchSettings) -> None:
    """Write this worker's part of each K; whoever finds all parts there merges them."""
    whole = {job.k: job for job in plan.jobs}

    def done(job: Job) -> bool:
        if not plan.overwrite and plan.is_done(whole[job.k]):
            return True
        return is_finished(job.target, plan.args[job.k], STAGES, ("part", "subset"))

    files = {k: part_file(plan.result, k, plan.share) for k in whole}
    jobs = [Job(job.k, job.source, files[job.k]) for job in plan.jobs]
    for job in work_through(jobs, done, plan.overwrite):
        part, arrays, subset = compare(plan, job, embedder, settings)
        save_part(job.target, part, arrays, subset, plan.args[job.k])
        print(f"K = {job.k}: shard {plan.share} written", flush=True)
    merge(plan, embedder)


def compare(
    plan: Plan, job: Job, embedder: Embedder, settings: SearchSettings
) -> tuple[Part, dict[str, np.ndarray], str]:
    """This worker's part of a K, its arrays of `nearest_in`, and the training subset."""
    samples = torch.from_numpy(plan.sets[job.k].read().samples)
    subset = training_subset(plan.args[job.k])
    part = part_of(plan.share, len(samples), len(subset.images))
    name = f"K = {job.k}" if plan.share == WHOLE else f"K = {job.k}, shard {plan.share}"
    with progress(total=len(part.columns), unit="image", desc=name) as bar:
        # Now, when the images are in memory: what they take is not free any more.
        memory = search_budget(parse_memory(plan.given.memory), embedder.device)
        told = replace(settings, memory_bytes=memory, compared=bar.update)
        arrays = nearest_in(
            embedder, samples, subset.images, plan.given.k, part.rows, part.columns, told
        )
    return part, arrays, subset.fingerprint


def merge(plan: Plan, embedder: Embedder) -> None:
    """Make dists/K.npz of each K whose parts are all there, and say so where they are not.

    Where another job merges a K it is waited for: should that job be dead, this one takes over."""
    count = plan.share.count
    missing: dict[int, int] = {}  # parts that are there, of each K that lacks some

    def settled(job: Job) -> bool:
        """Whether nothing is left to do: merged and tidied up, or other jobs' parts are to come."""
        missing.pop(job.k, None)
        if not plan.overwrite and job.target.exists():
            return not parts_folder(plan.result, job.k).exists()
        there = sum(part_file(plan.result, job.k, Share(i, count)).exists() for i in range(count))
        if 0 < there < count:  # none: another job has merged them, again
            missing[job.k] = there
        return there < count

    for (job,) in take_turns(plan.jobs, lambda job: job.target, settled):
        if plan.overwrite or not job.target.exists():
            args, n = plan.args[job.k], plan.counts[job.k]
            found = merge_parts(plan.result, job.k, count, n, args, STAGES)
            save(plan, job, embedder, *found)
            print(f"K = {job.k}: {job.target} merged from {count} parts", flush=True)
        forget_parts(plan.result, job.k)
    for k, there in missing.items():
        told = f"{there} of {count} parts are there; the job of the last one merges them"
        print(f"K = {k}: {told}", flush=True)


def save(
    plan: Plan, job: Job, embedder: Embedder, arrays: Mapping[str, np.ndarray], subset: str
) -> None:
    """Write dists/K.npz."""
    args = plan.args[job.k]
    own = args["distances"]
    found = as_distances(embedder, arrays)
    save_dists(job.target, Distances(found, own["metric"], own["network"], subset, args))
