"""Options of the stages that draw, compare, classify and audit samples.

Nothing heavy is imported here. `__post_init__` only checks: simple-parsing calls it twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.cli.errors import UserError
from utils.cli.options.checks import one_of, parse_memory, parse_share, with_help, within
from utils.cli.options.choices import CRITERIA, CUTOFFS, SAMPLER_NAMES, either
from utils.cli.options.metric import MetricOptions
from utils.cli.options.training import ModelOrMachineOptions, TrainingSetOptions


@dataclass
class GenerateFolders:
    """Folders that samples are written to."""

    result_path: Path | None = None  # folder for the shards
    synth_path: Path | None = None  # folder for the merged set, K.npz


@dataclass
class GenerateOptions(ModelOrMachineOptions, GenerateFolders):
    """Sampling: image i is drawn from seed + i."""

    batch_size: int = 512  # images at once and in a file; changes images by rounding only
    num_files: int = 10_000  # files to write, of --batch-size images
    num_samples: int | None = None  # images to draw, instead of --num-files
    seed: int = 3407  # image i is drawn from seed + i
    sampler: str = with_help(
        "ddpm", ", ".join(f"{n} ({s.description})" for n, s in SAMPLER_NAMES.items())
    )
    steps: int | None = with_help(
        None,
        "network calls an image; default "
        + ", ".join(f"{s.calls or 'all timesteps'} for {n}" for n, s in SAMPLER_NAMES.items()),
    )
    label: int | None = None  # class to draw, of a class-conditional model; default: all in turn
    compile: str = "auto"  # torch.compile: auto (on CUDA), on, off

    def __post_init__(self) -> None:
        self.check_model_source()
        within(self, "label", 0)
        for name in ("batch_size", "num_files", "num_samples", "steps"):
            within(self, name, 1)
        within(self, "seed", 0, 2**62)
        one_of(self, "sampler", SAMPLER_NAMES)
        one_of(self, "compile", ("auto", "on", "off"))


@dataclass
class DistancesInputs:
    """Files that distances are computed from, and the folder that they are written to."""

    result_path: Path | None = None  # folder for the distances, K.npz
    synth_path: Path | None = None  # folder of synthetic sets: K.npz, or K/ with pictures
    samples_range: str | None = None  # values of black and white in the samples, as 0,1 or =-1,1
    samples_layout: str | None = None  # axes of an array of samples, as nhwc


@dataclass
class DistancesOptions(MetricOptions, TrainingSetOptions, DistancesInputs):
    """Nearest training and synthetic neighbours of each sample."""

    k: int = 5  # neighbours to keep
    eval_batch_size: int = 256  # samples embedded at once
    ref_batch_size: int | None = None  # training images embedded at once; default as samples
    memory: str | None = None  # limit of memory, as 4G or 500M; default: half of what is free
    shard: str | None = None  # job i of n (0 .. n - 1): its part of each K; the last one merges

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_share(self.shard, "--shard")
        parse_memory(self.memory)
        self.check_training_set()
        for name in ("k", "eval_batch_size", "ref_batch_size"):
            within(self, name, 1)


@dataclass
class ClassifyOptions:
    """Memorized, spurious or generalized, by distance."""

    result_path: Path | None = None  # folder for the classes and summary.csv
    dist_path: Path | None = None  # folder of distances, K.npz
    eval_path: Path | None = None  # folder of the sets to classify: K.npz, or K/ with pictures
    synth_path: Path | None = None  # folder of their synthetic neighbours; default --eval-path
    data_path: Path | None = None  # folder of the data sets; default: that of the training
    samples_range: str | None = None  # values of black and white in the samples, as 0,1 or =-1,1
    samples_layout: str | None = None  # axes of an array of samples, as nhwc
    criterion: str = with_help(
        "delta", ", ".join(f"{name} ({text})" for name, text in CRITERIA.items())
    )
    delta_m: float = 0.33  # memorized up to this distance to a training image
    delta_s: float = 0.33  # else spurious up to this distance to another sample
    cutoff: str | None = with_help(None, f"of delta: {either(CUTOFFS)} instead of --delta-m")
    false_positive_rate: float = 0.01  # of calibrated, pooled: share of real images misclassified
    pool_size: int | None = None  # of pooled: P, real images as references; default largest K
    k: int = 5  # neighbours to store beside each sample
    top_size: int = 256  # most typical samples to store
    least_size: int = 64  # least typical samples to store
    metric_weights: Path | None = None  # file or folder of the network, if not in the usual caches
    lpips_weights: Path | None = None  # folder of the backbone files, if not in the usual caches
    quality_size: int = 500  # most images of each set for Frechet distance, ...; 0: none
    eval_batch_size: int = 256  # real images embedded at once

    def __post_init__(self) -> None:
        one_of(self, "criterion", CRITERIA)
        within(self, "quality_size", 0)
        if self.cutoff is not None:
            one_of(self, "cutoff", CUTOFFS)
            if self.criterion != "delta":
                remedy = "choose --criterion delta, or leave it out"
                raise UserError("--cutoff", f"{self.cutoff}, with {self.criterion}", remedy)
        within(self, "delta_m", 0)
        within(self, "delta_s", 0)
        for name in ("pool_size", "k", "eval_batch_size"):
            within(self, name, 1)
        within(self, "top_size", 0)
        within(self, "least_size", 0)
        if not 0 < self.false_positive_rate < 1:
            remedy = "choose a share between 0 and 1, as 0.01"
            raise UserError("--false-positive-rate", self.false_positive_rate, remedy)


SOURCES = ("samples", "train", "held_out")
DUPLICATES = ("auto", "near", "exact")


@dataclass
class AuditInputs:
    """Images: a folder, .npy, .npz (also FILE.npz:KEY), .zip, .tar, .pt, .safetensors, .parquet, a
    folder of the package datasets, or a data set by name, as cifar10:train."""

    samples: str | None = None  # the images to judge
    train: str | None = None  # the images that the model was trained on
    held_out: str | None = None  # real images of the same kind that it was not trained on
    result_path: Path | None = None  # folder for the answer
    data_path: Path = Path("../data")  # folder of the data sets that are given by name
    image_size: int | None = None  # side to bring all images to; default: that of the samples
    samples_range: str | None = (
        None  # values of black and white, as 0,1 or =-1,1; default: recognised
    )
    train_range: str | None = None  # the same of --train
    held_out_range: str | None = None  # the same of --held-out
    samples_layout: str | None = None  # axes of an array, as nhwc; default: recognised
    train_layout: str | None = None  # the same of --train
    held_out_layout: str | None = None  # the same of --held-out
    skip_damaged: bool = False  # leave out pictures that cannot be read, with a line


@dataclass
class AuditOptions(MetricOptions, AuditInputs):
    """Which samples are copies of training images, next to what held-out images give."""

    k: int = 5  # nearest training images to list for each sample
    flips: bool = False  # compare with mirrored training images too
    shifts: int = 0  # compare with training images shifted by up to so many pixels too
    # auto, near or exact: near-duplicates among the training images (auto: up to 100,000 images)
    duplicates: str = "auto"
    quality_size: int = 1000  # most images of each set for Frechet distance, ...; 0: none
    fail_above: float | None = None  # exit code 3 where the copied share is surely above this
    seed: int = 3407  # of the cells of C_T
    eval_batch_size: int = 256  # images embedded at once
    memory: str | None = None  # limit of memory, as 4G or 500M; default: half of what is free
    # job i of n (0 .. n - 1): its part of the search; the last one ends the audit
    shard: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_share(self.shard, "--shard")
        parse_memory(self.memory)
        one_of(self, "duplicates", DUPLICATES)
        for name in ("k", "eval_batch_size", "image_size"):
            within(self, name, 1)
        within(self, "shifts", 0, 16)
        within(self, "quality_size", 0)
        within(self, "fail_above", 0, 1)
        within(self, "seed", 0, 2**62)
