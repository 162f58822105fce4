"""Options of the pipeline, and of the tools for its files: report, anchors, describe, ...

Nothing heavy is imported here. `__post_init__` only checks: simple-parsing calls it twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.cli.errors import UserError
from utils.cli.options.checks import all_within, ints, one_of, with_help, within
from utils.cli.options.choices import CRITERIA, either, metric_names
from utils.cli.options.metric import check_metric


@dataclass
class PipelineOptions:
    """Every stage for every K."""

    root: Path = Path("results")  # folder for everything that the pipeline writes
    sizes: tuple[int, ...] = ints()  # training-set sizes K, as in 2,64,1500
    samples: int = 256  # images to draw and classify for each K
    metric: str = with_help("l2", f"{metric_names()} (docs/descriptors.md)")
    metric_weights: Path | None = None  # file or folder of the network, if not in the usual caches
    lpips_weights: Path | None = None  # folder of the backbone files, if not in the usual caches
    criterion: str = with_help("calibrated", either(CRITERIA))
    repeats: int = 1  # trainings of each K, with other seeds of weights and steps
    repeat_subsets: bool = False  # with --repeats: on other training images too
    jobs: int = 1  # parallel processes, each with its K or class
    basins: bool = True  # also critical times and energies of each class
    curvature: bool = False  # also the curvature of the energy around each class
    generalization: bool = False  # also tests of generalization; trains second models for them
    machines: bool = False  # also which denoisers in closed form the models resemble
    models: Path | None = None  # folder of trained models, K.pt, instead of training

    def __post_init__(self) -> None:
        for name in ("samples", "jobs", "repeats"):
            within(self, name, 1)
        all_within(self, "sizes", 1)
        if len(set(self.sizes)) != len(self.sizes):
            raise UserError("--sizes", self.sizes, "name each K once")
        if self.repeats > 1 and self.models is not None:
            raise UserError("--repeats", self.repeats, "leave it out: --models trains nothing")
        if self.repeat_subsets and self.repeats < 2:
            raise UserError("--repeat-subsets", "one training", "choose --repeats 2 or more")
        check_metric(self.metric)
        one_of(self, "criterion", CRITERIA)


@dataclass
class ReportOptions:
    """A page about a sweep."""

    root: Path = Path("results")  # folder that run_pipeline.py wrote; may come first
    result_path: Path | None = None  # the page; default report.html in --root


@dataclass
class AnchorsOptions:
    """A sweep beside published values."""

    root: Path = Path("results")  # folder that run_pipeline.py wrote; may come first
    json: bool = False  # print JSON instead of a table
    values: Path | None = None  # YAML file of published values; default utils/anchors.yaml


@dataclass
class DescribeOptions:
    """A file to describe."""

    path: Path | None = None  # a .pt or .npz of these stages or of the original; may come first
    grid: Path | None = None  # a picture of its first 64 images, .png


@dataclass
class ToDiffusersOptions:
    """A checkpoint for diffusers."""

    ckpt_path: Path | None = None  # trained model, K.pt
    result_path: Path | None = None  # folder that DDPMPipeline.from_pretrained will load
    dry_run: bool = False  # print what would be written, write nothing
    overwrite: bool = False  # replace another model
