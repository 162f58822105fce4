"""Generalization over the checkpoints of one training."""

import json
import shutil

import numpy as np
import pytest

from tests.helpers.runs import DIGITS, assert_one_line, ok, run_here, train_options
from tests.helpers.sandbox import GENERALIZATION_TESTS
from utils.evidence.findings import (
    Finding,
)
from utils.stages.anchors.measured import read_sweep, share
from utils.stages.generalization.course import best_frechet, relative_losses, tau_gen, tau_mem
from utils.stages.generalization.files import Stored, load_arrays, load_measured
from utils.stages.train import stage as train


@pytest.fixture(scope="module")
def courses(tmp_path_factory):
    """Trainings on both subsets of 8 digits with a checkpoint at steps 2 and 4."""
    root = tmp_path_factory.mktemp("courses")
    for name in ("first", "second"):
        train.run(train_options(root / name, "--subset", name))
    return {name: root / name / "run" / "checkpoints" for name in ("first", "second")}


def test_one_training_over_its_checkpoints(courses, tmp_path):
    flags = ["--config_path", DIGITS, "--t", "2,10", "--probe-size", 8, "--noises", 2]
    flags += ["--samples", 12, "--steps", 3, "--result-path", tmp_path / "course"]
    flags += ["--checkpoints", courses["first"], "--second-checkpoints", courses["second"]]
    done = ok("run_generalization.py", *flags, run=run_here)
    assert "tau_gen: step" in done.stdout and "tau_mem: " in done.stdout
    frechet = {
        step: load_arrays(tmp_path / "course" / f"{step}.json")["frechet"] for step in (2, 4)
    }
    best = min(frechet, key=lambda step: frechet[step][0])
    assert f"tau_gen by Frechet distance: step {best}" in done.stdout
    value, low, high, _ = frechet[best]
    assert 0 <= low <= value <= high
    for step in (2, 4):
        stored = load_measured(tmp_path / "course" / f"{step}.json")
        assert stored.step == step and set(stored.findings) == set(GENERALIZATION_TESTS)
    assert (tmp_path / "course" / "figures" / "training.png").exists()
    shutil.copytree(tmp_path / "course", tmp_path / "root" / "generalization" / "8")
    assert share(read_sweep(tmp_path / "root"), 8).metric == "l2"  # as utils.anchors reads it
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "course").glob("*.json")}
    ok("run_generalization.py", *flags, run=run_here)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "course").glob("*.json")} == files
    assert_one_line(
        run_here("run_generalization.py", *flags, "--samples", 13), "samples 12 (now 13)"
    )
    assert_one_line(
        run_here("run_generalization.py", *flags, "--exact"), "--checkpoints", "--exact too"
    )
    assert_one_line(
        run_here("run_generalization.py", *flags, "--ckpt-path", tmp_path), "--ckpt-path too"
    )
    assert_one_line(
        run_here("run_generalization.py", *flags, "--t", 20), "--t: found 20", "choose 0 to 19"
    )
    for flag in ("--checkpoints", "--second-checkpoints"):
        moved = run_here("run_generalization.py", *flags, flag, courses["first"].parent)
        assert_one_line(moved, f"{flag}: found ", "give the folder checkpoints/ of a training")
    # what another training has left there cannot be compared, and is left out
    left = tmp_path / "course" / "3.json"
    content = json.loads((tmp_path / "course" / "2.json").read_text()) | {"step": 3}
    content["args"]["generalization"]["probe_size"] = 9
    left.write_text(json.dumps(content))
    assert (
        f"{left}: made with other options"
        in ok("run_generalization.py", *flags, run=run_here).stdout
    )
    same = [*flags, "--second-checkpoints", courses["first"]]
    assert_one_line(run_here("run_generalization.py", *same), "--subset second")
    dry = [*flags, "--result-path", tmp_path / "dry", "--dry-run"]
    assert "step 4: write" in ok("run_generalization.py", *dry, run=run_here).stdout
    assert not (tmp_path / "dry").exists()


def test_tau_gen_is_the_first_step_as_good_as_the_best():
    rng = np.random.default_rng(0)
    noise = rng.uniform(0.9, 1.1, (2, 50))
    losses = {10: 3 * noise, 20: noise * rng.uniform(0.98, 1.02, (2, 50)), 30: noise, 40: 2 * noise}
    assert tau_gen(relative_losses(losses)) == 20
    assert tau_gen(relative_losses({1: noise})) == 1
    # each time counts alike, whatever its unit
    scaled = {step: loss * [[1e-4], [1.0]] for step, loss in losses.items()}
    for step, loss in relative_losses(scaled).items():
        np.testing.assert_allclose(loss, relative_losses(losses)[step])


def test_tau_mem_is_from_where_on_it_stays_memory():
    def at(low):
        result = Finding("ratio", 0.5, low, 0.9, 50, 0.001 if low > 0 else 0.5)
        return Stored({"ratio": result}, {}, {})

    assert tau_mem({10: at(-0.1), 20: at(0.1), 30: at(-0.1), 40: at(0.2), 50: at(0.3)}) == 40
    assert tau_mem({10: at(0.1), 20: at(-0.1)}) is None


def test_the_best_frechet_distance_and_the_steps_that_are_not_worse():
    distances = {10: [9, 8, 10, 1], 20: [5, 4.2, 5.8, 1], 40: [4, 3, 4.5, 1], 80: [6, 5, 7, 1]}
    assert best_frechet({k: np.array(v) for k, v in distances.items()}) == (40, [20, 40])


def test_a_class_conditional_training_is_refused(tmp_path):
    flags = ["--class-conditional", "--dim", 64, "--iterations", 2]
    train.run(train_options(tmp_path, *flags))
    done = run_here(
        *("run_generalization.py", "--checkpoints", tmp_path / "run" / "checkpoints"),
        *("--result-path", tmp_path / "course", "--device", "cpu"),
    )
    assert_one_line(done, "class-conditional", "2.pt")
