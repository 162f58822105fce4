"""The options of toy_example.py: a section for each of its commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.cli.errors import UserError
from utils.cli.options.checks import flag, ints, within

CIRCLE_POINTS = 60_000  # of the toy's data set


@dataclass
class ToyOptions:
    """The circle in the plane."""

    results_path: Path = Path("results/toy_example_results")  # folder for everything of the circle

    def __post_init__(self) -> None:
        """Check the options that several commands share, under the same names."""
        values = vars(self)
        sizes = values.get("sample_size", (1,))
        if not sizes or min(sizes) < 1 or max(sizes) > CIRCLE_POINTS:
            remedy = f"choose 1 to {CIRCLE_POINTS}, as in 2,9,1000"
            raise UserError("--sample-size", ",".join(map(str, sizes)) or "nothing", remedy)
        if len(set(sizes)) != len(sizes):
            raise UserError("--sample-size", ",".join(map(str, sizes)), "name each K once")
        if not 0 < values.get("t", 1) <= 1:
            raise UserError("--t", self.t, "choose a time above 0 and up to 1")
        for name in ("checkpoint", "n_iter", "batch_size"):
            if name in values:
                within(self, name, 1)
        if "seed" in values:
            within(self, "seed", 0, 2**62)
        if "delta" in values:
            within(self, "delta", 0)


@dataclass
class ToyDataOptions(ToyOptions):
    """The data set: 60,000 points of the circle of radius 1; the first K of them are a subset."""

    seed: int = 9  # of the points
    subset_seed: int = 42  # of their order: a subset is the first K

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, "subset_seed", 0, 2**62)


@dataclass
class ToyExactOptions(ToyOptions):
    """The analytic energies: of infinitely many points of the circle, and of K of them."""

    sample_size: tuple[int, ...] = ints(1000)  # K; several, as 2,9,1000, are drawn side by side
    beta: float = 20.0  # inverse temperature, 1 / (2 t)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < float("inf"):
            raise UserError("--beta", self.beta, "choose a positive number, as 20")


@dataclass
class ToyTrainOptions(ToyOptions):
    """Training of score networks on K points; those of several K are trained together."""

    sample_size: tuple[int, ...] = ints(1000)  # K; several, as 2,9,1000, are trained together
    n_iter: int = 800_000  # steps; 50,000 are enough (the default of `all`)
    sampling_freq: int = 50_000  # steps between checkpoints, each with a picture of samples
    global_batch_size: int = 128  # noised points of each network in a step
    lr: float = 1e-3  # Adam's initial step size; it falls to 0 as a cosine
    seed: int = 3407  # of the initial weights and of every step
    # the original's training: step size 1e-4 throughout, min(500, K) points a step, t uniform
    as_published: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sampling_freq", "global_batch_size"):
            within(self, name, 1)
        if not 0 < self.lr < float("inf"):
            raise UserError("--lr", self.lr, "choose a positive number")
        fields = type(self).__dataclass_fields__
        for name in ("lr", "global_batch_size"):
            if self.as_published and getattr(self, name) != fields[name].default:
                problem = f"{flag(name)} {getattr(self, name)} beside it"
                raise UserError("--as-published", problem, f"leave out {flag(name)}")


@dataclass
class ToyPlotsOptions(ToyOptions):
    """Energy landscapes of trained networks, their wells, and samples."""

    sample_size: tuple[int, ...] = ints(1000)  # K; several, as 2,9,1000
    t: float = 0.15  # time of the landscape, above 0 up to 1
    # steps of the checkpoint; default 500,000 or, where there is none, the newest
    checkpoint: int | None = None
    samples: int = 2000  # samples to draw
    distance_threshold: float = 1.0  # samples closer than this are in one cluster
    dynamic_threshold: bool = False  # choose the threshold from the samples
    batch_size: int = 10_000  # points at once; changes results by rounding only
    seed: int = 3407  # of the samples

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, "samples", 2, 5000)
        if not 0 < self.distance_threshold < float("inf"):
            remedy = "choose a positive distance, or --dynamic-threshold"
            raise UserError("--distance-threshold", self.distance_threshold, remedy)


@dataclass
class ToyBasinOptions(ToyOptions):
    """Basins of attraction of patterns, spurious states, and points of the circle."""

    sample_size: tuple[int, ...] = ints(1000)  # K; several, as 2,9,1000
    t: float = 0.15  # time of the landscape (of `plots`) whose spurious states are examined
    # steps of the checkpoint; default 500,000 or, where there is none, the newest
    checkpoint: int | None = None
    delta: float = 0.1  # a copy that ends within this distance of its point is recovered
    p_trials: int = 20  # trials: noised copies of a point at each time
    p: float = 0.9  # a point is recovered at a time if this share of its trials is, above 0 up to 1
    points: int = 32  # number of patterns, at most, and of points of the circle
    batch_size: int = 10_000  # points at once; changes results by rounding only
    seed: int = 3407  # of the noise of the trials, with the point, the time and the trial

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("p_trials", "points"):
            within(self, name, 1)
        if not 0 < self.p <= 1:
            raise UserError("--p", self.p, "choose a share above 0 and up to 1")


@dataclass
class ToyAllOptions(ToyOptions):
    """All commands: data, exact energies, training, landscapes, basins, and a figure of all K."""

    sample_size: tuple[int, ...] = ints(2, 9, 1000)  # K
    n_iter: int = 50_000  # training steps
    t: float = 0.05  # time of the landscapes, above 0 up to 1
    delta: float = 0.1  # a copy that ends within this distance of its point is recovered
    seed: int = 3407  # of training, samples and trials
