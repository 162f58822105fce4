"""Stages in this process, on inputs that a test may damage at the moment it chooses."""

import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tests.helpers.runs import train_options
from utils import describe, to_diffusers
from utils.cli.options import sections as options
from utils.cli.parse import parse
from utils.data.datasets import to_float
from utils.data.subsets import training_subset
from utils.inputs.samples import save_synthetics
from utils.stages.classify import stage as classify
from utils.stages.critical_times import stage as critical_times
from utils.stages.curvature import stage as curvature
from utils.stages.distances import stage as distances
from utils.stages.energy import stage as energy
from utils.stages.generalization import stage as generalization
from utils.stages.generate import stage as generate
from utils.stages.machines import stage as machines
from utils.stages.pipeline import stage as pipeline
from utils.stages.toy import stage as toy
from utils.stages.train import stage as train

RUNS = {
    "train": (train.run, options.TrainStage),
    "generate": (generate.run, options.GenerateStage),
    "distances": (distances.run, options.DistancesStage),
    "classify": (classify.run, options.ClassifyStage),
    "critical times": (critical_times.run, options.CriticalTimesStage),
    "energy": (energy.run, options.EnergyStage),
    "curvature": (curvature.run, options.CurvatureStage),
    "generalization": (generalization.run, options.GeneralizationStage),
    "machines": (machines.run, options.MachinesStage),
    "pipeline": (pipeline.run, options.PipelineStage),
    "describe": (describe.run, options.DescribeStage),
    "to diffusers": (to_diffusers.run, options.ToDiffusersStage),
    "toy data": (toy.run_data, options.ToyDataStage),
    "toy exact": (toy.run_exact, options.ToyExactStage),
    "toy train": (toy.run_train, options.ToyTrainStage),
    "toy plots": (toy.run_plots, options.ToyPlotsStage),
    "toy basin": (toy.run_basin, options.ToyBasinStage),
    "toy all": (toy.run_all, options.ToyAllStage),
}


def run_stage(name, *flags):
    """Run a stage in this process, with the flags of its script; its errors are raised."""
    run, stage = RUNS[name]
    run(parse(stage, [*map(str, flags)]))


# Flags of a short run of each stage that examines models or samples, in the folder of `prepare`.
FLAGS = {
    "generate": "--ckpt-path models/8.pt --result-path out --synth-path out/s --num-samples 4 "
    "--sampler ddim --steps 2 --device cpu",
    "distances": "--synth-path s --result-path out --device cpu",
    "classify": "--dist-path d --eval-path s --result-path out --delta-m 1 --delta-s 3",
    "critical times": "--ckpt-path models --sample-path s --result-path out --sample-size 2 "
    "--stride 25 --p-trials 1 --ddim-steps 2 --batch-size 8 --device cpu",
    "energy": "--ckpt-path models --sample-path s --ref-path ref.npz --result-path out "
    "--sample-size 2 --path-points 4 --batch-size 8 --device cpu",
    "curvature": "--ckpt-path models --sample-path s --result-path out --sample-size 2 --t 5 "
    "--normal-points 70 --batch-size 64 --device cpu",
    "generalization": "--ckpt-path models --synth-path s --result-path out --t 2,10 "
    "--probe-size 8 --noises 2 --cells 2 --held-out-size 60 --device cpu",
    "machines": "--ckpt-path models --synth-path s --result-path out --t 2,10 --images 6 "
    "--sides 1,3 --side-images 3 --most-patches 20 --seeds 2 --device cpu",
}


def work(stage, folder, *more):
    """Run a stage in a folder: paths are relative, since results hold the paths of their inputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stage(stage, *FLAGS[stage].split(), *more)


def arrays(folder):
    """Every result below folder but the pictures: by its name, its bytes."""
    ends = {".npz", ".json", ".csv", ".pt"}
    result = (p for p in sorted(folder.rglob("*")) if p.suffix in ends and p.name[0] != ".")
    return {str(p.relative_to(folder)): p.read_bytes() for p in result}


FIGURES = (
    "save_figure",
    "neighbour_panel",
    "histogram_figure",
    "transition_figure",
    "states_figure",
)


@contextmanager
def without_pictures():
    """No figures of the image stages: they take most of the time, and only show what is stored."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FIGURES:
            patch.setattr(f"utils.stages.classify.stage.{name}", lambda *_, **__: None)
        patch.setattr("utils.stages.critical_times.stage.Basins._draw", lambda *_: None)
        patch.setattr("utils.stages.critical_times.stage.show_times", lambda *_: None)
        patch.setattr("utils.stages.energy.stage.show_energies", lambda *_: None)
        patch.setattr("utils.stages.curvature.stage.show_curvature", lambda *_: None)
        patch.setattr("utils.stages.generalization.stage.show_generalization", lambda *_: None)
        patch.setattr("utils.stages.machines.stage.show_machines", lambda *_: None)
        patch.setattr("utils.stages.train.trainer.Trainer.save_grid", lambda *_: None)
        yield


_made = []


def prepared(factory):
    """`prepare`, once for all modules: the folder, and what it gave."""
    if not _made:
        folder = factory.mktemp("made")
        _made.append((folder, prepare(folder)))
    return _made[0]


def prepare(folder):
    """A model, samples, their distances and a reference; what each stage makes of them."""
    training = train_options(folder, "--iterations", 2, "--timesteps", 60)
    train.run(training)
    args = train.training_args(training)
    real = to_float(training_subset(args).images).numpy()
    noise = np.array([0, 0.1, 0.5, 0.5], np.float32)[:, None, None, None]
    noise = noise * np.random.default_rng(0).standard_normal(real[:4].shape)
    noise[3] = noise[2] + 0.01  # two that are near each other and to no training image
    samples = np.clip(real[[0, 1, 2, 2]] * 0.5 + noise, -1, 1)
    samples[0] = real[0]
    save_synthetics(folder / "s" / "8.npz", samples, args)
    np.savez(folder / "ref.npz", samples=real[5:6])
    work("distances", folder)
    (folder / "out").rename(folder / "d")
    results = {}
    for stage in FLAGS:
        work(stage, folder)
        results[stage] = arrays(folder / "out")
        shutil.rmtree(folder / "out")
    return results


def copy_inputs(source, target):
    """A copy of the inputs that a test may damage."""
    for name in ("models", "s", "d"):
        shutil.copytree(source / name, target / name)
    shutil.copy(source / "ref.npz", target)
    return target


def cut(path, seed=0):
    """The file as an interrupted copy leaves it; its last byte may be all that is missing."""
    data = path.read_bytes()
    length = len(data) - 1 if seed == 0 else int(np.random.default_rng(seed).integers(len(data)))
    path.write_bytes(data[:length])


def replace(path, seed=0):
    """Another sound file of the same kind and form."""
    if path.suffix == ".pt":
        content = torch.load(path, weights_only=True)
        content["ema"] = {name: value * (1.01 + seed) for name, value in content["ema"].items()}
        torch.save(content, path)
    else:
        content = dict(np.load(path))
        key = "data-dists" if "data-dists" in content else "samples"
        content[key] = content[key] * np.float32(0.9 / (1 + seed))
        np.savez(path, **content)


FAULTS = {
    "input replaced": replace,
    "input truncated": cut,
    "input vanished": lambda path, seed: path.unlink(),
}


waiting = []  # actions whose function has not been called yet


def at(monkeypatch, place, action):
    """Run action once, just before the first call of the function at this dotted path.

    A test in which that call never comes fails (`every_action_ran`)."""
    module, _, name = place.rpartition(".")
    real = getattr(__import__(module, fromlist=[name]), name)
    waiting.append(action)

    def then(*args, **options):
        if action in waiting:
            waiting.remove(action)
            action()
        return real(*args, **options)

    monkeypatch.setattr(place, then)


TOY_TRAINING = ("--n_iter", "60", "--sampling_freq", "20", "--global_batch_size", "16")


def toy_training(root, *flags):
    return parse(
        options.ToyTrainStage, ["--results_path", str(root), *TOY_TRAINING, *map(str, flags)]
    )


@contextmanager
def without_toy_pictures():
    """No figures of the toy, which take most of the time of a short run."""
    overviews = ("data", "exact", "training", "landscape", "circle", "basin")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("samples", *overviews):
            module = "training" if name == "samples" else "overview"
            patch.setattr(f"utils.stages.toy.{module}.{name}_figure", lambda *_: None)
            patch.setattr(f"utils.stages.toy.{module}.save_figure", lambda *_: None)
        patch.setattr("utils.stages.toy.training.PICTURE_SAMPLES", 10)
        yield


def train_toy(root, *flags):
    """Train short on the circle, without figures; returns root."""
    with without_toy_pictures():
        toy.run_train(toy_training(root, *flags))
    return root


def bytes_below(root, *endings):
    """Files below root with these endings, by path; logs are left out."""
    return {
        p.relative_to(root): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.suffix in endings and "logs" not in p.parts
    }


GENERALIZATION_TESTS = ["two-models", "memorizer", "denoising-gap", "c-t", "authenticity", "ratio"]
