"""The work of run_generate.py: sample i from seed + i, in shards, merged into one set."""

from __future__ import annotations

import math
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
from utils.data.subsets import training_subset
from utils.figures.images import image_grid
from utils.files.atomic import check_writable, save_png
from utils.files.provenance import check_same, is_finished, stage_section
from utils.inputs.denoisers import (
    Model,
    check_label,
    check_one_source,
    check_samples,
    closed_form_model,
    described_by,
    sampling_steps,
    trained_model,
)
from utils.inputs.samples import load_shard, save_shard, save_synthetics
from utils.inputs.training_args import check_contradiction
from utils.jobs.devices import prepare
from utils.jobs.k_jobs import Job, work_through
from utils.jobs.ranks import joined

STAGES = ("data", "train", "model", "generate")
GRID_IMAGES = 64


@dataclass(frozen=True)
class Plan:
    """What a run will do: known, and refused, before work starts."""

    model: Model
    folder: Path
    merged: Path | None  # synthetics/K.npz
    seeds: range
    batch_size: int
    args: dict[str, Any]
    overwrite: bool

    @property
    def name(self) -> str:
        return f"K = {self.model.k}"

    def labels(self, seeds: Seeds) -> np.ndarray | None:
        """The class of each image: that of --label, else all of them in turn; None without any."""
        classes, label = self.model.num_classes, self.args["generate"]["label"]
        if not classes:
            return None
        return np.asarray(seeds) % classes if label is None else np.full(len(seeds), label)

    @property
    def shards(self) -> list[Path]:
        return sorted(self.folder.glob("shard-*.npz"))


def run(options: GenerateStage) -> None:
    """Draw the missing seeds of one model into shards; with --synth-path merge them.

    Several ranks share the seeds; the first one alone merges and prints."""
    device = prepare(options.run)
    with joined(device) as ranks:
        plan = ranks.together(partial(plan_shards, options))
        # The first rank claims the folder and yields once if images are missing. Every rank draws
        # its share of them. Then the first rank merges all shards.
        for _ in ranks.from_first(claim_and_merge(options, plan)):
            seeds = ranks.together(partial(missing_seeds, plan))  # before anyone writes
            share = seeds[ranks.share(len(seeds))]
            ranks.together(partial(draw_missing, options, device, plan, share))


def claim_and_merge(options: GenerateStage, plan: Plan) -> Iterator[int]:
    """Yield once, while the folder is claimed, if there is something to draw; merge afterwards."""
    complete = not plan.overwrite and is_complete(plan)
    seeds = range(0) if complete else plan.seeds if plan.overwrite else missing_seeds(plan)
    if options.run.dry_run:
        size = f"{image_bytes(plan, len(seeds)) / 1e6:.1f} MB"
        count = f"{len(seeds)} of {len(plan.seeds)} images ({size}) of {plan.name}"
        print(f"would draw {count} into {plan.folder}")
        return
    check_writable(plan.folder, image_bytes(plan, len(seeds)))
    if plan.merged:
        check_writable(plan.merged.parent, 0 if complete else image_bytes(plan, len(plan.seeds)))
    job = Job(plan.model.k, plan.folder, plan.folder / "shards")
    for _ in work_through([job], lambda _: is_complete(plan), plan.overwrite):
        if plan.overwrite:
            for path in plan.shards:
                path.unlink()
        yield plan.model.k
        if plan.merged:
            merge(plan)
    if not len(missing_seeds(plan)):
        save_png(plan.folder / "grid.png", image_grid(merged_images(plan, GRID_IMAGES)))
    if plan.merged:
        print(f"{plan.name}: {len(plan.seeds)} images in {plan.merged}")
    else:
        print(f"{plan.name}: shards in {plan.folder}; to merge them add --synth-path FOLDER")


def is_finished_run(options: GenerateStage) -> bool:
    """Whether `run` would find everything done. Raises UserError as it would."""
    path = options.generate.ckpt_path
    there = path is None or Path(path).exists()
    return not options.run.overwrite and there and is_complete(plan_shards(options))


def plan_shards(options: GenerateStage) -> Plan:
    """The model, the seeds and the files of a run. Raises UserError where there is no model."""
    settings = options.generate
    if settings.closed_form:
        if not settings.exact:  # old commands name a --ckpt-path beside --exact
            check_one_source(settings)
        model = closed_form_model(settings, described_by(options), settings.known())
        model.args["images"] = training_subset(model.args).origin
    else:
        source = Path(settings.model or required(settings, "ckpt_path"))
        model = trained_model(source, None, settings.known(), described_by(options))
        check_contradiction(source, model.args, settings.known())
    if settings.label is not None:
        check_label(model, settings.label)
    steps = sampling_steps(settings, model.args["train"]["timesteps"])
    count = settings.num_samples or settings.num_files * settings.batch_size
    section = {**stage_section(settings), "steps": steps, "num_samples": count}
    section["checkpoint"] = model.fingerprint
    return Plan(
        model,
        folder=Path(required(settings, "result_path")),
        merged=Path(settings.synth_path) / f"{model.k}.npz" if settings.synth_path else None,
        seeds=range(settings.seed, settings.seed + count),
        batch_size=settings.batch_size,
        args={**model.args, "generate": section},
        overwrite=options.run.overwrite,
    )


def image_bytes(plan: Plan, count: int) -> int:
    """The size of so many images, float32, in a file."""
    return 4 * math.prod(plan.model.shape) * count


def finished_shards(plan: Plan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and seeds of each shard. Raises UserError where one was made with other options."""
    # A longer or shorter run over the same seeds may use what is there.
    section = {
        name: value
        for name, value in plan.args["generate"].items()
        if name not in ("num_samples", "seed")
    }
    for path in plan.shards:
        shard, seeds = load_shard(path)
        check_same(path, shard.args, {**plan.args, "generate": section}, STAGES)
        yield shard.samples, seeds


def missing_seeds(plan: Plan) -> Seeds:
    """The seeds that no shard has, ascending."""
    drawn = [seeds for _, seeds in finished_shards(plan)]
    # Without shards the range itself: a mistyped --num-samples must not fill the memory.
    return np.setdiff1d(np.array(plan.seeds), np.concatenate(drawn)) if drawn else plan.seeds


def is_complete(plan: Plan) -> bool:
    """Whether the merged set, or else every shard, is there."""
    if plan.merged:
        return is_finished(plan.merged, plan.args, STAGES, ["samples"])
    return not len(missing_seeds(plan))


def draw_missing(options: GenerateStage, device: torch.device, plan: Plan, seeds: Seeds) -> None:
    """Load the model, where there is anything to draw, and draw."""
    if len(seeds):
        denoiser = plan.model.denoiser(device, options.run.precision, options.generate.compile)
        draw(denoiser, plan, seeds)


def draw(denoiser: Denoiser, plan: Plan, seeds: Seeds) -> None:
    """Write a shard for each batch of seeds."""
    section = plan.args["generate"]
    how = (section["sampler"], section["steps"], plan.batch_size, plan.labels(seeds))
    batches = draw_images(denoiser, seeds, *how)
    first = 0
    with progress(total=len(seeds), unit="image", desc=plan.name) as bar:
        for images in batches:
            batch = seeds[first : first + len(images)]
            path = plan.folder / f"shard-{batch[0]}.npz"
            save_shard(path, check_samples(images, plan.model.k), batch, plan.args)
            first += len(images)
            bar.update(len(images))


def merge(plan: Plan) -> None:
    """Write all shards, in the order of their seeds, as synthetics/K.npz."""
    save_synthetics(plan.merged, merged_images(plan), plan.args, plan.labels(plan.seeds))


def merged_images(plan: Plan, count: int | None = None) -> np.ndarray:
    """The images of the first `count` seeds (all of them), [N, C, H, W], from the shards.

    Raises UserError where some are in no shard any more."""
    seeds = plan.seeds[:count]
    result = np.empty((len(seeds), *plan.model.shape), np.float32)
    present = np.zeros(len(seeds), bool)
    for images, shard_seeds in finished_shards(plan):
        inside = (shard_seeds >= seeds.start) & (shard_seeds < seeds.stop)
        rows = shard_seeds[inside] - seeds.start
        result[rows], present[rows] = images[inside], True
    if not present.all():
        problem = f"no shard of {np.count_nonzero(~present)} images, of which there was one"
        raise UserError(plan.folder, problem, "run the same command again: it draws them")
    return result
