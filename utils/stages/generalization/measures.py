"""What the tests of generalization measure of one model and its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.exact import ExactDenoiser
from models.noise import SeededNoise, image_key, mix
from models.schedule import Schedule
from utils.cli.options.sections import GeneralizationOptions
from utils.cli.progress import progress
from utils.descriptors.embedders import Embedder
from utils.evidence.copying import Cells, copying_tests
from utils.evidence.findings import Finding, denoising_gap, memorizer_distance, two_models
from utils.inputs.denoisers import usable_numbers
from utils.metrics.intervals import Z, median_interval
from utils.metrics.nearest import SearchSettings, nearest
from utils.metrics.pairs import squared_distances
from utils.stages.generalization.memorizer import (
    DenoisingErrors,
    collapse_times,
    denoising_errors,
    largest_variance,
    speciation_time,
)

Interval = tuple[float, float | None, float | None]  # value, low and high; None: no interval
DRAWS = 256  # of noise, at least, that a collapse time is the median of
SPREAD = 1e-9  # error of a variance, as a part of it, below which it is rounding
NO_TIME = "no time before the collapse"
HELD_TWICE = "training images held several times"


@dataclass(frozen=True)
class Images:
    """Real images float32 [n, C, H, W] in [-1, 1]: those that a model has learnt, and others."""

    train: Tensor
    held_out: Tensor

    def probes(self, count: int) -> tuple[Tensor, Tensor]:
        """The first of both, `count` of each at most."""
        return self.train[:count], self.held_out[:count]


@dataclass
class Measured:
    """What is known of one K, or one step: findings, arrays by their key in K.npz, and the times
    that the data set (`collapse`, `speciation`), with 95 % intervals."""

    findings: list[Finding] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    times: dict[str, Interval] = field(default_factory=dict)

    def add(self, other: Measured) -> None:
        self.findings += other.findings
        self.arrays |= other.arrays
        self.times |= other.times


def measure_model(
    denoiser: Denoiser,
    images: Images,
    settings: GeneralizationOptions,
    on_rows: Callable[[int], object] = lambda _: None,
) -> Measured:
    """Denoising gap and distance to the memorizer, by the errors on noised real images.

    on_rows: called with the number of rows just done, of `rows_of`.
    Raises ValueError where the model gives NaN or infinite values."""
    memorizer = memorizer_of(images, denoiser.device, denoiser.schedule)
    times, mean = list(settings.t), images.train.mean(0)
    data = data_times(memorizer, images, settings)
    errors = {}
    for name, probes in zip(("train", "held-out"), images.probes(settings.probe_size), strict=True):

        def noise(t: int, probes: Tensor = probes) -> Tensor:
            return probe_noise(probes, settings.seed, settings.noises, "probe", t)

        errors[name] = denoising_errors(
            denoiser, memorizer, mean, probes, times, noise, settings.batch_size, on_rows
        )
    early, undecided = early_times(times, data.times["collapse"][0], images.train)
    new = errors["held-out"]
    findings = [
        memorizer_distance(new.memorizer[early].sum(0), new.loss[early].sum(0), undecided),
        denoising_gap(errors["train"].loss, new.loss),
    ]
    arrays = {"t": np.array(times), **dict(named_errors(errors))}
    return Measured(findings, {**arrays, **data.arrays}, data.times)


def examine_model(
    denoiser: Denoiser, images: Images, settings: GeneralizationOptions, name: str
) -> Measured:
    """`measure_model` with a progress bar. Raises UserError where the model gives NaN."""
    total = rows_of(images, settings)
    with usable_numbers(f"model of {name}"), progress(total=total, unit="row", desc=name) as bar:
        return measure_model(denoiser, images, settings, bar.update)


def rows_of(images: Images, settings: GeneralizationOptions) -> int:
    """Rows of network calls that `measure_model` will make."""
    return sum(map(len, images.probes(settings.probe_size))) * settings.noises * len(settings.t)


def early_times(times: list[int], collapse: float, train: Tensor) -> tuple[list[int], str]:
    """Positions of the times up to the collapse, or of the earliest alone; and why the distance
    from the memorizer at them gives no verdict, empty if it does.

    Beyond the collapse the memorizer itself is undecided, and any good denoiser is near it. Of
    images held several times each copy takes a part of the weight, and the collapse is not that of
    one image."""
    early = [i for i, t in enumerate(times) if t <= collapse]
    if len({image_key(image) for image in train}) < len(train):
        return early or [int(np.argmin(times))], HELD_TWICE
    return (early, "") if early else ([int(np.argmin(times))], NO_TIME)


def named_errors(errors: dict[str, DenoisingErrors]) -> Iterator[tuple[str, np.ndarray]]:
    """`train-loss`, `held-out-memorizer`, ...: float64 [T', n]."""
    for name, of_images in errors.items():
        for kind, values in vars(of_images).items():
            yield f"{name}-{kind}", values


def memorizer_of(images: Images, device: torch.device, schedule: Schedule) -> ExactDenoiser:
    return ExactDenoiser(images.train.to(device), schedule)


def probe_noise(images: Tensor, seed: int, copies: int, *place: object) -> Tensor:
    """eps [n, copies, C, H, W]: of each image from the seed, its content and the place alone."""
    seeds = [mix(seed, *place, image_key(image)) for image in images]
    return SeededNoise(seeds, (copies, *images.shape[1:])).draw()


def data_times(
    memorizer: ExactDenoiser, images: Images, settings: GeneralizationOptions
) -> Measured:
    """Collapse and speciation times of the training images alone: steps, -1 where there is none.

    Collapse: the median over images and noises, DRAWS of them or more, by order statistics.
    Speciation: of the largest variance, and of it plus and minus 1.96 standard errors. With one or
    two images all projections are equally far from the mean: there is no error and no interval."""
    probes, _ = images.probes(settings.probe_size)
    copies = -(-DRAWS // len(probes))  # a few images alone give a wide interval
    eps = probe_noise(probes, settings.seed, copies, "collapse").flatten(0, 1)
    device = memorizer.device
    pattern = torch.arange(len(probes)).repeat_interleave(copies)
    noised = probes.repeat_interleave(copies, 0).to(device), pattern, eps.to(device)
    collapse = collapse_times(memorizer, *noised).numpy()
    variance, error = largest_variance(images.train)
    reach = (variance, max(0.0, variance - Z * error), variance + Z * error)
    value, low, high = (float(speciation_time(v, memorizer.schedule)) for v in reach)
    speciation = (value, low, high) if error > SPREAD * variance else (value, None, None)
    return Measured(
        arrays={"collapse": collapse},
        times={"collapse": median_interval(collapse), "speciation": speciation},
    )


def measure_samples(
    embedder: Embedder,
    samples: Tensor,
    images: Images,
    settings: GeneralizationOptions,
    search: SearchSettings | None = None,
) -> Measured:
    """C_T, authenticity and the ratio test of samples, see `copying_tests`."""
    cells = Cells(settings.cells, settings.seed)
    found = copying_tests(embedder, samples, images.train, images.held_out, cells, search)
    return Measured(*found)


def measure_pairs(
    embedder: Embedder,
    sets: tuple[Tensor, Tensor],
    train_sets: tuple[Tensor, Tensor],
    search: SearchSettings | None = None,
) -> tuple[Measured, np.ndarray]:
    """What two models agree on, and the nearest training image of each sample [2, N, C, H, W].

    Two sets [N, C, H, W] drawn from the same seeds, and the training images of their models.

    Cosines are those of images less the mean of all training images."""
    to_train, nearest_images = [], []
    for samples, train in zip(sets, train_sets, strict=True):
        distances, index = nearest(embedder, samples, train, 1, settings=search)
        to_train.append(distances[:, 0])
        nearest_images.append(train[index[:, 0]])
    pair = pair_distances(embedder, *sets)
    mean = torch.cat(train_sets).mean(0)
    measured = Measured(
        [two_models(pair, *to_train)],
        {
            "pair-distances": pair,
            "own-distances": np.stack(to_train),
            "pair-cosines": cosines(*sets, mean),
            "own-cosines": np.stack(
                [cosines(a, b, mean) for a, b in zip(sets, nearest_images, strict=True)]
            ),
        },
    )
    return measured, torch.stack(nearest_images).numpy()


def pair_distances(
    embedder: Embedder, first: Tensor, second: Tensor, batch: int = 256
) -> np.ndarray:
    """The distance of image i of one set to image i of the other, in the metric: float32 [N]."""
    distances = []
    for a, b in zip(first.split(batch), second.split(batch), strict=True):
        squares = squared_distances(embedder(a), embedder(b))
        distances.append(squares if embedder.squared else squares.sqrt())
    return torch.cat(distances).cpu().numpy()


def cosines(first: Tensor, second: Tensor, mean: Tensor) -> np.ndarray:
    """cos of the angle between images i, each less the mean: [N], -1 to 1, 0 where one is 0."""
    a, b = ((x - mean).flatten(1).double() for x in (first, second))
    return torch.nn.functional.cosine_similarity(a, b, dim=1).numpy()
