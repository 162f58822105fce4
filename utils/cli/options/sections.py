"""The sections of options that each command takes, and all sections of a YAML file.

Nothing heavy is imported here, so that `--help` answers at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, get_args, get_type_hints

from utils.cli.options.measures import (
    CriticalTimesOptions,
    CurvatureOptions,
    EnergyOptions,
    GeneralizationOptions,
    MachinesOptions,
)
from utils.cli.options.pipeline import (
    AnchorsOptions,
    DescribeOptions,
    PipelineOptions,
    ReportOptions,
    ToDiffusersOptions,
)
from utils.cli.options.run import CacheOptions, RunOptions, SliceOptions
from utils.cli.options.samples import (
    AuditOptions,
    ClassifyOptions,
    DistancesOptions,
    GenerateOptions,
)
from utils.cli.options.toy import (
    ToyAllOptions,
    ToyBasinOptions,
    ToyDataOptions,
    ToyExactOptions,
    ToyPlotsOptions,
    ToyTrainOptions,
)
from utils.cli.options.training import DataOptions, ModelOptions, TrainOptions


def from_yaml_only() -> Any:
    """A section that a stage reads from the YAML file and does not offer as flags."""
    return field(metadata={"flags": False})


# The section that a stage is named after comes first: the pipeline fills it in.


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
    data: DataOptions = from_yaml_only()
    train: TrainOptions = from_yaml_only()
    model: ModelOptions = from_yaml_only()


@dataclass
class MachinesStage:
    machines: MachinesOptions
    slice: SliceOptions
    run: RunOptions
    data: DataOptions = from_yaml_only()
    train: TrainOptions = from_yaml_only()
    model: ModelOptions = from_yaml_only()


@dataclass
class AuditStage:
    audit: AuditOptions
    cache: CacheOptions
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
    machines: MachinesOptions = from_yaml_only()


@dataclass
class DescribeStage:
    describe: DescribeOptions


@dataclass
class ReportStage:
    report: ReportOptions


@dataclass
class AnchorsStage:
    anchors: AnchorsOptions


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
    "machines": MachinesOptions,
    "audit": AuditOptions,
    "pipeline": PipelineOptions,
    "report": ReportOptions,
    "anchors": AnchorsOptions,
    "describe": DescribeOptions,
    "to_diffusers": ToDiffusersOptions,
    "toy_data": ToyDataOptions,
    "toy_exact": ToyExactOptions,
    "toy_train": ToyTrainOptions,
    "toy_plots": ToyPlotsOptions,
    "toy_basin": ToyBasinOptions,
    "toy_all": ToyAllOptions,
}


def flag_sections(stage_class: type) -> dict[str, type]:
    """The sections of a stage whose fields are its flags; the others come from YAML alone."""
    fields = dataclasses.fields(stage_class)
    return {f.name: SECTIONS[f.name] for f in fields if f.metadata.get("flags", True)}


def option_type(section: str, name: str) -> tuple[Any, bool]:
    """The type of an option, and whether it may be None: `int | None` gives (int, True)."""
    hint = get_type_hints(SECTIONS[section])[name]
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return (kinds[0], True) if NoneType in get_args(hint) else (hint, False)


def known_only(options_class: type, values: dict) -> dict:
    """The entries of values that options_class has; what another version added is left out."""
    names = options_class.__dataclass_fields__
    return {name: value for name, value in values.items() if name in names}
