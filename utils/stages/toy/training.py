"""Training of the toy's score networks: those of several K together, resumable at any step."""

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
from utils.stages.toy.figures import samples_figure
from utils.stages.toy.files import Circle, ToyCheckpoint, k_folder, save_checkpoint

FIRST_TIME = 1e-3  # the earliest time that is trained on, and where generation ends
LAST_LEVEL = 1.05  # noise level sqrt(t) up to which is trained: so t = 1 is not at the edge
ERROR_TIMES = (0.01, 0.05, 0.15, 0.3, 0.6, 1.0)  # where a network is held against the exact score
ERROR_POINTS = 4000
DRAWN_STEPS = 64  # steps whose points are drawn at once
LOG_STEPS = 500
PICTURE_SAMPLES = 1000
PUBLISHED_LR, PUBLISHED_BATCH, PUBLISHED_FIRST_TIME = 1e-4, 500, 1e-5


@dataclass(frozen=True)
class Recipe:
    """How a step is made: points of each network, and the step size over the training."""

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
    if options.as_published:
        return Recipe(min(PUBLISHED_BATCH, k), PUBLISHED_LR, False, options.n_iter)
    return Recipe(options.global_batch_size, options.lr, True, options.n_iter)


def training_args(options: ToyTrainOptions, circle: Circle, k: int) -> dict[str, Any]:
    """What the checkpoints of K carry: all that decides the weights."""
    own: dict[str, Any] = {"k": k, "seed": options.seed, "as_published": options.as_published}
    if not options.as_published:
        # a cosine of another length is another training; the published one just goes on
        names = ("global_batch_size", "lr", "n_iter")
        own.update({name: getattr(options, name) for name in names})
    return {"toy_data": circle.args["toy_data"], "toy_train": own}


class Draws:
    """The noised points of each step: they depend on (seed, K, step) alone."""

    def __init__(
        self, patterns: Sequence[Tensor], batch: int, seed: int, uniform: bool, device: torch.device
    ) -> None:
        self._patterns, self._batch, self._seed = patterns, batch, seed
        self._uniform, self._device = uniform, device
        self._block, self._drawn = -1, ()

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """x_0 [n, B, 2], t [n, B] and noise [n, B, 2] of a step, float32."""
        block, place = divmod(step, DRAWN_STEPS)
        if block != self._block:
            # drawn on the CPU: other devices turn the same seed into other numbers
            rows = [self._draw(patterns, block) for patterns in self._patterns]
            self._drawn = tuple(
                torch.stack(part).to(self._device) for part in zip(*rows, strict=True)
            )
            self._block = block
        x_0, t, noise = self._drawn
        return x_0[:, place], t[:, place], noise[:, place]

    def _draw(self, patterns: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
        g = torch.Generator().manual_seed(mix(self._seed, "toy", len(patterns), block))
        shape = (DRAWN_STEPS, self._batch)
        x_0 = patterns[torch.randint(len(patterns), shape, generator=g)].float()
        u = torch.rand(shape, generator=g)
        if self._uniform:
            t = PUBLISHED_FIRST_TIME + (1 - PUBLISHED_FIRST_TIME) * u
        else:
            # One in each of B equal parts of the noise level, sqrt(t): all levels at every step,
            # and the low ones, at which scores are hardest to learn, as often as the high ones.
            low = math.sqrt(FIRST_TIME)
            level = low + (LAST_LEVEL - low) * (u + torch.arange(self._batch)) / self._batch
            t = level.square()
        return x_0, t, torch.randn(*shape, 2, generator=g)


class Trainer:
    """Networks of several K and their Adam, on their way to the last step.

    All K take the same steps side by side, and one's weights do not depend on its companions."""

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
        self.patterns = [circle.points[:k] for k in sizes]
        self.recipe = recipe(options, sizes[0])
        self.nets = ScoreNets([mix(options.seed, "toy weights", k) for k in sizes]).to(device)
        fused = {"fused": True} if device.type in ("cpu", "cuda") else {}
        self.optimizer = torch.optim.Adam(self.nets.parameters(), lr=self.recipe.lr(0), **fused)
        uniform = options.as_published
        self.draws = Draws(self.patterns, self.recipe.batch, options.seed, uniform, device)

    def resume(self, checkpoints: Sequence[ToyCheckpoint]) -> None:
        """Go on from one checkpoint for each K, all of the same step."""
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
        """Train to the last step; log and save on the way.

        Raises UserError where a loss is not finite, Interrupted on a signal."""
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
                save = last or stop.asked or self.step % every == 0
                if not save and self.step % LOG_STEPS:
                    continue
                rate = len(losses) / (time.perf_counter() - since)
                means = torch.stack(losses).mean(dim=0).tolist()  # the device is waited for here
                for k, log, loss in zip(self.sizes, logs, means, strict=True):
                    self.check_finite(k, loss)
                    left = (total - self.step) / rate
                    row = {"steps_per_second": rate, "seconds_left": left}
                    errors = self.errors(self.sizes.index(k)) if save else None
                    log.write(step=self.step, loss=loss, **row, score_errors=errors)
                if save:
                    self.save()
                    if stop.asked and not last:
                        raise Interrupted(f"saved at step {self.step}; {GO_ON}")
                losses, since = [], time.perf_counter()

    def train_step(self) -> Tensor:
        """One step of Adam for every network; their losses [n]."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr(self.step)
        losses = denoising_loss(self.nets, *self.draws.at(self.step))
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()  # a weight of one network has no part in the others' losses
        self.optimizer.step()
        self.step += 1
        return losses.detach()

    def errors(self, i: int) -> list[float]:
        score = NetworkScore(self.nets.state_of(i), torch.device("cpu"))
        return score_errors(score, PatternMixture(self.patterns[i]))

    def check_finite(self, k: int, loss: float) -> None:
        if not math.isfinite(loss):
            remedy = "the last checkpoint is whole; try a smaller --lr"
            raise UserError(f"loss of K = {k} at step {self.step}", loss, remedy)

    def save(self) -> None:
        """Write the checkpoint and a picture of samples of each K."""
        for i, k in enumerate(self.sizes):
            model = {name: value.cpu() for name, value in self.nets.state_of(i).items()}
            samples = generate(model, self.patterns[i], PICTURE_SAMPLES, self.options.seed)
            picture = k_folder(self.root, k) / "samples" / f"{self.step}.png"
            save_figure(samples_figure(samples, self.patterns[i].numpy(), self.step), picture)
            checkpoint = ToyCheckpoint(model, self._moments(i), self.args[i], self.step)
            save_checkpoint(self.root, checkpoint)

    def _moments(self, i: int) -> dict[str, dict[str, Tensor]]:
        """Adam's moments of network i by the names of its weights."""
        state = self.optimizer.state
        return {
            moment: {n: state[p][moment][i].cpu().clone() for n, p in self.nets.named_parameters()}
            for moment in ("exp_avg", "exp_avg_sq")
        }


def generate(model: dict[str, Tensor], patterns: Tensor, count: int, seed: int) -> np.ndarray:
    """count samples [count, 2] of a network: exact noised data at t = 1, carried to FIRST_TIME."""
    x = PatternMixture(patterns).sample(count, 1.0, mix(seed, "toy samples"))
    ends = torch.ones(count).double(), torch.full((count,), FIRST_TIME).double()
    return flow(NetworkScore(model, torch.device("cpu")), x, *ends).numpy()


def score_errors(score: Score, exact: PatternMixture) -> list[float]:
    """t mean |s(x, t) - grad log p_t(x)|^2 / 2 over points of p_t, at each of ERROR_TIMES.

    The mean is over points and axes; 1 is the error of no score at all far above the noise."""
    errors = []
    for t in ERROR_TIMES:
        x = exact.sample(ERROR_POINTS, t, mix(0, "toy errors", t))
        errors.append(t * (score(x, t) - exact.score(x, t)).square().mean().item())
    return errors
