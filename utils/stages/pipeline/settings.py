"""What run_pipeline.py asks of each stage: its options, with folders below one root."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.cli.options.choices import SECOND
from utils.cli.options.run import SliceOptions
from utils.cli.options.sections import (
    ClassifyStage,
    CriticalTimesStage,
    CurvatureStage,
    DistancesStage,
    EnergyStage,
    GeneralizationStage,
    GenerateStage,
    PipelineStage,
    TrainStage,
)


def models_folder(options: PipelineStage) -> Path:
    """Where the trained models lie, K.pt."""
    return Path(options.pipeline.models or Path(options.pipeline.root) / "models")


def moved_data(options: PipelineStage) -> dict[str, Path]:
    """Published models name their authors' folder of the data sets: ours is given instead."""
    return {"data_path": options.data.data_path} if options.pipeline.models else {}


def train_stage(options: PipelineStage, k: int, twin: bool = False) -> TrainStage:
    root, subset = models_root(options, twin), options.train.subset
    if twin:
        subset = "first" if subset == "second" else "second"
    return TrainStage(
        data=replace(options.data, results_path=root / "training" / str(k)),
        train=replace(options.train, train_size=k, subset=subset, model_path=root / "models"),
        model=options.model,
        run=options.run,
    )


def models_root(options: PipelineStage, twin: bool) -> Path:
    """Where the models, and their sets, lie; those of the twins on the other subset apart."""
    root = Path(options.pipeline.root)
    return root / SECOND if twin else root


def generate_stage(options: PipelineStage, k: int, twin: bool = False) -> GenerateStage:
    root = models_root(options, twin)
    models = root / "models" if twin else models_folder(options)
    own = replace(
        options.generate,
        ckpt_path=models / f"{k}.pt",
        result_path=root / "generations" / str(k),
        synth_path=root / "synthetics",
        num_samples=options.pipeline.samples,
    )
    return GenerateStage(options.data, options.train, options.model, own, options.run)


def weights_folder(options: PipelineStage) -> Path | None:
    """Where the LPIPS backbones lie: one folder for every stage."""
    return options.pipeline.lpips_weights or options.distances.lpips_weights


def distances_stage(options: PipelineStage) -> DistancesStage:
    root, metric = Path(options.pipeline.root), options.pipeline.metric
    own = replace(
        options.distances,
        synth_path=root / "synthetics",
        result_path=root / "dists",
        use_lpips=metric != "l2",
        network=options.distances.network if metric == "l2" else metric,
        lpips_weights=weights_folder(options),
        **moved_data(options),
    )
    return DistancesStage(own, options.cache, SliceOptions(), options.run)


def classify_stage(options: PipelineStage) -> ClassifyStage:
    root = Path(options.pipeline.root)
    own = replace(
        options.classify,
        dist_path=root / "dists",
        eval_path=root / "synthetics",
        result_path=root / "identified",
        criterion=options.pipeline.criterion,
        lpips_weights=weights_folder(options),
        **moved_data(options),
    )
    return ClassifyStage(own, options.cache, SliceOptions(), options.run)


def critical_times_stage(
    options: PipelineStage, name: str, rows: list[dict[str, Any]]
) -> CriticalTimesStage:
    """Of one class. An image is recovered within the distance at which it would be memorized,
    where the criterion has such a limit."""
    root, metric = Path(options.pipeline.root), options.pipeline.metric
    own = replace(
        options.critical_times,
        ckpt_path=models_folder(options),
        sample_path=root / "identified" / name,
        result_path=root / "times" / name,
        use_lpips=metric != "l2",
        network=options.critical_times.network if metric == "l2" else metric,
        lpips_weights=weights_folder(options),
        delta=rows[0]["delta_m"] or options.critical_times.delta,
        **moved_data(options),
    )
    sections = (options.data, options.train, options.model)
    return CriticalTimesStage(*sections, own, SliceOptions(), options.run)


def energy_stage(options: PipelineStage, name: str) -> EnergyStage:
    root = Path(options.pipeline.root)
    own = replace(
        options.energy,
        ckpt_path=models_folder(options),
        sample_path=root / "identified" / name,
        result_path=root / "energies" / name,
        ref_path=root / "energies" / "reference.npz",
        **moved_data(options),
    )
    sections = (options.data, options.train, options.model)
    return EnergyStage(*sections, own, SliceOptions(), options.run)


def curvature_stage(options: PipelineStage, name: str) -> CurvatureStage:
    """Of one class, beside its critical times where they are measured."""
    root = Path(options.pipeline.root)
    times = root / "times" / name
    own = replace(
        options.curvature,
        ckpt_path=models_folder(options),
        sample_path=root / "identified" / name,
        result_path=root / "curvature" / name,
        times_path=times if options.pipeline.basins and times.is_dir() else None,
        **moved_data(options),
    )
    sections = (options.data, options.train, options.model)
    return CurvatureStage(*sections, own, SliceOptions(), options.run)


def generalization_stage(options: PipelineStage, twins: bool) -> GeneralizationStage:
    """twins: whether there are sets of models of the second subsets."""
    root, metric = Path(options.pipeline.root), options.pipeline.metric
    own = replace(
        options.generalization,
        ckpt_path=models_folder(options),
        synth_path=root / "synthetics",
        second_synth_path=root / SECOND / "synthetics" if twins else None,
        times_path=root / "times" if options.pipeline.basins else None,
        identified_path=root / "identified",
        result_path=root / "generalization",
        use_lpips=metric != "l2",
        network=options.generalization.network if metric == "l2" else metric,
        lpips_weights=weights_folder(options),
        **moved_data(options),
    )
    return GeneralizationStage(own, options.cache, SliceOptions(), options.run)
