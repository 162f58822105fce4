"""A network beside the machines of its training images: the same noised images, the same seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.closed_form import ClosedForm
from models.denoiser import Denoiser
from models.machines.build import PATCHED, build_machine
from models.noise import SeededNoise, image_key, mix
from models.samplers import draw_images
from models.schedule import Schedule, add_noise
from utils.cli.options.measures import MachinesOptions
from utils.stages.machines.explained import products, r2_of

EQUAL = 1.01  # times 1 - r^2 of the best patch side: others up to it are about equal
OnRows = Callable[[int], object]


@dataclass(frozen=True)
class Compared:
    """The residual products of one set of images: gram [T, n, M, M], total [T, n]."""

    gram: np.ndarray
    total: np.ndarray


class Machines:
    """The machines of K training images, each with its patch side at each time.

    patterns: [K, C, H, W] in [-1, 1], on the device of the network."""

    def __init__(self, patterns: Tensor, schedule: Schedule, settings: MachinesOptions) -> None:
        self.settings, self.largest = settings, 2 * max(patterns.shape[2:]) - 1
        self.mean = patterns.double().mean(0).flatten().cpu().numpy()  # [D]
        self.patterns = patterns
        self.built = {
            name: build_machine(name, patterns, schedule, 1, settings.most_patches)
            if name in PATCHED
            else build_machine(name, patterns, schedule)
            for name in settings.names
        }
        self.sides: dict[str, dict[int, int]] = {}

    @property
    def candidates(self) -> list[int]:
        """Patch sides to try, ascending: none beyond that which covers the image."""
        return sorted({min(side, self.largest) for side in self.settings.sides})

    @property
    def patched(self) -> list[str]:
        """The machines that have a patch side."""
        return [name for name in self.built if name in PATCHED]

    def choose_sides(self, denoiser: Denoiser, on_rows: OnRows) -> None:
        """Give each patch machine, at each time, the side of largest r^2 with the network, and of
        about equal ones the largest side.

        On the last training images, with noise that serves for nothing else."""
        if not self.patched:
            return
        images = copies(self.patterns.flip(0), self.settings.side_images).cpu()
        chosen: dict[str, dict[int, int]] = {name: {} for name in self.patched}
        for t in self.settings.t:
            x_t = noised(images, t, denoiser, self.settings.seed, "sides")
            network = flat(network_x_0(denoiser, x_t, t, self.settings.batch_size))
            for name in self.patched:
                r2 = []
                for side in self.candidates:
                    machine = self.built[name].with_sides(side)
                    gram, total = products(network, flat(machine.x_0(x_t, t))[None], self.mean)
                    r2.append(r2_of(gram.sum(0), total.sum())[0])
                    on_rows(len(x_t))
                # Of about equal ones the largest: it is nearest to the exact model.
                left = 1 - np.nan_to_num(r2, nan=1.0)
                good = np.flatnonzero(left <= EQUAL * left.min())
                chosen[name][t] = self.candidates[good[-1]]
        self.sides = chosen
        for name in self.patched:
            self.built[name] = self.built[name].with_sides(chosen[name])

    def compare(
        self,
        denoiser: Denoiser,
        images: Tensor,
        name: str,
        on_rows: OnRows,
        keys: Sequence[object] | None = None,
    ) -> Compared:
        """The network and every machine on images [n, C, H, W] noised at each time; keys: as for
        `noised`."""
        grams, totals = [], []
        for t in self.settings.t:
            x_t = noised(images, t, denoiser, self.settings.seed, name, keys)
            network = flat(network_x_0(denoiser, x_t, t, self.settings.batch_size))
            outputs = []
            for machine in self.built.values():
                outputs.append(flat(machine.x_0(x_t, t)))
                on_rows(len(x_t))
            gram, total = products(network, np.stack(outputs), self.mean)
            grams.append(gram)
            totals.append(total)
        return Compared(np.stack(grams), np.stack(totals))

    def draw(self, seeds: range, sampler: str, steps: int, on_rows: OnRows) -> np.ndarray:
        """The samples of each machine from these seeds: float32 [M, n, C, H, W]."""
        drawn = []
        for machine in self.built.values():
            counted = Counted(machine, on_rows)
            drawn.append(draw(counted, seeds, sampler, steps, self.settings.batch_size))
        return np.stack(drawn)


class Counted(Denoiser):
    """A machine that says how many rows it has done."""

    def __init__(self, machine: ClosedForm, on_rows: OnRows) -> None:
        self.machine, self.on_rows = machine, on_rows
        self.shape, self.schedule, self.device = machine.shape, machine.schedule, machine.device

    def eps(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        self.on_rows(len(x_t))
        return self.machine.eps(x_t, t)

    def x_0(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        self.on_rows(len(x_t))
        return self.machine.x_0(x_t, t)


def draw(denoiser: Denoiser, seeds: range, sampler: str, steps: int, batch: int) -> np.ndarray:
    """Samples from seeds: float32 [n, C, H, W]. Raises ValueError where they are not finite."""
    none = torch.empty(0, *denoiser.shape)
    samples = torch.cat([none, *draw_images(denoiser, seeds, sampler, steps, batch)])
    if not samples.isfinite().all():
        raise ValueError("denoiser: found NaN in its samples")
    return samples.numpy()


def noised(
    images: Tensor,
    t: int,
    denoiser: Denoiser,
    seed: int,
    name: str,
    keys: Sequence[object] | None = None,
) -> Tensor:
    """x_t of images [n, C, H, W], on the device of the denoiser.

    The noise of a row comes from the seed, the name of the set, t, the key of the image, and how
    many rows of the same key precede it. keys: None: digests of the images. Images that another
    batch size rounds otherwise need keys that are not: the seeds that they were drawn from."""
    seen: dict[object, int] = {}
    seeds = []
    for key in map(image_key, images) if keys is None else keys:
        seen[key] = seen.get(key, 0) + 1
        seeds.append(mix(seed, "machines", name, t, key, seen[key]))
    eps = SeededNoise(seeds, images.shape[1:]).draw().to(denoiser.device)
    return add_noise(images.to(denoiser.device), eps, denoiser.schedule.alpha_bar_at(t))


@torch.no_grad()
def network_x_0(denoiser: Denoiser, x_t: Tensor, t: int, batch: int) -> Tensor:
    """The network's x_0, not clipped. Raises ValueError where it gives NaN or infinite values."""
    x_0 = torch.cat([denoiser.x_0(part, t) for part in x_t.split(batch)])
    if not x_0.isfinite().all():
        raise ValueError("denoiser: found NaN or infinite values")
    return x_0


def flat(images: Tensor) -> np.ndarray:
    """[n, D] float64."""
    return images.flatten(1).double().cpu().numpy()


def sample_r2(network: np.ndarray, machines: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """r^2 of each sample of the network [n, C, H, W] and that of each machine [M, n, C, H, W] from
    the same seed: [n, M]; 1 - |s_i - s|^2 / |s - mu|^2. NaN where the sample is the mean image."""
    values = len(mean)
    pairs = network.reshape(-1, values), machines.reshape(*machines.shape[:2], values)
    return r2_of(*products(*pairs, mean))


def rows_of(machines: Machines, sets: Iterable[Tensor], drawn: int) -> int:
    """Rows that machines will be asked for; drawn: rows of the drawing of samples, of each one."""
    settings = machines.settings
    choice = len(machines.patched) * len(machines.candidates) * settings.side_images
    compared = len(machines.built) * sum(map(len, sets))
    return (choice + compared) * len(settings.t) + drawn * len(machines.built)


def copies(images: Tensor, count: int) -> Tensor:
    """count images: the first ones, again from the beginning where there are fewer."""
    return images[torch.arange(count) % len(images)]
