"""What a sweep trains and samples: a plan for each K, of its first and second models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.options.checks import required
from utils.cli.options.sections import GenerateStage, PipelineStage, TrainStage
from utils.files.training_log import last_row
from utils.inputs.denoisers import described_by, trained_model
from utils.inputs.model_files import models_in
from utils.stages.generate import stage as generate
from utils.stages.pipeline.settings import (
    generate_stage,
    known_of_models,
    train_stage,
    with_data_of_models,
)
from utils.stages.train import stage as train


@dataclass(frozen=True)
class Plan:
    """The stages that one K goes through alone; args: the resolved options of its model.

    training is None where the model is there already (--models)."""

    k: int
    args: dict[str, Any]
    training: TrainStage | None
    sampling: GenerateStage

    def is_finished(self) -> bool:
        trained = self.training is None or train.is_finished_run(self.training)
        return trained and generate.is_finished_run(self.sampling)

    @property
    def synthetic(self) -> Path:
        """synthetics/K.npz."""
        return Path(self.sampling.generate.synth_path) / f"{self.k}.npz"

    @property
    def last_log_row(self) -> dict[str, Any] | None:
        """The last row of the training's log; None where there is none yet."""
        return last_row(Path(self.training.data.results_path)) if self.training else None


def plan_all(options: PipelineStage) -> list[Plan]:
    """One plan for each K, by K: of --sizes, or of the models in --models, or of both.

    Raises UserError where a model is not there or cannot be read."""
    if options.pipeline.models is None:
        sizes = sorted(required(options.pipeline, "sizes"))
        stages = {k: train_stage(options, k) for k in sizes}
        args = {k: train.training_args(stage) for k, stage in stages.items()}
    else:
        files = models_in(Path(options.pipeline.models), "--models")
        sizes = sorted(options.pipeline.sizes or files)
        missing = [k for k in sizes if k not in files]
        if missing:
            problem, remedy = f"no model of K = {missing[0]}", "leave its K out of --sizes"
            raise UserError(f"--models {options.pipeline.models}", problem, remedy)
        stages = {}
        if any(files[k].is_dir() for k in sizes):
            data = f"{options.data.data_name}, seed {options.train.global_seed}"
            print(f"--models: those of diffusers are taken to be trained on {data}", flush=True)
        known, described = known_of_models(options), described_by(options)
        args = {
            k: trained_model(files[k], options.data.data_path, known, described).args for k in sizes
        }
        options = with_data_of_models(args.values(), options)
    return [Plan(k, args[k], stages.get(k), generate_stage(options, k)) for k in sizes]


def plan_second_models(options: PipelineStage, plans: list[Plan]) -> list[Plan]:
    """With --generalization: for each K, where there are images, a model of the other subset."""
    if not options.pipeline.generalization:
        return []
    if options.pipeline.models is not None:
        print("--models: no second models are trained, so the test of two models is left out")
        return []
    second_plans = []
    for plan in plans:
        stage = train_stage(options, plan.k, second=True)
        if train.has_subset(stage):
            sampling = generate_stage(options, plan.k, second=True)
            second_plans.append(Plan(plan.k, train.training_args(stage), stage, sampling))
    return second_plans
