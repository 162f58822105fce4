"""The work of train_unet.py: what remains to be trained, by which ranks (the loop: trainer.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.options.checks import one_of
from utils.cli.options.choices import PICTURE_CHANNELS, SCHEDULE_NAMES
from utils.cli.options.sections import TrainStage
from utils.data.datasets import labels_of, open_images
from utils.files.atomic import check_writable, copy_file, remove_leftovers
from utils.files.provenance import check_same, to_plain
from utils.inputs.checkpoints import load_checkpoint, newest_checkpoint, remove_training
from utils.jobs.claims import clear_up
from utils.jobs.devices import pick_dtype, prepare
from utils.jobs.k_jobs import Job, work_through
from utils.jobs.ranks import joined
from utils.stages.train.trainer import Plan, Trainer, checkpoint_file, published_file


def run(options: TrainStage) -> None:
    """Train on K = train_size images up to --iterations, or continue where that stopped.

    Several ranks share each batch; the first one alone reads folders, writes and prints."""
    device = prepare(options.run)
    dtype = pick_dtype(options.run.precision, device)
    plan = Plan(options, training_args(options), device, dtype)
    with joined(device) as ranks:
        # The first rank claims K and yields the step at which training starts, if any is left.
        # Every rank trains from there; then the first rank releases K.
        for step in ranks.from_first(claim_start(options, plan.args)):
            trainer = ranks.together(partial(Trainer, replace(plan, start=step, ranks=ranks)))
            trainer.train()


def claim_start(options: TrainStage, args: dict) -> Iterator[int]:
    """Yield the step from which to train, once and while K is claimed, if there is anything to do.

    Raises UserError for whatever is known to be wrong before work starts."""
    check_training(options)
    if not has_subset(options):
        return
    k, folder, fresh = options.train.train_size, options.data.results_path, options.run.overwrite
    if options.run.dry_run:
        newest = newest_checkpoint(Path(folder), args, fresh)
        done = newest.iterations if newest else 0
        print(f"would train K = {k} from step {done} to {options.train.iterations} in {folder}")
        return
    for target in filter(None, (folder, options.train.model_path)):
        check_writable(target)
        clear_up(target)
    job = Job(k, Path(folder), Path(folder) / "checkpoints")
    for _ in work_through([job], lambda _: is_trained(options, args), fresh):
        remove_leftovers(job.target, older_than=0)  # nobody else may write checkpoints now
        if fresh:
            remove_training(Path(folder))
        newest = newest_checkpoint(Path(folder), args)
        if newest and newest.iterations >= options.train.iterations:
            # Stopped between the last checkpoint and K.pt, or trained before without --model-path.
            copy_file(checkpoint_file(options, newest.iterations), published_file(options))
        else:
            yield newest.iterations if newest else 0


def training_args(options: TrainStage) -> dict[str, Any]:
    """The resolved options that the checkpoint, and every file made from it, will carry."""
    args = {name: to_plain(getattr(options, name)) for name in ("data", "train", "model")}
    if options.train.class_conditional:
        args["model"]["num_classes"] = int(labels_of(open_images(args)).max()) + 1
    return args


def count_images(options: TrainStage) -> int:
    """N, images of the data set. Raises UserError where it is absent or misfits."""
    return len(open_images(training_args(options)))


def has_subset(options: TrainStage) -> bool:
    """Whether the data set has K images of --subset; prints a line where there is no second.

    The last tasks of a sweep may have a K above half of the data set; that is no error."""
    k, n = options.train.train_size, count_images(options)
    if options.train.subset == "first" or 2 * k <= n:
        return True
    size = f"more than half of the {n} images of {options.data.data_name}"
    print(f"K = {k}: {size}: there is no second subset, it is left out")
    return False


def check_training(options: TrainStage) -> None:
    """Raises UserError where the data set is absent, misfits, or has fewer than K images, or the
    schedule is none to train with."""
    one_of(options.train, "beta_schedule", SCHEDULE_NAMES)
    one_of(options.model, "in_channels", PICTURE_CHANNELS)
    if options.train.class_conditional and not options.model.conditional:
        remedy = "leave --conditional False out: the class is added to the time's embedding"
        raise UserError("--class-conditional", "--conditional False", remedy)
    if options.model.num_classes:
        remedy = "leave it out: --class-conditional sets it"
        raise UserError("--num-classes", options.model.num_classes, remedy)
    if options.model.image_width is not None:
        remedy = "leave it out: training is on square images"
        raise UserError("--image-width", options.model.image_width, remedy)
    if options.train.class_conditional and options.model.dim * max(options.model.dim_mults) == 32:
        # Each of the 32 groups of group norm is one channel, whose mean it removes: that is where
        # time and class are added.
        remedy = "choose --dim 64, or a level of 64 channels by --dim-mults 1,2"
        raise UserError("--class-conditional", "32 channels at every level", remedy)
    k, n = options.train.train_size, count_images(options)
    if k > n:
        remedy = f"choose {n} or less, the size of {options.data.data_name}"
        raise UserError("--train-size", k, remedy)


def is_finished_run(options: TrainStage) -> bool:
    """Whether `run` would find everything done. Raises UserError as it would."""
    return not options.run.overwrite and is_trained(options, training_args(options))


def is_trained(options: TrainStage, args: dict) -> bool:
    """Whether the asked steps are done, and K.pt is written where it is wanted.

    Raises UserError where K.pt or a checkpoint is of a training with other options."""
    iterations, target = options.train.iterations, published_file(options)
    if target is not None and target.exists():
        published = load_checkpoint(target)
        check_same(target, published.args, args, ("data", "train", "model"))
        if published.iterations >= iterations:
            return True
    newest = newest_checkpoint(Path(options.data.results_path), args)
    return target is None and newest is not None and newest.iterations >= iterations
