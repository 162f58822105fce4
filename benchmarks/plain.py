"""The baseline: a straightforward DDPM script, in float32, eager and NCHW.

The network has the weights of ours, but attention multiplies the full softmax matrix, 1 x 1
convolutions are products over permuted channels, and group norm is that of torch. Used by
`python -m benchmarks.training` and `python -m benchmarks.sampling`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.ratio import seconds
from models.layers import NIN, AttentionBlock, ResidualBlock
from models.schedule import Schedule
from models.unet import UNet
from utils.cli.options.sections import TrainStage
from utils.cli.options.training import TrainOptions
from utils.cli.parse import parse
from utils.inputs.checkpoints import build_network

CONFIGS = Path(__file__).parents[1] / "configs"


# The network


class PlainNIN(NIN):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bhwc,cd->bhwd", x.permute(0, 2, 3, 1), self.W) + self.b
        return y.permute(0, 3, 1, 2)


class PlainAttention(AttentionBlock):
    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        normed = self.GroupNorm_0(x)
        q, k, v = self.NIN_0(normed), self.NIN_1(normed), self.NIN_2(normed)
        weights = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(c)
        weights = F.softmax(weights.reshape(b, h, w, h * w), dim=-1).reshape(b, h, w, h, w)
        return x + self.NIN_3(torch.einsum("bhwij,bcij->bchw", weights, v))


class PlainResidual(ResidualBlock):
    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        h = self.Conv_0(self.act(self.GroupNorm_0(x)))
        if temb is not None:
            h = h + self.Dense_0(self.act(temb))[:, :, None, None]
        h = self.Conv_1(self.Dropout_0(self.act(self.GroupNorm_1(h))))
        return h + (self.NIN_0(x) if hasattr(self, "NIN_0") else x)


PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    nn.GroupNorm: nn.GroupNorm,  # our subclass becomes torch's class again
    NIN: PlainNIN,
    AttentionBlock: PlainAttention,
    ResidualBlock: PlainResidual,
}


def plain_network(model_options: dict[str, Any]) -> UNet:
    """The U-Net of these options, with the same parameter names and a plain forward."""
    network = build_network(model_options)
    for module in network.modules():
        for ours, plain in PLAIN.items():
            if isinstance(module, ours):
                module.__class__ = plain  # keeps the weights, changes forward
    return network


# Training


class Images(Dataset):
    """uint8 [N, C, H, W], read one image at a time, like a data set of files."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def endless(images: Tensor, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Endless shuffled batches of batch_size images.

    Two worker processes with a GPU. None on a CPU, where they would compete with the training for
    cores: without them the baseline is faster."""
    on_gpu = device.type == "cuda"
    loader = DataLoader(
        Images(images),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=2 if on_gpu else 0,
        pin_memory=on_gpu,
        persistent_workers=on_gpu,
    )
    while True:
        yield from loader


class PlainTrainer:
    """A training loop without our optimizations; `step()` returns the loss as a number."""

    def __init__(
        self, network: UNet, images: Tensor, options: TrainOptions, device: torch.device
    ) -> None:
        self.network, self.options, self.device = network.to(device).train(), options, device
        self.average = [p.detach().clone() for p in network.parameters()]
        # Neither fused nor foreach: torch's default on a CPU. On CUDA its default is foreach.
        self.optimizer = torch.optim.Adam(
            network.parameters(), lr=options.lr, foreach=False, fused=False
        )
        self.alpha_bar = Schedule(options.timesteps).alpha_bar.float().to(device)
        self.batches = endless(images.cpu(), options.global_batch_size, device)

    def step(self) -> float:
        x_0 = (next(self.batches).to(self.device).float() / 255 - 0.5) / 0.5
        t = torch.randint(self.options.timesteps, (len(x_0),), device=self.device)
        eps = torch.randn_like(x_0)
        alpha_bar = self.alpha_bar[t][:, None, None, None]
        x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps
        loss = F.mse_loss(self.network(x_t, t), eps)
        self.optimizer.zero_grad()
        loss.backward()
        if self.options.clip_grad:
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for average, weight in zip(self.average, self.network.parameters(), strict=True):
                average.lerp_(weight, 1 - self.options.ema_decay)
        return loss.item()


# Sampling


@torch.no_grad()
def plain_sampling_step(
    network: nn.Module, x: Tensor, t: int, s: int, alpha_bar: Tensor, noise: Tensor | None
) -> Tensor:
    """An ancestral DDPM step from time t to s < t; s = -1 gives x_0, without noise.

    alpha_bar: float32 [T] on the device of x, indexed there as such scripts do."""
    eps = network(x, torch.full((len(x),), t, device=x.device))
    now = alpha_bar[t]
    x_0 = ((x - (1 - now).sqrt() * eps) / now.sqrt()).clamp(-1, 1)
    if s < 0:
        return x_0
    later = alpha_bar[s]
    alpha = now / later
    mean = later.sqrt() * (1 - alpha) * x_0 + alpha.sqrt() * (1 - later) * x
    sigma = ((1 - alpha) * (1 - later) / (1 - now)).sqrt()
    return mean / (1 - now) + sigma * noise


# Measuring


def options_of(config: str, *flags: object) -> TrainStage:
    """The options of a file in configs/, overridden by flags."""
    return parse(TrainStage, ["--config_path", str(CONFIGS / config), *map(str, flags)])


@torch.no_grad()
def perturb(network: nn.Module) -> nn.Module:
    """Add noise to all weights: zero weights would hide errors in what they multiply."""
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight += 0.05 * torch.randn(weight.shape, generator=generator).to(weight.device)
    return network


def finish(device: torch.device) -> None:
    """Wait for a GPU, whose calls return before the work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed_alternately(
    baseline: Callable[[], Any],
    candidate: Callable[[], Any],
    device: torch.device,
    repeats: int,
    steps: int,
) -> dict[str, float]:
    """Median ratio and seconds per step, timed alternately; each call does `steps` steps."""

    def timed(work: Callable[[], Any]) -> float:
        finish(device)
        return seconds(lambda: (work(), finish(device))) / steps

    for work in (baseline, candidate):  # the first run allocates, chooses kernels and compiles
        work()
    pairs = [(timed(baseline), timed(candidate)) for _ in range(repeats)]
    return {
        "ratio": round(statistics.median(b / c for b, c in pairs), 2),
        "baseline_seconds": round(statistics.median(b for b, _ in pairs), 5),
        "candidate_seconds": round(statistics.median(c for _, c in pairs), 5),
    }
