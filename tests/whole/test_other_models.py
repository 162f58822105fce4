"""Models made elsewhere in every stage: the same network gives the same numbers in any form."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.helpers.models import random_network
from tests.helpers.runs import ROOT, assert_one_line, ok, run_here, with_options
from utils.cli.options.sections import TrainStage
from utils.inputs.checkpoints import Checkpoint, save_checkpoint
from utils.stages.train.stage import training_args
from utils.to_diffusers import convert

NETWORK = {"image_size": 32, "in_channels": 3, "dim": 32, "dim_mults": (1, 2)}
NETWORK |= {"num_res_blocks": 1, "attn_resolutions": (16,)}
TRAINING = {"train_size": 8, "timesteps": 40, "beta_schedule": "cosine", "prediction_type": "v"}
SAID = ["--data-name", "photos", "--global-seed", 3407]  # what a folder of diffusers does not say
CPU = ["--device", "cpu", "--precision", "float32"]
SUBJECTS = ["--sample-path", "own/s", "--sample-size", 2, "--batch-size", 8, *CPU]
STAGES = {
    "run_critical_times.py": "--stride 13 --p-trials 2 --ddim-steps 2 --delta 20",
    "run_energy.py": "--ref-path own/s/8.npz --ref-range=-1,1 --path-points 4 --t 3",
    "run_curvature.py": "--t 5 --eigenvalues 1 --probes 2 --normal-points 0 --sample-size 1",
}


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """A folder with one network as our checkpoint `own/m/8.pt` and of diffusers `theirs/m/8/`, and
    a function that runs a stage in it."""
    folder = tmp_path_factory.mktemp("forms")

    def run(script, *flags):
        return ok(script, *flags, run=lambda *a: run_here(*a, cwd=folder))

    options = {"data": {"data_name": "photos"}, "train": TRAINING, "model": NETWORK}
    args = training_args(with_options(TrainStage, **options))
    weights = random_network(args["model"]).state_dict()
    save_checkpoint(folder / "own" / "m" / "8.pt", Checkpoint(weights, weights, {}, args, 0))
    convert(folder / "own" / "m" / "8.pt", folder / "theirs" / "m" / "8")
    for name, model, said in (("own", "8.pt", []), ("theirs", "8", SAID)):
        flags = ["--ckpt-path", f"{name}/m/{model}", "--result-path", f"{name}/g", *said]
        flags += ["--synth-path", f"{name}/s", "--num-samples", 12, "--sampler", "ddim"]
        run("run_generate.py", *flags, "--steps", 4, *CPU)
    return folder, run


def arrays_of(path):
    with np.load(path) as file:
        return {key: file[key] for key in file.files if key != "args"}


def assert_close(first, second, atol=1e-5):
    first, second = arrays_of(first), arrays_of(second)
    assert first.keys() == second.keys() and first
    for key, values in first.items():
        if values.dtype.kind == "f":
            scale = max(1.0, np.abs(values[np.isfinite(values)]).max(initial=0))
            np.testing.assert_allclose(second[key], values, rtol=0, atol=atol * scale, err_msg=key)
        else:
            np.testing.assert_array_equal(second[key], values, err_msg=key)


def test_samples_distances_and_classes_of_a_model_of_diffusers(forms):
    folder, run = forms
    assert_close(folder / "own/s/8.npz", folder / "theirs/s/8.npz")
    for name in ("own", "theirs"):
        near = ["--synth-path", f"{name}/s", "--result-path", f"{name}/d", *CPU]
        run("run_distances.py", *near)
        classes = ["--dist-path", f"{name}/d", "--eval-path", f"{name}/s"]
        run("run_classify.py", *classes, "--result-path", f"{name}/c", "--criterion", "ratio", *CPU)
    assert_close(folder / "own/d/8.npz", folder / "theirs/d/8.npz")
    texts = [(folder / name / "c" / "summary.csv").read_text() for name in ("own", "theirs")]
    rows = [next(csv.DictReader(text.splitlines())) for text in texts]
    for key, value in rows[0].items():
        try:
            assert float(rows[1][key]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), key
        except ValueError:
            assert rows[1][key] == value, key


@pytest.mark.parametrize("script", STAGES)
def test_basins_energies_and_curvature_of_a_model_of_diffusers(forms, script):
    folder, run = forms
    for name, said in (("own", []), ("theirs", SAID)):
        flags = ["--ckpt-path", f"{name}/m", "--result-path", f"{name}/{script}", *said]
        run(script, *SUBJECTS, *flags, *STAGES[script].split())
    assert_close(folder / "own" / script / "8.npz", folder / "theirs" / script / "8.npz")


def test_tests_of_generalization_of_a_model_of_diffusers(forms):
    folder, run = forms
    quick = ["--t", "2,10", "--probe-size", 8, "--noises", 1, "--held-out-size", 30]
    for name, said in (("own", []), ("theirs", SAID)):
        flags = ["--ckpt-path", f"{name}/m", "--synth-path", f"{name}/s", *said, *quick, *CPU]
        run("run_generalization.py", *flags, "--result-path", f"{name}/t")
    assert_close(folder / "own/t/8.npz", folder / "theirs/t/8.npz")
    args = [
        json.loads((folder / name / "t/8.json").read_text())["args"] for name in ("own", "theirs")
    ]
    assert args[0]["train"]["beta_schedule"] == args[1]["train"]["beta_schedule"] == "cosine"
    assert args[0]["train"]["prediction_type"] == args[1]["train"]["prediction_type"] == "v"


def test_a_sweep_of_models_of_diffusers(forms):
    folder, run = forms
    data = [*SAID, "--metric", "l2", "--criterion", "ratio", "--samples", 8, "--nobasins"]
    own = folder / "steps.yaml"
    own.write_text("generate: {sampler: ddim, steps: 2}\n")
    flags = ["--config_path", own, "--models", "theirs/m", "--root", "sweep", *data, *CPU]
    done = run("run_pipeline.py", *flags)
    assert "those of diffusers are taken to be trained on photos, seed 3407" in done.stdout
    assert (folder / "sweep" / "report.html").exists()
    assert (folder / "sweep" / "synthetics" / "8.npz").exists()
    page = (folder / "sweep" / "report.html").read_text()
    assert "run_generate.py --ckpt-path theirs/m/8 --data-name photos --global-seed 3407" in page


def test_what_a_folder_of_diffusers_does_not_say_is_asked_for(forms):
    folder, _ = forms
    flags = ["--ckpt-path", "theirs/m/8", "--result-path", "none", "--num-samples", 2, *CPU]

    def said(*more):
        return run_here("run_generate.py", *flags, *more, cwd=folder)

    assert_one_line(said(), "theirs/m/8", "unknown training set", "--data-name", "--train")
    words = ("unknown seed", "it chose 8 of 2744 images", "--global-seed")
    assert_one_line(said("--data-name", "photos"), *words)
    assert not (folder / "none").exists()
    several = run_here("run_generate.py", "--ckpt-path", "own/m", *flags[2:], *SAID, cwd=folder)
    assert_one_line(several, "own/m", "a folder that is no model", "give one model: K.pt")
    own = ["--ckpt-path", "own/m/8.pt", *flags[2:], "--data-name", "mnist"]
    failed = run_here("run_generate.py", *own, cwd=folder)
    assert_one_line(failed, "--data-name", "mnist, beside photos in own/m/8.pt", "leave it out")


def test_the_configuration_names_the_options_of_weights_alone(forms, tmp_path):
    """A bare state dict: the network from --config_path, the training images from flags."""
    folder, run = forms
    content = torch.load(folder / "own/m/8.pt", weights_only=True)
    torch.save(content["ema"], tmp_path / "8.pt")
    save_file(content["ema"], tmp_path / "8.safetensors")
    config = tmp_path / "model.yaml"
    config.write_text(
        "model: {image_size: 32, in_channels: 3, dim: 32, dim_mults: [1, 2], num_res_blocks: 1}\n"
        "train: {timesteps: 40, beta_schedule: cosine, prediction_type: v}\n"
    )
    flags = ["--config_path", config, "--ckpt-path", tmp_path / "8.pt", *SAID]
    flags += ["--result-path", tmp_path / "g", "--synth-path", tmp_path / "s", *CPU]
    done = run("run_generate.py", *flags, "--num-samples", 12, "--sampler", "ddim", "--steps", 4)
    assert "predicts v, cosine schedule, T = 40, as --config_path says" in done.stdout
    assert_close(folder / "own/s/8.npz", tmp_path / "s" / "8.npz", 0)
    again = ["--ckpt-path", tmp_path / "8.safetensors", "--synth-path", tmp_path / "again"]
    again += ["--result-path", tmp_path / "g-again", "--num-samples", 12]
    run("run_generate.py", *flags, *again, "--sampler", "ddim", "--steps", 4)
    assert_close(folder / "own/s/8.npz", tmp_path / "again" / "8.npz", 0)
    flags[flags.index("--result-path") + 1] = tmp_path / "other"
    flags[flags.index("--synth-path") + 1] = tmp_path / "others"
    failed = run_here("run_generate.py", *flags[2:], "--num-samples", 2, cwd=ROOT)
    assert_one_line(failed, "8.pt", "do not fit its options", "--config_path")
