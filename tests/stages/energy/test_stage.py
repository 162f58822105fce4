"""run_energy.py: every sample against every reference, and what does not fit together."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.exact import ExactDenoiser
from models.schedule import Schedule
from tests.helpers.models import closed_form
from tests.helpers.runs import DIGITS, assert_one_line, run_here, train_options
from tests.helpers.sandbox import run_stage
from utils.data.datasets import load_image_set, to_float
from utils.inputs.checkpoints import load_checkpoint
from utils.stages.energy import stage as stage
from utils.stages.energy.files import load_energies
from utils.stages.train import stage as train


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    train.run(train_options(folder))
    images = to_float(load_image_set("digits", ".", 8, 1).read(range(100, 103))).numpy()
    np.savez(folder / "ref.npz", samples=images)
    return folder


def measure(made, *flags):
    own = ["--ckpt-path", made / "models", "--ref-path", made / "ref.npz", *flags]
    run_stage("energy", *own)


def test_every_sample_against_every_reference(made, tmp_path):
    measure(made, "--result-path", tmp_path / "e", "--batch-size", 50)
    result = load_energies(tmp_path / "e" / "8.npz")
    assert result.potential.shape == result.difference.shape == (3, 8)
    assert result.args["energy"]["path_points"] == 20 and result.args["train"]["train_size"] == 8
    assert (tmp_path / "e" / "figures" / "energies.png").is_file()
    measure(made, "--result-path", tmp_path / "f", "--sample-size", 3, "--batch-size", 50)
    part = load_energies(tmp_path / "f" / "8.npz")
    assert np.array_equal(part.potential, result.potential[:, :3])


def test_the_result_lies_beside_the_models_by_default(made, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "8.pt").write_bytes((made / "models" / "8.pt").read_bytes())
    flags = ["--ckpt-path", tmp_path / "models", "--ref-path", made / "ref.npz"]
    run_stage("energy", *flags)
    assert (tmp_path / "energies" / "8.npz").is_file()


def test_the_exact_model_gives_its_closed_form(made, tmp_path):
    done = run_here(
        *("run_energy.py", "--config_path", DIGITS, "--exact", "--train-size", 5, "--t", 60),
        *("--ref-path", made / "ref.npz", "--result-path", tmp_path, "--path-points", 2000),
    )
    assert done.returncode == 0, done.stderr
    result = load_energies(tmp_path / "5.npz")
    images = load_image_set("digits", ".", 8, 1)
    from utils.data.subsets import permutation

    patterns = to_float(images.read(permutation(len(images), 3407)[:5])).double()
    refs = torch.from_numpy(np.load(made / "ref.npz")["samples"]).double()
    expected = closed_form(ExactDenoiser(patterns, Schedule()), patterns, refs, 60)
    np.testing.assert_allclose(result.potential, expected, rtol=1e-5)
    assert np.abs(result.difference).max() < 1e-4 * np.abs(expected).max()


def test_other_options_and_references_are_noticed(made, tmp_path):
    flags = ["--ckpt-path", made / "models", "--result-path", tmp_path]
    measure(made, "--result-path", tmp_path)
    run = ["run_energy.py", *flags, "--ref-path"]
    done = run_here(*run, made / "ref.npz", "--t", 5)
    assert_one_line(done, "8.npz", "energy: t 0 (now 5)", "--overwrite")
    np.savez(tmp_path / "other.npz", samples=np.full((1, 8, 8), -0.5, np.float32))  # one image
    assert_one_line(run_here(*run, tmp_path / "other.npz"), "8.npz", "energy: references")


def test_an_uncertain_energy_is_reported(made, tmp_path, capsys):
    measure(made, "--result-path", tmp_path, "--path-points", 2)
    assert "--path-points 2: the path integral differs by" in capsys.readouterr().out


def bad(case, tmp_path):
    images = np.full((2, 1, 8, 8), -0.5, np.float32)
    if case == "shape":
        images = np.full((2, 1, 16, 16), -0.5, np.float32)
    elif case == "nan":
        images[1, 0, 0, 0] = np.nan
    elif case == "range":
        images += 200
    elif case == "none":
        images = images[:0]
    path = tmp_path / "bad.npz"
    if case == "key":
        np.savez(path, images=images)
    elif case == "text":
        path.write_text("hello")
    elif case != "missing":
        np.savez(path, samples=images)
    return path


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("shape", ("bad.npz", "[2, 1, 16, 16]", "[N, 1, 8, 8]")),
        ("nan", ("bad.npz", "NaN")),
        ("range", ("bad.npz", "scale them to [-1, 1]")),
        ("none", ("bad.npz", "no samples")),
        ("key", ("bad.npz", "no 'samples'")),
        ("text", ("bad.npz", "no readable .npz")),
        ("missing", ("bad.npz",)),
    ],
)
def test_bad_references(made, tmp_path, case, words):
    paths = ["--ckpt-path", made / "models", "--result-path", tmp_path / "out"]
    done = run_here("run_energy.py", *paths, "--ref-path", bad(case, tmp_path))
    assert_one_line(done, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--t", -1], ("--t", "-1")),
        (["--t", 20], ("--t", "20", "choose 0 to 19")),
        (["--path-points", 1], ("--path-points", "1", "2 to")),
        (["--as-published", "--t", 3], ("--as-published", "--t 3")),
        (["--as-published", "--path-points", 40], ("--as-published", "--path-points 40")),
        (["--sample-size", 0], ("--sample-size", "0")),
    ],
)
def test_mistakes(made, tmp_path, flags, words):
    paths = ["--ckpt-path", made / "models", "--ref-path", made / "ref.npz"]
    done = run_here("run_energy.py", *paths, "--result-path", tmp_path / "out", *flags)
    assert_one_line(done, *words)


def test_a_reference_file_is_required(made):
    done = run_here("run_energy.py", "--ckpt-path", made / "models")
    assert_one_line(done, "--ref-path", "nothing")


def test_as_published_through_the_script(shared, tmp_path):
    """A folder of K.pt and samples, as the original's user has them."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "16.pt").write_bytes((shared / "reference" / "16.pt").read_bytes())
    result = np.load(shared / "reference" / "potential_16.npz")
    args = load_checkpoint(shared / "reference" / "16.pt").args
    np.savez(tmp_path / "ref.npz", samples=result["refs"])
    (tmp_path / "s").mkdir()
    np.savez(tmp_path / "s" / "16.npz", samples=result["samples"], args=json.dumps(args))
    flags = ["--ckpt-path", tmp_path / "models", "--sample-path", tmp_path / "s"]
    flags += ["--ref-path", tmp_path / "ref.npz", "--as-published", "--result-path", tmp_path / "e"]
    run_stage("energy", *flags)
    ours = load_energies(Path(tmp_path / "e" / "16.npz")).potential
    np.testing.assert_allclose(ours, result["potential_reference"], rtol=1e-4, atol=2e-8)
