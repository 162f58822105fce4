"""The work of run_generate.py: sample i from seed + i, in shards, merged into one set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.denoiser import Denoiser
from models.samplers import Seeds, draw_images
from utils.cli.errors import UserError
from utils.cli.options.checks import required
from utils.cli.options.sections import GenerateStage
from utils.cli.progress import progress
from utils.figures.images import image_grid
from utils.files.atomic import check_writable, save_png
from utils.files.provenance import check_same, is_finished, to_plain
from utils.inputs.denoisers import Model, exact_model, finite, sampling_steps, trained_model
from utils.inputs.samples import load_shard, save_shard, save_synthetics
from utils.jobs.devices import prepare
from utils.jobs.k_jobs import Job, work_through
from utils.jobs.ranks import joined

GRID_IMAGES = 64


@dataclass(frozen=True)
class Plan:
    """What a run will do: known, and refused, before work starts."""

    folder: Path
    merged: Path | None  # synthetics/K.npz
    seeds: range
    batch_size: int
    args: dict[str, Any]
    overwrite: bool

    @property
    def k(self) -> int:
        return self.args["train"]["train_size"]


def run(options: GenerateStage) -> None:
    """Draw the missing seeds of one model into shards; with --synth-path merge them.

    Several ranks share the seeds; the first one alone merges and speaks."""
    device = prepare(options.run)
    with joined(device) as ranks:
        source, plan = ranks.together(partial(source_and_plan, options))
        for _ in ranks.follow(draws(options, plan)):
            todo = ranks.together(partial(missing_seeds, plan))  # before anyone writes
            todo = todo[ranks.share(len(todo))]
            ranks.together(partial(draw_missing, options, device, source, plan, todo))


def source_and_plan(options: GenerateStage) -> tuple[Model, Plan]:
    source = source_of(options)
    return source, plan_shards(options, source)


def draws(options: GenerateStage, plan: Plan) -> Iterator[int]:
    """Once, when there is something to draw; what was drawn is merged afterwards."""
    complete = not plan.overwrite and is_complete(plan)
    todo = range(0) if complete else plan.seeds if plan.overwrite else missing_seeds(plan)
    if options.run.dry_run:
        size = f"{image_bytes(plan, len(todo)) / 1e6:.1f} MB"
        count = f"{len(todo)} of {len(plan.seeds)} images ({size}) of K = {plan.k}"
        print(f"would draw {count} into {plan.folder}")
        return
    check_writable(plan.folder, image_bytes(plan, len(todo)))
    if plan.merged:
        check_writable(plan.merged.parent, 0 if complete else image_bytes(plan, len(plan.seeds)))
    job = Job(plan.k, plan.folder, plan.folder / "shards")
    for _ in work_through([job], lambda _: is_complete(plan), plan.overwrite):
        if plan.overwrite:
            for path in shard_files(plan.folder):
                path.unlink()
        yield plan.k
        if plan.merged:
            merge(plan)
    save_grid(plan)
    if plan.merged:
        print(f"K = {plan.k}: {len(plan.seeds)} images in {plan.merged}")
    else:
        print(f"K = {plan.k}: shards in {plan.folder}; to merge them add --synth-path FOLDER")


def is_finished_run(options: GenerateStage) -> bool:
    """Whether `run` would find everything done. Raises UserError as it would."""
    path = Path(required(options.generate, "ckpt_path"))
    if options.run.overwrite or not path.exists():
        return False
    return is_complete(plan_shards(options, source_of(options)))


def source_of(options: GenerateStage) -> Model:
    """The model to sample from. Raises UserError where there is none."""
    given = options.generate
    if not given.exact:
        return trained_model(Path(required(given, "ckpt_path")))
    args = {name: to_plain(getattr(options, name)) for name in ("data", "train", "model")}
    return exact_model(args, given.train_size, given.data_path)


def plan_shards(options: GenerateStage, source: Model) -> Plan:
    given = options.generate
    steps = sampling_steps(given, source.args["train"]["timesteps"])
    count = given.num_samples or given.num_files * given.batch_size
    own = {**to_plain(given), "steps": steps, "num_samples": count}
    own["checkpoint"] = source.fingerprint
    del own["train_size"]  # told by args.train
    args = {**source.args, "generate": own}
    folder = Path(required(given, "result_path"))
    k = args["train"]["train_size"]
    merged = Path(given.synth_path) / f"{k}.npz" if given.synth_path else None
    seeds = range(given.seed, given.seed + count)
    return Plan(folder, merged, seeds, given.batch_size, args, options.run.overwrite)


def image_bytes(plan: Plan, count: int) -> int:
    """The size of so many images, float32, in a file."""
    side, channels = plan.args["model"]["image_size"], plan.args["model"]["in_channels"]
    return 4 * channels * side**2 * count


def shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.npz"))


def finished_shards(plan: Plan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and seeds of each shard. Raises UserError where one was made with other options."""
    for path in shard_files(plan.folder):
        found, seeds = load_shard(path)
        # A longer or shorter run over the same seeds may use what is there.
        wanted = {**plan.args, "generate": {**plan.args["generate"]}}
        for name in ("num_samples", "seed"):
            wanted["generate"].pop(name)
        check_same(path, found.args, wanted, ("data", "train", "model", "generate"))
        yield found.samples, seeds


def missing_seeds(plan: Plan) -> Seeds:
    """The seeds that no shard has, ascending."""
    there = [seeds for _, seeds in finished_shards(plan)]
    # Without shards the range itself: a mistyped --num-samples must not fill the memory.
    return np.setdiff1d(np.array(plan.seeds), np.concatenate(there)) if there else plan.seeds


def is_complete(plan: Plan) -> bool:
    """Whether the merged set, or else every shard, is there."""
    if plan.merged:
        stages = ("data", "train", "model", "generate")
        return is_finished(plan.merged, plan.args, stages, ["samples"])
    return not len(missing_seeds(plan))


def draw_missing(
    options: GenerateStage,
    device: torch.device,
    source: Model,
    plan: Plan,
    todo: Seeds,
) -> None:
    if len(todo):
        denoiser = source.denoiser(device, options.run.precision, options.generate.compile)
        draw(denoiser, plan, todo)


def draw(denoiser: Denoiser, plan: Plan, todo: Seeds) -> None:
    """Write a shard for each batch of the seeds in todo."""
    own = plan.args["generate"]
    batches = draw_images(denoiser, todo, own["sampler"], own["steps"], plan.batch_size)
    first = 0
    with progress(total=len(todo), unit="image", desc=f"K = {plan.k}") as bar:
        for images in batches:
            seeds = todo[first : first + len(images)]
            path = plan.folder / f"shard-{seeds[0]}.npz"
            save_shard(path, finite(images, plan.k), seeds, plan.args)
            first += len(images)
            bar.update(len(images))


def merge(plan: Plan) -> None:
    """All shards, in the order of their seeds, as synthetics/K.npz."""
    save_synthetics(plan.merged, merged_images(plan), plan.args)


def merged_images(plan: Plan, count: int | None = None) -> np.ndarray:
    """The images of the first `count` seeds (all of them), [N, C, H, W], from the shards.

    Raises UserError where some are in no shard any more."""
    wanted = plan.seeds[:count]
    side, channels = plan.args["model"]["image_size"], plan.args["model"]["in_channels"]
    result = np.empty((len(wanted), channels, side, side), np.float32)
    there = np.zeros(len(wanted), bool)
    for images, seeds in finished_shards(plan):
        ours = (seeds >= wanted.start) & (seeds < wanted.stop)
        result[seeds[ours] - wanted.start] = images[ours]
        there[seeds[ours] - wanted.start] = True
    if not there.all():
        lost = f"no shard of {np.count_nonzero(~there)} images, of which there was one"
        raise UserError(plan.folder, lost, "run the same command again: it draws them")
    return result


def save_grid(plan: Plan) -> None:
    if not len(missing_seeds(plan)):
        save_png(plan.folder / "grid.png", image_grid(merged_images(plan, GRID_IMAGES)))
