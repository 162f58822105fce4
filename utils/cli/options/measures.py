"""Options of the stages that measure models: basins, energies, curvature, tests of generalization.

The comment after a field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.cli.errors import UserError
from utils.cli.options.checks import MOST, all_within, ints, one_of, with_help, within
from utils.cli.options.choices import MACHINE_NAMES, SAMPLER_NAMES, either
from utils.cli.options.metric import MetricOptions
from utils.cli.options.training import ModelOrMachineOptions, ModelSourceOptions


def check_times(options: CurvatureOptions | GeneralizationOptions | MachinesOptions) -> None:
    """Refuse a list --t that is empty, negative or names a time twice."""
    all_within(options, "t", 0)
    if not options.t or len(set(options.t)) != len(options.t):
        raise UserError("--t", options.t, "name one time or more, each once, as in 20,50,200")


@dataclass
class SubjectFolders:
    """Samples to measure, and the folder of the results."""

    result_path: Path | None = None  # folder for the results, K.npz
    sample_path: Path | None = None  # folder of samples: K.npz, K/; default: the training images


@dataclass
class SubjectOptions(ModelOrMachineOptions, SubjectFolders):
    """The samples to measure, each K with its own model."""

    sample_size: int = 64  # samples of each K, the most typical first; negative: all
    use_least: bool = False  # take the least typical samples of a class, not the most typical
    batch_size: int = 256  # rows of a network call; changes results by rounding only
    label: int | None = None  # class to measure, of a class-conditional model
    samples_range: str | None = None  # values of black and white in the samples, as 0,1 or =-1,1
    samples_layout: str | None = None  # axes of an array of samples, as nhwc

    def __post_init__(self) -> None:
        self.check_model_source()
        within(self, "batch_size", 1)
        within(self, "label", 0)
        within(self, "sample_size", -MOST)
        if self.sample_size == 0:
            raise UserError("--sample-size", 0, "choose 1 or more, or a negative number for all")


@dataclass
class CriticalTimesOptions(MetricOptions, SubjectOptions):
    """Basins of attraction: how much noise an image survives."""

    delta: float = 0.1  # recovered up to this distance to the image
    p_trials: int = 10  # n, noised copies of an image at each time
    p: float = 0.9  # share of the trials that must recover, above 0 up to 1
    stride: int = 25  # times 1, 1 + stride, ... are tested
    ddim_steps: int = 20  # DDIM steps from the noised copy to the image, or fewer
    eta: float = 0.0  # 0: deterministic DDIM, 1: ancestral
    search: str = "scan"  # scan (every time) or bisect (fewer; assumes that recovery is monotone)
    trial_times: bool = True  # of scan: follow each trial after the image has failed
    seed: int = 3407  # a copy's noise comes from the seed, the image, the time and the trial

    def __post_init__(self) -> None:
        MetricOptions.__post_init__(self)
        SubjectOptions.__post_init__(self)
        one_of(self, "search", ("scan", "bisect"))
        for name in ("p_trials", "stride", "ddim_steps"):
            within(self, name, 1)
        within(self, "delta", 0)
        within(self, "eta", 0, 1)
        within(self, "seed", 0, 2**62)
        if not 0 < self.p <= 1:
            raise UserError("--p", self.p, "choose a share above 0 and up to 1")


@dataclass
class EnergyOptions(SubjectOptions):
    """Relative energies: how deep a sample lies below a reference image."""

    ref_path: Path | None = None  # reference images, a .npz with `samples`
    ref_range: str | None = None  # values of black and white in the references, as 0,1 or =-1,1
    sample_size: int = 2048  # samples of each K, the most typical first; negative: all
    batch_size: int = 384  # rows of a network call; changes results by rounding only
    t: int = 0  # time at which energies are taken, 0 to T - 1
    path_points: int = 20  # points of the path between sample and reference
    as_published: bool = False  # the original's arithmetic (t = 0, 20 points), for comparison only

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, "t", 0)
        within(self, "path_points", 2, 100_000)
        if self.as_published and (self.t, self.path_points) != (0, 20):
            problem = f"--t {self.t} --path-points {self.path_points}"
            raise UserError("--as-published", problem, "leave out --t and --path-points")


@dataclass
class CurvatureOptions(SubjectOptions):
    """Curvature of the energy -log p_t around samples, and how many dimensions they lie in."""

    t: tuple[int, ...] = ints(50)  # times, as in 20,50,200, each 0 to T - 1
    times_path: Path | None = None  # critical times of the same samples, K.npz, for a figure
    spectrum: str = "auto"  # full, lanczos (both ends of it), auto (full up to 256 dimensions)
    eigenvalues: int = 8  # of lanczos: number of the largest, and of the smallest
    probes: int = 16  # of lanczos: random vectors for the trace
    tolerance: float = 1e-4  # of lanczos: residual of an eigenvalue over the largest one
    normal_points: int | None = None  # scores of the normal-bundle count; default 4 D, 0: none
    seed: int = 3407  # of random vectors and noise

    def __post_init__(self) -> None:
        super().__post_init__()
        check_times(self)
        one_of(self, "spectrum", ("auto", "full", "lanczos"))
        within(self, "eigenvalues", 1, 1000)
        within(self, "probes", 2, 100_000)
        within(self, "normal_points", 0, 10_000_000)
        within(self, "seed", 0, 2**62)
        if not 0 < self.tolerance < 1:
            raise UserError("--tolerance", self.tolerance, "choose a number in 0 to 1, as 1e-4")


@dataclass
class GeneralizationInputs:
    """Files that the tests of generalization read, and the folder that they write."""

    result_path: Path | None = None  # folder for the tests, K.json and K.npz
    synth_path: Path | None = None  # folder of their synthetic sets: K.npz, or K/ with pictures
    samples_range: str | None = None  # values of black and white in the samples, as 0,1 or =-1,1
    samples_layout: str | None = None  # axes of an array of samples, as nhwc
    second_synth_path: Path | None = None  # sets of models trained with --subset second, same seeds
    times_path: Path | None = None  # critical times by class, drawn over the transitions
    identified_path: Path | None = None  # folder of run_classify.py, to draw its shares too
    checkpoints: Path | None = None  # one training's ITER.pt, instead of K: tests over its steps
    second_checkpoints: Path | None = None  # with it: of a training with --subset second


@dataclass
class GeneralizationOptions(MetricOptions, ModelOrMachineOptions, GeneralizationInputs):
    """Tests that tell generalization from memory, for each K or over one training."""

    t: tuple[int, ...] = ints(20, 50, 100, 200, 400, 700)  # times of losses, each 0 to T - 1
    probe_size: int = 256  # most training, and most held-out, images for losses
    noises: int = 4  # noised copies of each image at each time
    held_out_size: int = 1000  # most held-out images for tests of nearest neighbours
    cells: int = 5  # of C_T: regions of image space that are compared separately
    samples: int = 128  # with --checkpoints: images drawn from each
    sampler: str = with_help("ddim", f"with --checkpoints: {either(SAMPLER_NAMES)}")
    steps: int | None = None  # with --checkpoints: network calls an image
    batch_size: int = 256  # rows of a network call; changes results by rounding only
    seed: int = 3407  # of noise, and with --checkpoints of samples

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_model_source()
        check_times(self)
        one_of(self, "sampler", SAMPLER_NAMES)
        for name in ("samples", "steps", "batch_size"):
            within(self, name, 1)
        for name in ("noises", "cells"):
            within(self, name, 1, 1000)
        for name in ("probe_size", "held_out_size"):
            within(self, name, 2)
        within(self, "seed", 0, 2**62)


@dataclass
class MachinesInputs:
    """Files that the comparison with machines reads, and the folder that it writes."""

    result_path: Path | None = None  # folder for the comparison, K.json and K.npz
    synth_path: Path | None = None  # sets drawn from the models, K.npz; default: some are drawn
    samples_range: str | None = None  # values of black and white in the samples, as 0,1 or =-1,1
    samples_layout: str | None = None  # axes of an array of samples, as nhwc
    identified_path: Path | None = None  # folder of run_classify.py: each class of samples apart


@dataclass
class MachinesOptions(ModelSourceOptions, MachinesInputs):
    """Which denoiser in closed form each network resembles, by r^2 of x_0."""

    machines: str = with_help(",".join(MACHINE_NAMES), "machines to compare with, as exact,local")
    t: tuple[int, ...] = ints(20, 50, 100, 200, 400)  # times, each 0 to T - 1
    images: int = 128  # most training images, held-out images and samples
    sides: tuple[int, ...] = ints(1, 3, 5, 7, 11, 15, 23)  # odd patch sides to choose from
    side_images: int = 16  # noised training images that choose the patch sides
    most_patches: int = 100_000  # of equivariant: training patches to compare with, at random
    seeds: int = 16  # samples to draw from each machine and from the network; 0: none
    sampler: str | None = with_help(
        None, "of these samples; default: as --synth-path was drawn, in 100 calls at most, or ddim"
    )
    steps: int | None = None  # network calls a sample; default as --sampler, or 20
    batch_size: int = 256  # rows of a network call; changes results by rounding only
    seed: int = 3407  # of noise, and of samples that are not those of --synth-path

    def __post_init__(self) -> None:
        self.check_model_source()
        check_times(self)
        names = self.names
        if unknown := [name for name in names if name not in MACHINE_NAMES]:
            raise UserError("--machines", unknown[0], f"choose {', '.join(MACHINE_NAMES)}")
        if not names or len(set(names)) != len(names):
            raise UserError("--machines", self.machines, "name one or more, each once")
        if even := [side for side in self.sides if side % 2 == 0 or side < 0]:
            raise UserError("--sides", even[0], "choose odd numbers, as 1,3,7")
        if not self.sides:
            raise UserError("--sides", "nothing", "choose one odd number or more")
        if self.sampler is not None:
            one_of(self, "sampler", SAMPLER_NAMES)
        if (self.sampler is None) != (self.steps is None):
            given, missing = ("--steps", "--sampler") if self.steps else ("--sampler", "--steps")
            raise UserError(given, f"without {missing}", "give both, or neither")
        for name in ("side_images", "most_patches", "batch_size", "steps"):
            within(self, name, 1)
        within(self, "images", 2)
        within(self, "seeds", 0)
        within(self, "seed", 0, 2**62)

    @property
    def names(self) -> tuple[str, ...]:
        """The machines, in the order of MACHINE_NAMES where all are known."""
        asked = [name.strip() for name in self.machines.split(",") if name.strip()]
        return tuple(sorted(asked, key=[*MACHINE_NAMES, *asked].index))
