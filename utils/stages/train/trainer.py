"""Training itself: steps, logs and checkpoints of one network on its K images."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.denoiser import NetworkDenoiser, predict
from models.noise import SeededNoise, mix
from models.samplers import ddim
from utils.cli.errors import Interrupted, UserError
from utils.cli.options.sections import TrainStage
from utils.cli.progress import progress
from utils.cli.signals import GO_ON, stop_request
from utils.data.datasets import to_float
from utils.data.subsets import class_labels, training_subset, validation_subset
from utils.figures.images import image_grid
from utils.files.atomic import copy_file, save_png
from utils.files.training_log import TrainingLog
from utils.inputs.checkpoints import (
    Checkpoint,
    build_network,
    checkpoints_in,
    load_checkpoint,
    save_checkpoint,
)
from utils.inputs.training_args import schedule_of
from utils.jobs.devices import compiled, processor_name
from utils.jobs.ranks import ALONE, Ranks
from utils.stages.train.batches import batch_indices, mirrored, shown_positions
from utils.stages.train.trackers import open_tracker

GRID_IMAGES, GRID_STEPS = 64, 50
VALID_IMAGES = 512  # of the held-out images, at most, for each validation loss


@dataclass(frozen=True)
class Plan:
    """What a run will do: known, and refused, before work starts."""

    options: TrainStage
    args: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    start: int = 0  # the step that an earlier run has saved
    ranks: Ranks = ALONE  # they share each batch

    @property
    def folder(self) -> Path:
        return Path(self.options.data.results_path)


def published_file(options: TrainStage) -> Path | None:
    """K.pt in --model-path."""
    folder = options.train.model_path
    return None if folder is None else Path(folder) / f"{options.train.train_size}.pt"


def checkpoint_file(options: TrainStage, step: int) -> Path:
    return Path(options.data.results_path) / "checkpoints" / f"{step}.pt"


class Trainer:
    """A network, the average of its weights and its optimizer, trained to the last step.

    A step's images, noise and dropout depend on (seed, step) alone, so that a resumed run equals
    an uninterrupted one bit for bit on the same device with the same number of threads."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.train_options = plan, plan.options.train
        own, split = self.train_options.run_seed, self.train_options.global_seed
        self.seed, self.device, self.ranks = split if own is None else own, plan.device, plan.ranks
        start = load_checkpoint(checkpoint_file(plan.options, plan.start)) if plan.start else None
        known = {**plan.args, "images": start.args.get("images")} if start else plan.args
        subset = training_subset(known)
        self.images = subset.images.to(plan.device)  # uint8 [K, C, H, W]
        self.positions = shown_positions(len(self.images), self.train_options.duplicates)
        self.args = {**plan.args, "images": subset.origin}  # of every file made from this training
        self.held_out = validation_subset(self.args)[:VALID_IMAGES].to(plan.device)
        self.labels = self.held_out_labels = None
        if self.train_options.class_conditional:
            labels, held_out = (part.to(plan.device) for part in class_labels(self.args))
            self.labels, self.held_out_labels = labels, held_out[:VALID_IMAGES]
        self.schedule = schedule_of(plan.args)
        # On the device, so that a step need not wait for it: of each t, float32 [2, T].
        alpha_bar = self.schedule.alpha_bar
        both = torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt()])
        self.signal_and_noise = both.to(plan.device, torch.float32)
        torch.manual_seed(mix(self.seed, "weights"))
        self.network = build_network(plan.args["model"]).to(plan.device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        # one kernel for all parameters; what MPS lacks falls back to the usual one
        fused = {"fused": True} if plan.device.type in ("cpu", "cuda") else {}
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.train_options.lr, **fused
        )
        self.step = 0
        if start:
            self._resume(start)
        self.forward = compiled(self.network, self.train_options.compile, plan.device)

    def _resume(self, start: Checkpoint) -> None:
        try:
            self.network.load_state_dict(start.model)
            self.average.load_state_dict(start.ema)
            self.optimizer.load_state_dict(start.opt)
        except (RuntimeError, ValueError, KeyError) as error:
            path = checkpoint_file(self.plan.options, start.iterations)
            raise UserError(path, "a state that does not fit", "train with --overwrite") from error
        self.step = start.iterations
        now = self._rng()
        for name, before in start.rng.items():
            if before != now.get(name):
                print(f"{name}: {before} before, {now.get(name)} now; rounding may differ")

    def _rng(self) -> dict[str, Any]:
        """What rounding depends on: if these are equal, a resumed run is bit-equal."""
        threads = torch.get_num_threads() if self.device.type == "cpu" else 0
        dtype = str(self.plan.dtype).removeprefix("torch.")
        return {
            "device": self.device.type,
            "processor": processor_name(self.device),
            "threads": threads,
            "precision": dtype,
            "ranks": self.ranks.world,
            "torch": str(torch.__version__),  # a TorchVersion would be pickled
        }

    def train(self) -> None:
        """Train to the last step; log, sample and save on the way.

        Raises UserError where the loss is no longer finite, Interrupted on a signal."""
        options = self.train_options
        log = TrainingLog(self.plan.folder, self.step) if self.ranks.first else None
        wanted = options.tracker if self.ranks.first else "none"
        self.tracker = open_tracker(wanted, self.plan.folder, self.step, self.args)
        bar = progress(
            total=options.iterations, initial=self.step, unit="step", desc=f"K = {len(self.images)}"
        )
        losses, norms, since = [], [], time.perf_counter()
        with stop_request() as stop, bar, self.tracker:
            while self.step < options.iterations:
                loss, norm = self.train_step()
                losses.append(loss)
                norms.append(norm)
                bar.update()
                last = self.step == options.iterations
                # A signal may reach one rank, and at any time: all ranks check for it only here.
                stopping = bool(self.ranks.largest(int(stop.requested)))
                save = last or stopping or self.step % options.ckpt_every == 0
                if save or self.step % options.log_every == 0:
                    self.log_losses(log, losses, norms, since)
                    losses, norms = [], []
                if save:
                    self.ranks.first_does(partial(self.save, last, picture=not stopping))
                    if stopping and not last:
                        raise Interrupted(f"saved at step {self.step}; {GO_ON}")
                if not losses:
                    since = time.perf_counter()

    def log_losses(
        self, log: TrainingLog | None, losses: list[Tensor], norms: list[Tensor], since: float
    ) -> None:
        """Average and write what has been measured since a time of `perf_counter`.

        Raises UserError where it is not finite. Only here the host waits for the device."""
        options = self.train_options
        loss, norm = self.mean_over_ranks(losses), torch.stack(norms).mean().item()
        valid_loss = self.validation_loss()
        # A gradient that is not finite spoils the weights before the loss shows it.
        values = {"loss": loss, "gradient norm": norm, "validation loss": valid_loss or 0}
        self.ranks.together(partial(self.check_finite, values))
        rate = len(losses) / (time.perf_counter() - since)
        if log:
            row = {
                "step": self.step,
                "loss": loss,
                "valid_loss": valid_loss,
                "grad_norm": norm,
                "images_per_second": rate * options.global_batch_size,
                "seconds_left": (options.iterations - self.step) / rate,
            }
            log.write(**row)
            self.tracker.log(self.step, row)

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One step of Adam on |prediction - target|^2; returns this rank's part of the loss, and
        the norm of the gradient, 0-d.

        Source: Ho et al. 2020, arXiv 2006.11239, algorithm 1."""
        options = self.train_options
        shown = self.positions
        index = batch_indices(len(shown), options.global_batch_size, self.step, self.seed)
        index = shown[index].to(self.device, non_blocking=True)
        images, labels = self.images[index], None if self.labels is None else self.labels[index]
        if options.random_flip:
            images = mirrored(images, self.step, self.seed)
        torch.manual_seed(mix(self.seed, "step", self.step))
        loss = self.loss(self.network_output, images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.add_up(self.gradients())
        limit = 1.0 if options.clip_grad else math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        self.optimizer.step()
        self.step += 1
        self.update_average()
        return loss.detach(), norm

    def gradients(self) -> list[Tensor]:
        """The gradient of every parameter; zero where this rank had no row of the batch."""
        for weight in self.network.parameters():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        return [weight.grad for weight in self.network.parameters()]

    def mean_over_ranks(self, losses: list[Tensor]) -> float:
        """The mean of losses of which each rank has computed its part."""
        mean = torch.stack(losses).mean()
        self.ranks.add_up([mean])
        return mean.item()

    def network_output(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        scale = self.plan.options.model.scale_by_sigma
        return predict(self.forward, x_t, t, self.schedule, scale, self.plan.dtype, labels)

    def loss(self, output: Any, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mean squared error of the prediction at uniform times; images: uint8 [B, C, H, W], labels
        int64 [B] of a class-conditional network.

        Each of several ranks returns the part of its rows; the sum of the parts is the mean."""
        x_0 = to_float(images)
        t = torch.randint(self.schedule.timesteps, (len(x_0),), device=x_0.device)
        eps = torch.randn_like(x_0)
        # All ranks have drawn the same times and noise; dropout is drawn by each rank for its rows.
        rows, world = self.ranks.share(len(x_0)), self.ranks.world
        if world > 1:
            torch.manual_seed(mix(self.seed, "dropout", self.step, rows.start))
        part = len(x_0[rows]) / len(x_0)
        x_0, t, eps = x_0[rows], t[rows], eps[rows]
        if not len(x_0):  # more ranks than images in a batch
            return torch.zeros((), device=self.device, requires_grad=True)
        signal, noise = self.signal_and_noise[:, t, None, None, None]
        x_t = signal * x_0 + noise * eps
        targets = {"epsilon": eps, "sample": x_0, "v": signal * eps - noise * x_0}
        target = targets[self.train_options.prediction_type]
        labels = None if labels is None else labels[rows]
        return part * F.mse_loss(output(x_t, t, labels), target)

    @torch.no_grad()
    def update_average(self) -> None:
        """ema <- d ema + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)) with a warm-up."""
        decay, n = self.train_options.ema_decay, self.step
        if self.train_options.ema_warmup:
            decay = min(decay, (1 + n) / (10 + n))
        averages, weights = list(self.average.parameters()), list(self.network.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @torch.no_grad()
    def validation_loss(self) -> float | None:
        """The averaged network's loss on held-out images, always on the same noise."""
        if not len(self.held_out):
            return None
        torch.manual_seed(mix(self.seed, "validation"))
        denoiser = self.denoiser()
        network, dtype = denoiser.network, self.plan.dtype
        scale = denoiser.scale_by_sigma
        how = (self.schedule, scale, dtype)
        output = lambda x, t, labels: predict(network, x, t, *how, labels)  # noqa: E731
        return self.mean_over_ranks([self.loss(output, self.held_out, self.held_out_labels)])

    def denoiser(self) -> NetworkDenoiser:
        return NetworkDenoiser(
            self.average,
            self.schedule,
            tuple(self.images.shape[1:]),
            self.train_options.prediction_type,
            self.plan.options.model.scale_by_sigma,
            self.plan.dtype,
        )

    def check_finite(self, values: dict[str, float]) -> None:
        """Raises UserError, before anything is saved, where the training has diverged."""
        # The last step may have spoiled the weights when its loss was still finite.
        finite = torch.stack([weight.isfinite().all() for weight in self.network.parameters()])
        weights = {} if finite.all() else {"weights": math.nan}
        for what, value in {**values, **weights}.items():
            if not math.isfinite(value):
                raise UserError(f"{what} at step {self.step}", value, self.after_divergence())

    def after_divergence(self) -> str:
        """The remedy. Training cannot continue with another --lr: K.pt names only one."""
        checkpoints, coarse = checkpoints_in(self.plan.folder), self.plan.dtype != torch.float32
        if not checkpoints:
            finer = ", or --precision float32" if coarse else ""
            return f"there is no checkpoint; choose a smaller --lr{finer}"
        anew = "train with a smaller --lr and --overwrite, or into another --results-path"
        finer = "; --precision float32 would go on from that checkpoint" if coarse else ""
        return f"{checkpoints[0]} is the last good checkpoint; {anew}{finer}"

    def save(self, last: bool, picture: bool = True) -> None:
        """Write the checkpoint, and a grid of samples; the last one also as K.pt."""
        checkpoint = Checkpoint(
            model=self.network.state_dict(),
            ema=self.average.state_dict(),
            opt=self.optimizer.state_dict(),
            args=self.args,
            iterations=self.step,
            rng=self._rng(),
        )
        path = checkpoint_file(self.plan.options, self.step)
        save_checkpoint(path, checkpoint)
        target = published_file(self.plan.options)
        if last and target is not None:
            copy_file(path, target)
        if picture:  # not when stopping: a signal should end the run soon
            self.save_grid()
        keep = self.train_options.keep_checkpoints
        for old in checkpoints_in(self.plan.folder)[keep:] if keep else []:
            old.unlink()

    def save_grid(self) -> None:
        """A grid of samples of the averaged network, always from the same noise."""
        noise = SeededNoise(range(GRID_IMAGES), self.images.shape[1:])
        denoiser, classes = self.denoiser(), self.args["model"]["num_classes"]
        if classes:
            denoiser.labels = torch.arange(GRID_IMAGES) % classes
        images = ddim(denoiser, noise.draw, min(GRID_STEPS, self.schedule.timesteps))
        grid = image_grid(images.cpu().numpy())
        save_png(self.plan.folder / "samples" / f"{self.step}.png", grid)
        self.tracker.picture(self.step, grid)
