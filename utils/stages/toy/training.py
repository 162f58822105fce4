"""Training of the toy's score networks: several K together, resumable at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.circle.exact import PatternMixture
from models.circle.probability_flow import Score, flow
from models.circle.score_net import NetworkScore, ScoreNets, denoising_loss
from models.noise import mix
from utils.cli.errors import Interrupted, UserError
from utils.cli.options.toy import ToyTrainOptions
from utils.cli.progress import progress
from utils.cli.signals import GO_ON, stop_request
from utils.figures.save import save_figure
from utils.files.training_log import TrainingLog
from utils.inputs.checkpoints import save_checkpoint
from utils.stages.toy.figures import samples_figure
from utils.stages.toy.files import Circle, ToyCheckpoint, checkpoint_file, k_folder

FIRST_TIME = 1e-3  # the earliest time of training; generation ends there
LAST_LEVEL = 1.05  # the largest noise level sqrt(t) of training, so that t = 1 is not at the edge
ERROR_TIMES = (0.01, 0.05, 0.15, 0.3, 0.6, 1.0)  # at which networks and exact score are compared
ERROR_POINTS = 4000
DRAWN_STEPS = 64  # steps whose points are drawn together
LOG_STEPS = 500
PICTURE_SAMPLES = 1000
PUBLISHED_LR, PUBLISHED_BATCH, PUBLISHED_FIRST_TIME = 1e-4, 500, 1e-5


@dataclass(frozen=True)
class Recipe:
    """The noised points of each network in a step, and the step size over the training."""

    batch: int
    first_lr: float
    cosine: bool
    n_iter: int

    def lr(self, step: int) -> float:
        """Adam's step size at a step, from 0: first_lr (1 + cos(pi step / n_iter)) / 2."""
        if not self.cosine:
            return self.first_lr
        return self.first_lr * (1 + math.cos(math.pi * step / self.n_iter)) / 2


def recipe(options: ToyTrainOptions, k: int) -> Recipe:
    """The recipe of these options for K points: our own, or as published."""
    if options.as_published:
        return Recipe(min(PUBLISHED_BATCH, k), PUBLISHED_LR, False, options.n_iter)
    return Recipe(options.global_batch_size, options.lr, True, options.n_iter)


def training_args(options: ToyTrainOptions, circle: Circle, k: int) -> dict[str, Any]:
    """args of the checkpoints of K: all options that determine the weights."""
    settings = {"k": k, "seed": options.seed, "as_published": options.as_published}
    if not options.as_published:
        # n_iter is the length of the cosine; the published step size does not depend on it
        names = ("global_batch_size", "lr", "n_iter")
        settings |= {name: getattr(options, name) for name in names}
    return {"toy_data": circle.args["toy_data"], "toy_train": settings}


class Draws:
    """The noised points of each step; they depend on (seed, K, step) alone."""

    def __init__(
        self, patterns: Sequence[Tensor], batch: int, seed: int, uniform: bool, device: torch.device
    ) -> None:
        self._patterns, self._batch, self._seed = patterns, batch, seed
        self._uniform, self._device = uniform, device
        self._block, self._drawn = -1, ()  # the last block of steps that was drawn

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """x_0 [n, B, 2], t [n, B] and noise [n, B, 2] of a step, float32."""
        block, row = divmod(step, DRAWN_STEPS)
        if block != self._block:
            # drawn on the CPU: other devices turn the same seed into other numbers
            draws = [self._draw(patterns, block) for patterns in self._patterns]
            stacks = (torch.stack(part).to(self._device) for part in zip(*draws, strict=True))
            self._block, self._drawn = block, tuple(stacks)
        x_0, t, noise = self._drawn
        return x_0[:, row], t[:, row], noise[:, row]

    def _draw(self, patterns: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """x_0, t and noise of one network for a block of steps: [64, B, 2], [64, B], [64, B, 2]."""
        g = torch.Generator().manual_seed(mix(self._seed, "toy", len(patterns), block))
        shape = (DRAWN_STEPS, self._batch)
        x_0 = patterns[torch.randint(len(patterns), shape, generator=g)].float()
        u = torch.rand(shape, generator=g)
        if self._uniform:
            t = PUBLISHED_FIRST_TIME + (1 - PUBLISHED_FIRST_TIME) * u
        else:
            # Stratified: one point in each of B equal intervals of the noise level sqrt(t). Uniform
            # levels draw small t, where scores are hardest to learn, more often than uniform t.
            low = math.sqrt(FIRST_TIME)
            level = low + (LAST_LEVEL - low) * (u + torch.arange(self._batch)) / self._batch
            t = level.square()
        return x_0, t, torch.randn(*shape, 2, generator=g)


class Trainer:
    """Networks of several K and their Adam optimizer, from the first step to the last.

    All K take the same steps together; the weights of one K do not depend on the others."""

    def __init__(
        self,
        root: Path,
        options: ToyTrainOptions,
        circle: Circle,
        sizes: Sequence[int],
        device: torch.device,
    ) -> None:
        self.root, self.options, self.sizes = Path(root), options, list(sizes)
        self.device, self.step = device, 0
        self.args = [training_args(options, circle, k) for k in sizes]
        self.exact = [PatternMixture(circle.points[:k]) for k in sizes]
        self.recipe = recipe(options, sizes[0])
        self.nets = ScoreNets([mix(options.seed, "toy weights", k) for k in sizes]).to(device)
        fused = {"fused": True} if device.type in ("cpu", "cuda") else {}
        self.optimizer = torch.optim.Adam(self.nets.parameters(), lr=self.recipe.lr(0), **fused)
        patterns = [exact.patterns for exact in self.exact]
        uniform = options.as_published
        self.draws = Draws(patterns, self.recipe.batch, options.seed, uniform, device)

    def resume(self, checkpoints: Sequence[ToyCheckpoint]) -> None:
        """Continue from one checkpoint for each K, all of the same step."""
        self.step = checkpoints[0].iterations
        for i, checkpoint in enumerate(checkpoints):
            self.nets.load_state_of(i, checkpoint.model)
        state = {}
        for number, (name, _) in enumerate(self.nets.named_parameters()):
            moments = {
                moment: torch.stack([checkpoint.opt[moment][name] for checkpoint in checkpoints])
                for moment in ("exp_avg", "exp_avg_sq")
            }
            state[number] = {"step": torch.tensor(float(self.step)), **moments}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def train(self) -> None:
        """Train to the last step; log and save in between.

        Raises UserError if a loss is not finite, Interrupted on a signal."""
        total, every = self.options.n_iter, self.options.sampling_freq
        logs = [TrainingLog(k_folder(self.root, k), self.step) for k in self.sizes]
        names = ", ".join(map(str, self.sizes))
        bar = progress(total=total, initial=self.step, unit="step", desc=f"K = {names}")
        losses, since = [], time.perf_counter()
        with stop_request() as stop, bar:
            while self.step < total:
                losses.append(self.train_step())
                bar.update()
                last = self.step == total
                save = last or stop.requested or self.step % every == 0
                if not save and self.step % LOG_STEPS:
                    continue
                rate = len(losses) / (time.perf_counter() - since)
                means = torch.stack(losses).mean(dim=0).tolist()  # waits for the device
                for i, log in enumerate(logs):
                    self.check_finite(self.sizes[i], means[i])
                    log.write(
                        step=self.step,
                        loss=means[i],
                        steps_per_second=rate,
                        seconds_left=(total - self.step) / rate,
                        score_errors=self.errors(i) if save else None,
                    )
                if save:
                    self.save()
                    if stop.requested and not last:
                        raise Interrupted(f"saved at step {self.step}; {GO_ON}")
                losses, since = [], time.perf_counter()

    def train_step(self) -> Tensor:
        """One step of Adam for every network; returns their losses [n]."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr(self.step)
        losses = denoising_loss(self.nets, *self.draws.at(self.step))
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()  # no network's weights affect the loss of another
        self.optimizer.step()
        self.step += 1
        return losses.detach()

    def errors(self, i: int) -> list[float]:
        """`score_errors` of network i."""
        score = NetworkScore(self.nets.state_of(i), torch.device("cpu"))
        return score_errors(score, self.exact[i])

    def check_finite(self, k: int, loss: float) -> None:
        """Raises UserError, before anything is saved, if the training has diverged."""
        if not math.isfinite(loss):
            remedy = "the last checkpoint is whole; try a smaller --lr"
            raise UserError(f"loss of K = {k} at step {self.step}", loss, remedy)

    def save(self) -> None:
        """Write the checkpoint and a picture of samples of each K."""
        for i, k in enumerate(self.sizes):
            model = {name: value.cpu() for name, value in self.nets.state_of(i).items()}
            score, exact = NetworkScore(model, torch.device("cpu")), self.exact[i]
            samples = samples_at(score, exact, FIRST_TIME, PICTURE_SAMPLES, self.options.seed)
            picture = k_folder(self.root, k) / "samples" / f"{self.step}.png"
            save_figure(samples_figure(samples, exact.patterns.numpy(), self.step), picture)
            checkpoint = ToyCheckpoint(model, self._moments(i), self.args[i], self.step)
            save_checkpoint(checkpoint_file(self.root, k, self.step), checkpoint)

    def _moments(self, i: int) -> dict[str, dict[str, Tensor]]:
        """Adam's moments of network i by the names of its weights."""
        state = self.optimizer.state
        return {
            moment: {n: state[p][moment][i].cpu().clone() for n, p in self.nets.named_parameters()}
            for moment in ("exp_avg", "exp_avg_sq")
        }


def samples_at(score: Score, exact: PatternMixture, t: float, count: int, seed: int) -> np.ndarray:
    """count samples [count, 2] of a score at time t: exact noised data at t = 1, moved to t."""
    x = exact.sample(count, 1.0, mix(seed, "toy samples"))
    start, end = torch.ones(count).to(x), torch.full((count,), t).to(x)
    return (flow(score, x, start, end) if t < 1 else x).cpu().numpy()


def score_errors(score: Score, exact: PatternMixture) -> list[float]:
    """t mean |s(x, t) - grad log p_t(x)|^2 / 2 over points of p_t, at each of ERROR_TIMES.

    The mean is over points and axes. A score of 0 everywhere has an error of about 1 at small t."""
    errors = []
    for t in ERROR_TIMES:
        x = exact.sample(ERROR_POINTS, t, mix(0, "toy errors", t))
        errors.append(t * (score(x, t) - exact.score(x, t)).square().mean().item())
    return errors
