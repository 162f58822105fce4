"""`--class-conditional`: the network follows the class; without it nothing changes."""

import json

import numpy as np
import pytest
import torch

from tests.helpers.images import noise, save_image
from tests.helpers.runs import DIGITS, SMALL, assert_one_line, complaint, ok, run_here
from utils.data.datasets import labels_of, load_image_set
from utils.data.subsets import class_labels, training_subset
from utils.inputs.checkpoints import load_checkpoint

CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """16 digits learnt by heart with their classes, and 40 samples of all classes in turn."""
    folder = tmp_path_factory.mktemp("classes")

    def run(script, *flags):
        return ok(script, *flags, run=lambda *a: run_here(*a, cwd=folder))

    flags = ["--config_path", DIGITS, *SMALL, "--train-size", 16, "--class-conditional"]
    flags += ["--iterations", 220, "--lr", 2e-3, "--global-batch-size", 32, "--log-every", 220]
    flags += ["--ckpt-every", 220, "--prediction-type", "sample", "--ema-decay", 0.98]
    flags += ["--timesteps", 100, "--beta-schedule", "cosine", "--dim", 64]
    run("train_unet.py", *flags, "--results-path", "r", "--model-path", "m")
    sampling = ["--ckpt-path", "m/16.pt", "--sampler", "ddim", "--steps", 10, *CPU]
    folders = ["--result-path", "g", "--synth-path", "s"]
    run("run_generate.py", *sampling, "--num-samples", 40, *folders)
    return folder, run, sampling


def test_samples_are_of_their_class(trained):
    folder, _, _ = trained
    checkpoint = load_checkpoint(folder / "m" / "16.pt")
    assert checkpoint.args["model"]["num_classes"] == 10
    assert checkpoint.ema["label_embedding.weight"].shape[0] == 10
    labels, _ = class_labels(checkpoint.args)
    images = training_subset(checkpoint.args).images
    with np.load(folder / "s" / "16.npz") as file:
        samples, drawn_for = file["samples"], file["labels"]
    assert drawn_for.tolist() == [(3407 + i) % 10 for i in range(40)]
    known = images.flatten(1).float() / 127.5 - 1
    near = torch.cdist(torch.from_numpy(samples).flatten(1), known).argmin(1)
    learnt = np.isin(drawn_for, labels.numpy())
    right = labels[near].numpy() == drawn_for
    assert learnt.sum() >= 20 and right[learnt].mean() > 0.8


def test_one_class_alone_by_label(trained):
    folder, run, sampling = trained
    with np.load(folder / "s" / "16.npz") as file:
        both = dict(file)
    chosen = both["labels"] == 4
    flags = ["--num-samples", 40, "--result-path", "g4", "--synth-path", "s4", "--label", 4]
    run("run_generate.py", *sampling, *flags)
    with np.load(folder / "s4" / "16.npz") as file:
        assert (file["labels"] == 4).all()
        # the same seeds: those that were of class 4 before are the same images
        np.testing.assert_allclose(file["samples"][chosen], both["samples"][chosen], atol=1e-5)
    flags = ["--ckpt-path", "m", "--sample-path", "s", "--sample-size", -1, "--label", 4, *CPU]
    quick = ["--stride", 40, "--p-trials", 2, "--ddim-steps", 3, "--delta", 2]
    run("run_critical_times.py", *flags, *quick, "--result-path", "t")
    run("run_critical_times.py", *flags[:2], *flags[4:], *quick, "--result-path", "own")
    for results, count in (("t", chosen.sum()), ("own", 1)):  # one training image is a 4
        with np.load(folder / results / "16.npz") as file:
            assert len(file["critical-time"]) == count
    with np.load(folder / "t" / "16.npz") as file:
        assert json.loads(str(file["args"]))["critical_times"]["label"] == 4


def test_what_is_wrong_with_a_label_ends_in_one_line(trained):
    folder, run, sampling = trained

    def failed(script, *flags):
        return run_here(script, *flags, "--result-path", "none", *CPU, cwd=folder)

    few = [*sampling, "--num-samples", 2]
    assert_one_line(failed("run_generate.py", *few, "--label", 10), "--label", "0 to 9")
    flags = ["--ckpt-path", "m", "--sample-path", "s", "--sample-size", 3]
    words = ("--label", "nothing", "0 to 9", "class-conditional")
    assert_one_line(failed("run_critical_times.py", *flags), *words)
    run("run_distances.py", "--synth-path", "s", "--result-path", "d", *CPU)
    judged = ["--dist-path", "d", "--eval-path", "s", "--result-path", "c", "--criterion", "ratio"]
    run("run_classify.py", *judged)
    flags = ["--ckpt-path", "m", "--sample-path", "c/memorized", "--label", 4]
    words = ("memorized", "samples without labels", "synthetics/K.npz")
    assert_one_line(failed("run_critical_times.py", *flags), *words)
    flags = ["--ckpt-path", "m", "--synth-path", "s"]
    assert_one_line(failed("run_generalization.py", *flags), "16.pt", "class-conditional")
    narrow = ["--config_path", DIGITS, *SMALL, "--class-conditional", "--train-size", 4]
    refused = run_here("train_unet.py", *narrow, "--results-path", "none", cwd=folder)
    assert_one_line(refused, "--class-conditional", "32 channels at every level", "--dim 64")
    timeless = [*narrow, "--dim", 64, "--conditional", "False", "--results-path", "none"]
    refused = run_here("train_unet.py", *timeless, cwd=folder)
    assert_one_line(refused, "--class-conditional", "--conditional False", "leave")
    own = [*narrow[:-3], "--num-classes", 10, "--results-path", "none"]
    refused = run_here("train_unet.py", *own, cwd=folder)
    assert_one_line(refused, "--num-classes", "10", "--class-conditional sets it")
    flags = [*narrow[:-2], "--dim", 64, "--sizes", 4]
    sweep = run_here("run_pipeline.py", *flags, "--root", "sweep", cwd=folder)
    assert_one_line(sweep, "--class-conditional", "--nobasins")
    assert not (folder / "none").exists()


def test_a_folder_for_each_class_is_its_label(tmp_path):
    for name in ("dog/1.png", "cat/2.png", "cat/1.png", "ant/x/3.png"):
        save_image(tmp_path / name, noise(8, 8))
    assert labels_of(load_image_set("folder", tmp_path, 8, 1)).tolist() == [0, 1, 1, 2]
    save_image(tmp_path / "alone.png", noise(8, 8))
    with complaint("--class-conditional", "no class labels in folder", "a folder for each class"):
        labels_of(load_image_set("folder", tmp_path, 8, 1))
    with complaint("--class-conditional", "no class labels in photos"):
        labels_of(load_image_set("photos", tmp_path, 32, 3))


def test_labels_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    assert labels_of(load_image_set("digits", "", 8, 1)).tolist() == load_digits().target.tolist()
