"""The options of every stage: the original toolkit's commands and configurations."""

import dataclasses
from pathlib import Path

import pytest

from tests.helpers.runs import ROOT, STAGE_OF
from utils.cli.options.checks import flag
from utils.cli.options.sections import (
    ClassifyStage,
    CriticalTimesStage,
    DistancesStage,
    EnergyStage,
    GenerateStage,
    ToyBasinStage,
    ToyDataStage,
    ToyExactStage,
    ToyPlotsStage,
    ToyTrainStage,
    TrainStage,
)
from utils.cli.parse import parse


def test_the_original_training_command():
    command = (
        "--config_path=./configs/cifar10.yaml --centercrop False --train-size 16000 "
        "--results-path cifar10-unet128/16k --dim 128 --log-every 500 --ckpt-every 2500 "
        "--iterations 500000 --num-workers 8"
    )
    options = parse(TrainStage, command.split())
    assert options.train.train_size == 16_000 and options.train.centercrop is False
    assert options.data.results_path == Path("cifar10-unet128/16k")
    assert options.model.dim_mults == (1, 2, 2, 2) and options.model.dropout == 0.1


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        (
            GenerateStage,
            "--result-path generations/1000/ --ckpt-path models/1000.pt --batch-size 512 "
            "--num-files 100",
        ),
        (
            DistancesStage,
            "--result-path dists --synth-path synthetics/ --data-path data/ --use-lpips --k 5 "
            "--network alex --start-idx 0 --final-idx -1",
        ),
        (
            ClassifyStage,
            "--result-path identified/ --dist-path dists/ --eval-path synthetics/ "
            "--data-path data/ --k 5 --delta-s 0.02 --delta-m 0.03",
        ),
        (
            CriticalTimesStage,
            "--result-path times/memorized/ --ckpt-path models/ --data-path data/ --sample-path "
            "identified/memorized --sample-size 2048 --batch-size 256 --use-lpips --network vgg",
        ),
        (
            EnergyStage,
            "--ref-path reference/image.npz --ckpt-path models/ --data-path data/ --sample-path "
            "identified/memorized --sample-size 2048 --batch-size 512",
        ),
        (ToyDataStage, "--seed 9"),
        (ToyExactStage, "--sample_size 1000 --beta 20"),
        (ToyTrainStage, "--sample_size 1000 --n_iter 800000 --sampling_freq 50000"),
        (
            ToyPlotsStage,
            "--sample_size 1000 --t 0.15 --checkpoint 500000 --distance_threshold 1.0 "
            "--batch_size 10000 --dynamic_threshold False",
        ),
        (ToyBasinStage, "--sample_size 1000 --checkpoint 500000 --delta 0.1"),
    ],
)
def test_the_other_original_commands(stage, command):
    options = parse(stage, command.split())
    words = command.split()
    flags = {w.replace("_", "-"): after for w, after in zip(words, [*words[1:], ""])}
    flagged = [f.name for f in dataclasses.fields(stage) if f.metadata.get("flags", True)]
    sections = [vars(getattr(options, name)) for name in flagged if name != "run"]
    result = {flag(n): value for values in sections for n, value in values.items()}
    for name in (word for word in flags if word.startswith("--") and word != "--use-lpips"):
        value, text = result[name], flags[name].rstrip("/")
        text = {"True": True, "False": False}.get(text, text)
        assert value == ((int(text),) if type(value) is tuple else type(value)(text)), name


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "configs").glob("*.yaml")))
@pytest.mark.parametrize("stage", STAGE_OF.values())
def test_every_config_serves_every_stage(name, stage):
    parse(stage, ["--config_path", str(ROOT / "configs" / name)])


@pytest.mark.parametrize(
    ("name", "batch", "iterations", "data_name", "crop", "side", "mults", "dropout"),
    [
        ("cifar10", 128, 500_000, "cifar10", False, 32, (1, 2, 2, 2), 0.1),
        ("church", 64, 800_000, "lsun-church", True, 64, (1, 1, 2, 2, 4, 4), 0.0),
        ("mnist", 128, 400_000, "mnist", False, 28, (1, 2, 2), 0.1),
        ("fmnist", 128, 400_000, "fashionmnist", False, 28, (1, 2, 2), 0.1),
    ],
)
def test_the_original_configurations(
    name, batch, iterations, data_name, crop, side, mults, dropout
):
    options = parse(TrainStage, ["--config_path", str(ROOT / "configs" / f"{name}.yaml")])
    train, model = options.train, options.model
    assert (train.global_batch_size, train.iterations, train.centercrop) == (
        batch,
        iterations,
        crop,
    )
    assert (options.data.data_name, model.image_size, model.dim_mults) == (data_name, side, mults)
    assert (model.dropout, train.lr, train.ema_decay, model.dim) == (dropout, 2e-4, 0.9999, 128)
    assert (train.log_every, train.ckpt_every, train.num_workers) == (500, 2500, 8)
    assert (train.train_size, model.attn_resolutions) == (50_000, (16,))
