"""Every option of every stage, as flags and as YAML keys; the comment after a field is its help
(where that lists names it is made from `choices.py`).

Nothing heavy is imported here, so that `--help` answers at once. `__post_init__` only checks:
simple-parsing calls it twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.options.checks import all_within, ints, one_of, with_help, within
from utils.cli.options.choices import METRIC_NAMES, either
from utils.cli.options.measures import (
    CriticalTimesOptions,
    CurvatureOptions,
    EnergyOptions,
    GeneralizationOptions,
)
from utils.cli.options.run import CacheOptions, RunOptions, SliceOptions
from utils.cli.options.samples import ClassifyOptions, DistancesOptions, GenerateOptions
from utils.cli.options.toy import (
    ToyAllOptions,
    ToyBasinOptions,
    ToyDataOptions,
    ToyExactOptions,
    ToyPlotsOptions,
    ToyTrainOptions,
)
from utils.cli.options.training import DataOptions, ModelOptions, TrainOptions


@dataclass
class PipelineOptions:
    """Every stage for every K."""

    root: Path = Path("results")  # folder for everything that the pipeline writes
    sizes: tuple[int, ...] = ints()  # training-set sizes K, as in 2,64,1500
    samples: int = 256  # images to draw and judge for each K
    metric: str = with_help("l2", f"{either(METRIC_NAMES)} (the last three: LPIPS)")
    lpips_weights: Path | None = None  # folder of the backbone files, when they lie elsewhere
    criterion: str = "calibrated"  # calibrated, delta or ratio
    jobs: int = 1  # processes side by side, each with its K or class
    basins: bool = True  # also critical times and energies of each class
    curvature: bool = False  # also the curvature of the energy around each class
    generalization: bool = False  # also tests of generalization; trains second models for them
    models: Path | None = None  # folder of trained models, K.pt, instead of training

    def __post_init__(self) -> None:
        for name in ("samples", "jobs"):
            within(self, name, 1)
        all_within(self, "sizes", 1)
        if len(set(self.sizes)) != len(self.sizes):
            raise UserError("--sizes", self.sizes, "name each K once")
        one_of(self, "metric", METRIC_NAMES)
        one_of(self, "criterion", ("calibrated", "delta", "ratio"))


@dataclass
class ReportOptions:
    """A sweep as one page."""

    root: Path = Path("results")  # folder that run_pipeline.py wrote; may come first
    result_path: Path | None = None  # the page; default report.html in --root


@dataclass
class DescribeOptions:
    """A file to look into."""

    path: Path | None = None  # a .pt or .npz of these stages or of the original; may come first
    grid: Path | None = None  # a picture of its first 64 images, .png


@dataclass
class ToDiffusersOptions:
    """A checkpoint for diffusers."""

    ckpt_path: Path | None = None  # trained model, K.pt
    result_path: Path | None = None  # folder that DDPMPipeline.from_pretrained will load
    dry_run: bool = False  # print what would be written, write nothing
    overwrite: bool = False  # write over another model


def from_yaml_only() -> Any:
    """A section that a stage reads from the YAML file and does not offer as flags."""
    return field(metadata={"flags": False})


@dataclass
class TrainStage:
    data: DataOptions
    train: TrainOptions
    model: ModelOptions
    run: RunOptions


@dataclass
class GenerateStage:
    generate: GenerateOptions
    run: RunOptions
    data: DataOptions = from_yaml_only()
    train: TrainOptions = from_yaml_only()
    model: ModelOptions = from_yaml_only()


@dataclass
class DistancesStage:
    distances: DistancesOptions
    cache: CacheOptions
    slice: SliceOptions
    run: RunOptions


@dataclass
class ClassifyStage:
    classify: ClassifyOptions
    cache: CacheOptions
    slice: SliceOptions
    run: RunOptions


@dataclass
class CriticalTimesStage:
    critical_times: CriticalTimesOptions
    slice: SliceOptions
    run: RunOptions
    data: DataOptions = from_yaml_only()
    train: TrainOptions = from_yaml_only()
    model: ModelOptions = from_yaml_only()


@dataclass
class EnergyStage:
    energy: EnergyOptions
    slice: SliceOptions
    run: RunOptions
    data: DataOptions = from_yaml_only()
    train: TrainOptions = from_yaml_only()
    model: ModelOptions = from_yaml_only()


@dataclass
class CurvatureStage:
    curvature: CurvatureOptions
    slice: SliceOptions
    run: RunOptions
    data: DataOptions = from_yaml_only()
    train: TrainOptions = from_yaml_only()
    model: ModelOptions = from_yaml_only()


@dataclass
class GeneralizationStage:
    generalization: GeneralizationOptions
    cache: CacheOptions
    slice: SliceOptions
    run: RunOptions


@dataclass
class PipelineStage:
    pipeline: PipelineOptions
    data: DataOptions
    train: TrainOptions
    model: ModelOptions
    cache: CacheOptions
    run: RunOptions
    generate: GenerateOptions = from_yaml_only()
    distances: DistancesOptions = from_yaml_only()
    classify: ClassifyOptions = from_yaml_only()
    critical_times: CriticalTimesOptions = from_yaml_only()
    energy: EnergyOptions = from_yaml_only()
    curvature: CurvatureOptions = from_yaml_only()
    generalization: GeneralizationOptions = from_yaml_only()


@dataclass
class DescribeStage:
    describe: DescribeOptions


@dataclass
class ReportStage:
    report: ReportOptions


@dataclass
class ToDiffusersStage:
    to_diffusers: ToDiffusersOptions


@dataclass
class ToyDataStage:
    toy_data: ToyDataOptions
    run: RunOptions


@dataclass
class ToyExactStage:
    toy_exact: ToyExactOptions
    run: RunOptions


@dataclass
class ToyTrainStage:
    toy_train: ToyTrainOptions
    run: RunOptions


@dataclass
class ToyPlotsStage:
    toy_plots: ToyPlotsOptions
    run: RunOptions


@dataclass
class ToyBasinStage:
    toy_basin: ToyBasinOptions
    run: RunOptions


@dataclass
class ToyAllStage:
    toy_all: ToyAllOptions
    run: RunOptions


# The sections of a YAML file. One file serves every stage, so each stage knows all of them.
SECTIONS = {
    "run": RunOptions,
    "data": DataOptions,
    "train": TrainOptions,
    "model": ModelOptions,
    "generate": GenerateOptions,
    "slice": SliceOptions,
    "distances": DistancesOptions,
    "cache": CacheOptions,
    "classify": ClassifyOptions,
    "critical_times": CriticalTimesOptions,
    "energy": EnergyOptions,
    "curvature": CurvatureOptions,
    "generalization": GeneralizationOptions,
    "pipeline": PipelineOptions,
    "report": ReportOptions,
    "describe": DescribeOptions,
    "to_diffusers": ToDiffusersOptions,
    "toy_data": ToyDataOptions,
    "toy_exact": ToyExactOptions,
    "toy_train": ToyTrainOptions,
    "toy_plots": ToyPlotsOptions,
    "toy_basin": ToyBasinOptions,
    "toy_all": ToyAllOptions,
}


def known_only(options_class: type, values: dict) -> dict:
    """The entries of values that options_class has; what another version added is left out."""
    names = options_class.__dataclass_fields__
    return {name: value for name, value in values.items() if name in names}
