"""The work of run_distances.py: each sample's nearest training and synthetic images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from utils.cli import required
from utils.datasets import training_subset
from utils.devices import prepare
from utils.embeddings import Embedder, load_metric, nearest_images, parse_memory
from utils.formats import DISTANCE_KEYS, Distances, load_synthetics, save_dists
from utils.k_folders import Job, k_files, plan_jobs, work_through
from utils.options import DistancesOptions, DistancesStage
from utils.progress import progress
from utils.provenance import digest, is_finished, with_data_path
from utils.storage import check_writable

STAGES = ("data", "train", "model", "generate", "distances")


def run(options: DistancesStage) -> None:
    """Write dists/K.npz for each synthetic set of the slice."""
    given = options.distances
    device = prepare(options.run)
    synth, result = Path(required(given, "synth_path")), Path(required(given, "result_path"))
    files = k_files(synth, ".npz", "--synth-path", "give the folder of synthetic sets, K.npz")
    jobs = plan_jobs(files, result, options.slice)
    args = {job.k: wanted_args(job, given) for job in jobs}
    memory = parse_memory(given.memory) if given.memory else None
    if options.run.dry_run:
        for job in jobs:
            state = "redo" if options.run.overwrite else "skip"
            print(f"K = {job.k}: {state if job.target.exists() else 'write'} {job.target}")
        return
    if not jobs:
        return
    check_writable(result)
    metric = "l2" if not given.use_lpips else given.network
    embedder = load_metric(metric, given.lpips_weights, device)

    def done(job: Job) -> bool:
        return is_finished(job.target, args[job.k], STAGES, DISTANCE_KEYS)

    for job in work_through(jobs, done, options.run.overwrite):
        save_dists(job.target, distances(job, embedder, given, args[job.k], memory))


def wanted_args(job: Job, given: DistancesOptions) -> dict[str, Any]:
    """The args that the result will carry; the set's content is a part of them."""
    synthetics = load_synthetics(job.source)
    own = {
        "metric": "lpips" if given.use_lpips else "l2",
        "network": given.network if given.use_lpips else "",
        "k": given.k,
        "samples": digest(synthetics.samples),
    }
    return {**with_data_path(synthetics.args, given.data_path), "distances": own}


def distances(
    job: Job,
    embedder: Embedder,
    given: DistancesOptions,
    args: dict[str, Any],
    memory: int | None,
) -> Distances:
    """The content of dists/K.npz for one synthetic set."""
    samples = load_synthetics(job.source).samples
    subset = training_subset(args)
    with progress(
        total=len(samples) + len(subset.images), unit="image", desc=f"K = {job.k}"
    ) as bar:
        arrays = nearest_images(
            embedder,
            torch.from_numpy(samples),
            subset.images,
            given.k,
            sample_batch=given.eval_batch_size,
            train_batch=given.ref_batch_size or given.eval_batch_size,
            memory_bytes=memory,
            progress=bar.update,
        )
    own = args["distances"]
    return Distances(arrays, own["metric"], own["network"], subset.fingerprint, args)
