"""Options of the audit: samples, training and held-out images from anywhere.

Nothing heavy is imported here. `__post_init__` only checks: simple-parsing calls it twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.cli.options.checks import one_of, parse_memory, parse_share, within
from utils.cli.options.metric import MetricOptions

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
        within(self, "fail_above", 0, 1)
        within(self, "seed", 0, 2**62)
