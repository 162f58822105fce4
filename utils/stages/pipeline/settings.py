"""The options of each stage of a sweep: those of run_pipeline.py, with folders below one root.

Each function returns what the stage's own script would have parsed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from utils.cli.options.choices import SECOND
from utils.cli.options.metric import file_of
from utils.cli.options.sections import (
    SECTIONS,
    ClassifyStage,
    CriticalTimesStage,
    CurvatureStage,
    DistancesStage,
    EnergyStage,
    GeneralizationStage,
    GenerateStage,
    MachinesStage,
    PipelineStage,
    TrainStage,
    flag_sections,
)
from utils.inputs.model_files import models_in

OUR_RANGE = "-1,1"  # of the samples and references that a sweep writes
REFERENCES = 4  # real images that energies are taken against
Stage = TypeVar("Stage")


def stage_options(kind: type[Stage], options: PipelineStage, **values: Any) -> Stage:
    """The options of a stage: its sections as the pipeline has them, but for `values`, which
    belong to the first of its sections with flags. A section that the pipeline lacks has its
    defaults."""
    names = [field.name for field in fields(kind)]
    sections = {name: getattr(options, name, None) or SECTIONS[name]() for name in names}
    first, *_ = flag_sections(kind)
    sections[first] = replace(sections[first], **values)
    return kind(**sections)


def models_folder(options: PipelineStage) -> Path:
    """The folder of the trained models, K.pt."""
    return Path(options.pipeline.models or Path(options.pipeline.root) / "models")


def model_file(options: PipelineStage, k: int) -> Path:
    """The model of one K."""
    if options.pipeline.models:
        return models_in(models_folder(options), "--models")[k]
    return models_folder(options) / f"{k}.pt"


def known_of_models(options: PipelineStage) -> dict[str, dict[str, Any]]:
    """What the options of the sweep say of the training of models in --models made elsewhere."""
    data, train = options.data, options.train
    return {
        "data": {"data_name": data.data_name, "data_path": str(data.data_path)},
        "train": {"global_seed": train.global_seed, "centercrop": train.centercrop},
    }


def with_data_of_models(args: Iterable[Mapping[str, Any]], options: PipelineStage) -> PipelineStage:
    """The options with the data set and the seed that the models of --models name."""
    one, *_ = args
    train = {name: one["train"][name] for name in ("global_seed", "centercrop")}
    return replace(
        options,
        data=replace(options.data, data_name=one["data"]["data_name"]),
        train=replace(options.train, **train),
    )


def model_values(options: PipelineStage) -> dict[str, Any]:
    """Where the models lie, and what is known of those made elsewhere."""
    values: dict[str, Any] = {"ckpt_path": models_folder(options)}
    if options.pipeline.models:
        values["data_name"] = options.data.data_name
        values["global_seed"] = options.train.global_seed
        values["centercrop"] = options.train.centercrop
    return values


def input_values(options: PipelineStage) -> dict[str, Any]:
    """How inputs are read: samples are the sweep's own, in [-1, 1]. Published models name their
    authors' folder of the data sets: the user's is used instead."""
    values: dict[str, Any] = {"samples_range": OUR_RANGE}
    if options.pipeline.models:
        values["data_path"] = options.data.data_path
    return values


def metric_values(options: PipelineStage, section: str) -> dict[str, Any]:
    """--metric as the flags of a stage."""
    metric, weights = options.pipeline.metric, weights_path(options)
    network = getattr(options, section).network
    values = {"use_lpips": False, "network": network, "lpips_weights": None}
    return {**values, "metric": metric, "metric_weights": weights}


def weights_path(options: PipelineStage) -> Path | None:
    """The file or folder of the metric's network, the same for every stage."""
    asked, own = options.pipeline, options.distances
    given = file_of(asked.metric) or asked.metric_weights or asked.lpips_weights
    return given or own.metric_weights or own.lpips_weights


def class_values(options: PipelineStage, results: str, name: str) -> dict[str, Any]:
    """What is measured of a class, and where its results go."""
    root = Path(options.pipeline.root)
    return {
        **model_values(options),
        "sample_path": root / "identified" / name,
        "result_path": root / results / name,
        **input_values(options),
    }


def repeat(options: PipelineStage, number: int) -> PipelineStage:
    """The options of one of --repeats, 2 or more: other seeds, in a folder of its own.

    Its images are those of the first training, unless --repeat-subsets."""
    root = Path(options.pipeline.root) / "repeats" / str(number)
    seed = options.train.global_seed + number - 1
    split = seed if options.pipeline.repeat_subsets else options.train.global_seed
    return replace(
        options,
        pipeline=replace(options.pipeline, root=root, repeats=1, repeat_subsets=False),
        train=replace(options.train, global_seed=split, run_seed=seed),
    )


def root_of(options: PipelineStage, second: bool) -> Path:
    """The folder of models and sets; those of the second models are apart."""
    root = Path(options.pipeline.root)
    return root / SECOND if second else root


def train_stage(options: PipelineStage, k: int, second: bool = False) -> TrainStage:
    """second: of the model that is trained on the other subset."""
    root, subset = root_of(options, second), options.train.subset
    if second:
        subset = "first" if subset == "second" else "second"
    train = replace(options.train, train_size=k, subset=subset, model_path=root / "models")
    stage = stage_options(TrainStage, options, results_path=root / "training" / str(k))
    return replace(stage, train=train)


def generate_stage(options: PipelineStage, k: int, second: bool = False) -> GenerateStage:
    root = root_of(options, second)
    values = {} if second else model_values(options)
    values["ckpt_path"] = root / "models" / f"{k}.pt" if second else model_file(options, k)
    return stage_options(
        GenerateStage,
        options,
        **values,
        result_path=root / "generations" / str(k),
        synth_path=root / "synthetics",
        num_samples=options.pipeline.samples,
    )


def distances_stage(options: PipelineStage) -> DistancesStage:
    root = Path(options.pipeline.root)
    return stage_options(
        DistancesStage,
        options,
        synth_path=root / "synthetics",
        result_path=root / "dists",
        **metric_values(options, "distances"),
        **input_values(options),
    )


def classify_stage(options: PipelineStage) -> ClassifyStage:
    root = Path(options.pipeline.root)
    return stage_options(
        ClassifyStage,
        options,
        dist_path=root / "dists",
        eval_path=root / "synthetics",
        result_path=root / "identified",
        criterion=options.pipeline.criterion,
        metric_weights=weights_path(options),
        **input_values(options),
    )


def critical_times_stage(
    options: PipelineStage, name: str, rows: list[dict[str, Any]]
) -> CriticalTimesStage:
    """Of one class. An image is recovered within the distance at which it would be memorized,
    where the criterion has such a limit: at every K within the smallest one, so that they
    compare."""
    limits = [row["delta_m"] for row in rows if row["delta_m"]]
    return stage_options(
        CriticalTimesStage,
        options,
        delta=min(limits, default=options.critical_times.delta),
        **class_values(options, "times", name),
        **metric_values(options, "critical_times"),
    )


def energy_stage(options: PipelineStage, name: str) -> EnergyStage:
    references = Path(options.pipeline.root) / "energies" / "reference.npz"
    values = class_values(options, "energies", name)
    return stage_options(EnergyStage, options, ref_path=references, ref_range=OUR_RANGE, **values)


def curvature_stage(options: PipelineStage, name: str) -> CurvatureStage:
    """Of one class, beside its critical times where they are measured."""
    times = Path(options.pipeline.root) / "times" / name
    times_path = times if options.pipeline.basins and times.is_dir() else None
    values = class_values(options, "curvature", name)
    return stage_options(CurvatureStage, options, times_path=times_path, **values)


def generalization_stage(options: PipelineStage, two_models: bool) -> GeneralizationStage:
    """two_models: whether there are sets of models of the second subsets."""
    root = Path(options.pipeline.root)
    return stage_options(
        GeneralizationStage,
        options,
        **model_values(options),
        synth_path=root / "synthetics",
        second_synth_path=root / SECOND / "synthetics" if two_models else None,
        times_path=root / "times" if options.pipeline.basins else None,
        identified_path=root / "identified",
        result_path=root / "generalization",
        **metric_values(options, "generalization"),
        **input_values(options),
    )


def machines_stage(options: PipelineStage) -> MachinesStage:
    root = Path(options.pipeline.root)
    return stage_options(
        MachinesStage,
        options,
        **model_values(options),
        synth_path=root / "synthetics",
        identified_path=root / "identified",
        result_path=root / "machines",
        **input_values(options),
    )
