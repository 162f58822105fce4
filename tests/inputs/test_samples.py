"""Samples made elsewhere: every stage measures them as its own, and asks for what it must know."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.runs import complaint
from tests.helpers.sandbox import copy_inputs, prepared, without_pictures, work
from utils.data.datasets import to_float
from utils.files.arrays import read_npz
from utils.inputs.samples import Known, load_references, load_synthetics, save_synthetics

SAID = ("--data-name", "digits", "--global-seed", "3407")
STAGES = ("distances", "critical times", "energy", "curvature", "generalization")


def pixels(samples):
    """uint8 of samples in [-1, 1]."""
    return np.rint((samples + 1) * 127.5).astype(np.uint8)


def as_array(folder, samples, args):
    np.savez(folder / "8.npz", arr_0=pixels(samples).transpose(0, 2, 3, 1))


def as_floats(folder, samples, args):
    np.savez(folder / "8.npz", images=(pixels(samples) / 255).astype(np.float32))


def as_pictures(folder, samples, args):
    (folder / "8").mkdir()
    for i, image in enumerate(pixels(samples)):
        Image.fromarray(image[0]).save(folder / "8" / f"{i:03d}.png")


def as_partial(folder, samples, args):
    """Options that lack those of the training: our own form otherwise."""
    np.savez(folder / "8.npz", samples=samples, args=json.dumps({"model": {"image_size": 8}}))


FORMS = {"array": as_array, "floats": as_floats, "pictures": as_pictures, "partial": as_partial}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The inputs of all stages; samples on the levels of 8 bits, which pictures keep."""
    made, _ = prepared(tmp_path_factory)
    folder = copy_inputs(made, tmp_path_factory.mktemp("own"))
    arrays = dict(np.load(folder / "s" / "8.npz"))
    levels = to_float(torch.from_numpy(pixels(arrays["samples"]))).numpy()
    save_synthetics(folder / "s" / "8.npz", levels, json.loads(str(arrays["args"])))
    with without_pictures():
        for stage in STAGES:
            work(stage, folder)
            (folder / "out").rename(folder / stage)
    return folder


def in_form(own, target, form):
    """A copy of the inputs whose samples have another form."""
    folder = copy_inputs(own, target)
    shutil.rmtree(folder / "s")
    (folder / "s").mkdir()
    arrays = np.load(own / "s" / "8.npz")
    FORMS[form](folder / "s", arrays["samples"], json.loads(str(arrays["args"])))
    return folder


def numbers(folder):
    """The arrays of the results by name, without args."""
    found = {}
    for path in sorted(folder.rglob("*.npz")):
        if "embeddings" not in path.parts:
            arrays = read_npz(path)
            arrays.pop("args", None)
            found |= {f"{path.name} {key}": x.tobytes() for key, x in arrays.items()}
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stage", STAGES)
def test_samples_made_elsewhere_give_the_same_numbers(own, tmp_path, stage, form):
    """Basins, energies and tests of generalization take from the model what the samples do not
    say; distances have no model, and are told."""
    folder = in_form(own, tmp_path, form)
    with without_pictures():
        work(stage, folder, *(SAID if stage == "distances" else ()))
    assert numbers(folder / "out") == numbers(own / stage)


def test_classes_of_samples_made_elsewhere(own, tmp_path):
    folder = in_form(own, tmp_path, "pictures")
    with without_pictures():
        work("distances", folder, *SAID)
        shutil.rmtree(folder / "d")
        (folder / "out").rename(folder / "d")
        work("classify", folder)
    assert json.loads((folder / "out" / "summary" / "8.json").read_text())["row"]["K"] == 8


def test_one_set_without_a_name_has_the_k_that_is_told(own, tmp_path):
    folder = in_form(own, tmp_path, "pictures")
    (folder / "s").rename(folder / "named")
    (folder / "named" / "8").rename(folder / "s")
    with complaint("--synth-path s", "no K.npz", "--train-size"):
        work("distances", folder, *SAID)
    work("distances", folder, *SAID, "--train-size", "8")
    assert numbers(folder / "out") == numbers(own / "distances")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), ("unknown training set", "--data-name")),
        (SAID[:2], ("unknown seed", "it chose 8 of 1797 images", "--global-seed")),
        (("--data-name", "none"), ("--data-name", "none", "digits")),
    ],
)
def test_what_must_be_known_is_asked_for_by_name(own, tmp_path, flags, words):
    folder = in_form(own, tmp_path, "array")
    with complaint(*words):
        work("distances", folder, *flags)
    assert not (folder / "out").exists() or not list((folder / "out").iterdir())


def test_the_seed_is_not_asked_for_where_all_images_are_training_images(own, tmp_path):
    as_array(tmp_path, np.load(own / "s" / "8.npz")["samples"], {})
    (tmp_path / "8.npz").rename(tmp_path / "1797.npz")
    known = Known({"data": {"data_name": "digits"}})
    assert load_synthetics(tmp_path / "1797.npz", known).k == 1797


def test_what_the_samples_say_cannot_be_told_otherwise(own, tmp_path):
    folder = copy_inputs(own, tmp_path)
    for flags in (("--data-name", "photos"), ("--global-seed", "1"), ("--centercrop",)):
        with complaint(flags[0], "beside", "leave it out"):
            work("distances", folder, *flags)
    work("distances", folder, *SAID)  # the same again is no contradiction


def test_a_set_and_a_folder_of_one_k_are_refused(own, tmp_path):
    folder = copy_inputs(own, tmp_path)
    (folder / "s" / "8").mkdir()
    with complaint("8.npz and a folder 8", "keep one"):
        work("distances", folder)


# Ranges


@pytest.fixture
def in_zero_to_one(own, tmp_path):
    """Our own set as (x + 1) / 2, with its options: the oldest mistake of this field."""
    folder = copy_inputs(own, tmp_path)
    arrays = dict(np.load(folder / "s" / "8.npz"))
    np.savez(folder / "s" / "8.npz", **{**arrays, "samples": (arrays["samples"] + 1) / 2})
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_samples_in_zero_to_one_are_refused_with_the_remedy(own, in_zero_to_one, stage):
    """Taken as [-1, 1] they would be far from all training images: none would be memorized."""
    with complaint("8.npz", "none below 0", "--samples-range=0,1"), without_pictures():
        work(stage, in_zero_to_one)
    with without_pictures():
        work(stage, in_zero_to_one, "--samples-range=0,1")
    expected, result = numbers(own / stage), numbers(in_zero_to_one / "out")
    assert result.keys() == expected.keys()
    if stage == "distances":  # (x + 1) / 2 rounds
        a, b = (np.load(f / "8.npz")["data-dists"] for f in (own / stage, in_zero_to_one / "out"))
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_bright_samples_are_taken_where_that_is_said(own, tmp_path):
    folder = copy_inputs(own, tmp_path)
    arrays = dict(np.load(folder / "s" / "8.npz"))
    np.savez(folder / "s" / "8.npz", **{**arrays, "samples": np.abs(arrays["samples"])})
    work("distances", folder, "--samples-range=-1,1")


def test_references_in_zero_to_one_are_refused_with_the_remedy(own, tmp_path):
    references = np.load(own / "ref.npz")["samples"]
    np.savez(tmp_path / "unit.npz", samples=(references + 1) / 2)
    with complaint("unit.npz", "none below 0", "--ref-range=0,1"):
        load_references(tmp_path / "unit.npz", (1, 8, 8))
    (tmp_path / "inputs").mkdir()
    folder = copy_inputs(own, tmp_path / "inputs")
    shutil.copy(tmp_path / "unit.npz", folder / "ref.npz")
    with without_pictures():
        work("energy", folder, "--ref-range=0,1")
    a, b = (np.load(f / "8.npz")["potential"] for f in (own / "energy", folder / "out"))
    np.testing.assert_allclose(a, b, rtol=1e-4)
