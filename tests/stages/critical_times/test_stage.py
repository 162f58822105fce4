"""run_critical_times.py: the exact model, resume, and what does not fit together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.noise import image_key
from models.schedule import Schedule
from tests.helpers.runs import DIGITS, assert_one_line, run_here, train_options
from tests.helpers.sandbox import run_stage
from utils.cli.errors import Interrupted, UserError
from utils.data.datasets import to_float
from utils.data.subsets import training_subset
from utils.files.provenance import digest
from utils.inputs.samples import load_synthetics, save_synthetics
from utils.stages.critical_times.files import load_times, save_times
from utils.stages.critical_times.follow import noised_copy
from utils.stages.critical_times.overview import mean_radius
from utils.stages.critical_times.pool import RecoveryPool
from utils.stages.train import stage as train


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tiny models of K = 8 and 9 (20 time steps), and samples of K = 8: some real, some noise."""
    folder = tmp_path_factory.mktemp("made")
    for k in (8, 9):
        train.run(train_options(folder / str(k), "--train-size", k, *EPSILON))
        (folder / "models").mkdir(exist_ok=True)
        (folder / str(k) / "models" / f"{k}.pt").rename(folder / "models" / f"{k}.pt")
        shape = (6, 1, 8, 8)
        noise = np.random.default_rng(k).uniform(-1, 1, shape).astype(np.float32)
        args = train_args(folder / str(k), k)
        save_synthetics(folder / "s" / f"{k}.npz", noise, args)
    return folder


EPSILON = ("--prediction-type", "epsilon")  # untrained, such a network recovers some noise


def train_args(folder, k):
    return train.training_args(train_options(folder, "--train-size", k, *EPSILON))


SHORT = ["--stride", 3, "--p-trials", 4, "--ddim-steps", 3, "--batch-size", 8]


def measure(*flags):
    run_stage("critical times", *SHORT, *flags)


def test_the_exact_model_through_the_script(tmp_path):
    """K = 1: the one training image always returns."""
    done = run_here(
        *("run_critical_times.py", "--config_path", DIGITS, "--exact", "--train-size", 1),
        *("--result-path", tmp_path / "t", "--search", "scan", "--stride", 111),
    )
    assert done.returncode == 0, done.stderr
    result = load_times(tmp_path / "t" / "1.npz")
    assert result.censored.all() and (result.time == result.scanned[-1]).all()
    assert result.critical_time.tolist() == [result.scanned[-1]]
    assert result.args["critical_times"]["exact"] and result.args["train"]["train_size"] == 1
    figures = {path.name for path in (tmp_path / "t" / "figures").glob("[!.]*")}
    names = ("critical-times", "recovery", "volumes", "recovered-t-1")
    assert figures == {f"{name}.{ending}" for name in names for ending in ("png", "pdf")}


SEARCHES = {
    "scan": ["--search", "scan"],
    "scan of images": ["--search", "scan", "--trial-times", "False"],
    "bisect": ["--search", "bisect"],
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The exact model of K = 4 digits by each search, the digits, and its schedule.

    At delta = 1 one of four trials may fail: then trials end before and after their image."""
    folder = tmp_path_factory.mktemp("searched")
    flags = ["--config_path", DIGITS, "--exact", "--train-size", 4, "--delta", 1, "--p", 0.75]
    for name, search in SEARCHES.items():
        measure(*flags, *search, "--stride", 50, "--result-path", folder / name)
    found = {name: load_times(folder / name / "4.npz") for name in SEARCHES}
    return found, to_float(training_subset(found["scan"].args).images), Schedule()


def distance_noised(images, schedule, i, trial, t):
    """|x_0 - x_t| by the formula, from the noise of the trial's seed; 0 at t = 0."""
    if t == 0:
        return 0.0
    seed = noised_copy(i, images[i], image_key(images[i]), 3407, t, trial).seed
    eps = torch.randn(images[i].shape, generator=torch.Generator().manual_seed(seed)).double()
    alpha_bar = float(np.prod(1 - np.linspace(1e-4, 0.02, schedule.timesteps)[: t + 1]))
    x_0 = images[i].double()
    return (x_0 - (alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * eps)).norm().item()


@pytest.mark.parametrize("search", SEARCHES)
def test_the_radius_is_the_distance_at_the_critical_time(searched, search):
    found, images, schedule = searched
    result = found[search]
    assert result.critical_time.all() and not result.censored.all()
    for i, trial in np.ndindex(result.radius.shape):
        t = int(result.critical_time[i])
        expected = distance_noised(images, schedule, i, trial, t)
        assert result.radius[i, trial] == pytest.approx(expected, rel=1e-5)


def test_every_search_gives_the_radius_of_the_scan_where_recovery_is_monotone(searched):
    """Where bisection finds the time of the scan; without trial times it is every image."""
    found, _, _ = searched
    scan, image, bisect = (found[name] for name in SEARCHES)
    np.testing.assert_array_equal(image.radius, scan.radius)
    same = bisect.critical_time == scan.critical_time
    assert same.sum() >= 2 and (same | bisect.non_monotone).all()
    np.testing.assert_array_equal(bisect.radius[same], scan.radius[same])
    np.testing.assert_array_equal(mean_radius(bisect)[same], mean_radius(scan)[same])


def test_the_trials_own_reach_has_its_own_key(searched):
    """At each trial's own time where trials are followed; elsewhere no number at all."""
    found, images, schedule = searched
    result = found["scan"]
    assert (result.time < result.critical_time[:, None]).any()
    assert (result.time > result.critical_time[:, None]).any()
    for i, trial in np.ndindex(result.time.shape):
        expected = distance_noised(images, schedule, i, trial, int(result.time[i, trial]))
        assert result.trial_radius[i, trial] == pytest.approx(expected, rel=1e-5)
    for name in ("scan of images", "bisect"):
        assert not found[name].followed and np.isnan(found[name].trial_radius).all()


def test_an_image_that_is_never_recovered_has_radius_0(made, tmp_path):
    """Noise, at a distance that no trial ends within."""
    flags = ["--ckpt-path", made / "models", "--sample-path", made / "s", "--final-idx", 1]
    for search in ("scan", "bisect"):
        path = tmp_path / search
        measure(*flags, "--delta", 1e-6, "--search", search, "--result-path", path)
        result = load_times(path / "8.npz")
        assert not result.critical_time.any() and not result.radius.any()
    assert np.isnan(result.trial_radius).all()


def test_a_file_of_the_former_radius_is_refused(made, tmp_path):
    """Its radius is at the time of each trial; the new key tells the two apart."""
    flags = ["--ckpt-path", made / "models", "--final-idx", 1, "--result-path", tmp_path / "t"]
    measure(*flags)
    path = tmp_path / "t" / "8.npz"
    arrays = dict(np.load(path))
    del arrays["trial-radius"]
    np.savez(path, **arrays)
    words = r"8.npz: found no 'trial-radius' \(.*\); delete it and rerun the stage"
    with pytest.raises(UserError, match=words):
        load_times(path)
    done = run_here("run_critical_times.py", *SHORT, *flags)
    assert_one_line(done, "8.npz", "no 'trial-radius'", "redo it with --overwrite")
    measure(*flags, "--overwrite")
    assert load_times(path).followed


def test_numbers_of_trials_that_were_not_followed_are_refused(searched, tmp_path):
    found, _, _ = searched
    times = replace(found["bisect"], trial_radius=found["bisect"].radius)
    save_times(tmp_path / "4.npz", times)
    with pytest.raises(UserError, match="trial-radius that does not fit time"):
        load_times(tmp_path / "4.npz")


def test_a_subset_and_another_order_give_the_same_answers(made, tmp_path):
    flags = ["--ckpt-path", made / "models", "--delta", 3.0]
    measure(*flags, "--sample-path", made / "s", "--result-path", tmp_path / "a")
    whole = load_times(tmp_path / "a" / "8.npz")
    assert len(set(whole.time.flatten().tolist())) > 2
    turned = load_synthetics(made / "s" / "8.npz")
    for k in (8, 9):
        result = load_synthetics(made / "s" / f"{k}.npz")
        save_synthetics(tmp_path / "s" / f"{k}.npz", result.samples[::-1][1:].copy(), result.args)
    measure(*flags, "--sample-path", tmp_path / "s", "--result-path", tmp_path / "b")
    part = load_times(tmp_path / "b" / "8.npz")
    assert len(turned.samples) == 6 and part.time.shape == (5, 4)
    for key in ("time", "critical_time", "censored", "radius", "trial_radius", "recovery"):
        np.testing.assert_array_equal(getattr(part, key), getattr(whole, key)[::-1][1:])
    assert whole.args["critical_times"]["samples"] == digest(turned.samples)


def test_a_stopped_job_goes_on_and_ends_with_the_same_bytes(made, tmp_path, monkeypatch):
    flags = ["--ckpt-path", made / "models", "--sample-path", made / "s", "--delta", 3.0]
    measure(*flags, "--result-path", tmp_path / "t")
    expected = (tmp_path / "t" / "8.npz").read_bytes()
    (tmp_path / "t" / "8.npz").unlink()
    steps = RecoveryPool.step
    calls = []

    def stopped(pool):
        calls.append(1)
        if len(calls) == 40:
            raise Interrupted("stopped")
        return steps(pool)

    monkeypatch.setattr(RecoveryPool, "step", stopped)
    with pytest.raises(Interrupted):
        measure(*flags, "--result-path", tmp_path / "t", "--final-idx", 1)
    unfinished = tmp_path / "t" / "unfinished" / "8.npz"
    assert 0 < len(np.load(unfinished)["image"]) < 6
    assert not (tmp_path / "t" / "8.npz").exists()
    measure(*flags, "--result-path", tmp_path / "t", "--final-idx", 1)
    assert (tmp_path / "t" / "8.npz").read_bytes() == expected and not unfinished.exists()


def test_a_finished_k_is_skipped_and_one_of_other_options_refused(made, tmp_path, capsys):
    flags = ["--ckpt-path", made / "models", "--result-path", tmp_path / "t", "--final-idx", 1]
    measure(*flags)
    before = (tmp_path / "t" / "8.npz").stat().st_mtime_ns
    measure(*flags, "--batch-size", 5)  # changes nothing but speed
    assert "is finished" in capsys.readouterr().out
    assert (tmp_path / "t" / "8.npz").stat().st_mtime_ns == before
    done = run_here("run_critical_times.py", *SHORT, *flags, "--delta", 0.7)
    assert_one_line(done, "8.npz", "critical_times: delta 0.1 (now 0.7)", "--overwrite")
    measure(*flags, "--delta", 0.7, "--overwrite", "True")
    assert load_times(tmp_path / "t" / "8.npz").delta == 0.7


def test_a_dry_run_writes_nothing(made, tmp_path, capsys):
    measure("--ckpt-path", made / "models", "--result-path", tmp_path / "t", "--dry-run")
    assert "K = 9: write" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_an_empty_class_at_one_k_is_left_out(made, tmp_path, capsys):
    (tmp_path / "memorized").mkdir()
    (tmp_path / "memorized" / "9.npz").write_bytes((made / "s" / "9.npz").read_bytes())
    paths = ["--ckpt-path", made / "models", "--sample-path", tmp_path / "memorized"]
    measure(*paths, "--result-path", tmp_path / "times" / "memorized")
    assert "K = 8: no samples" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "times" / "memorized").glob("*.npz")] == ["9.npz"]
    assert (tmp_path / "times" / "figures" / "critical-times.png").is_file()


def renamed(made, tmp_path, old, new):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / new).write_bytes((made / old).read_bytes())
    return tmp_path / "s"


@pytest.mark.parametrize("stage", ["run_critical_times.py", "run_energy.py"])
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no samples", ("--sample-path", "no K.npz", "an empty class has no files")),
        ("other K", ("--sample-path", "K = 7", "without a model")),
        ("wrong name", ("9.npz", "args of K = 8", "name it 8.npz")),
        ("wrong model name", ("9.pt", "a model of K = 8")),
        ("other shape", ("9.npz", "images [1, 16, 16], a model of [1, 8, 8]")),
        ("no folder", ("--ckpt-path", "no such folder")),
        ("use least", ("--use-least", "without sizes")),
        ("exact and model", ("--exact", "--ckpt-path")),
        ("nan", ("8.npz", "NaN or infinite samples")),
    ],
)
def test_what_does_not_fit_together(made, tmp_path, stage, case, words):
    models, samples, more = made / "models", made / "s", []
    if case == "no samples":
        (tmp_path / "s").mkdir()
        samples = tmp_path / "s"
    elif case == "other K":
        result = load_synthetics(made / "s" / "8.npz")
        result.args["train"]["train_size"] = 7
        save_synthetics(tmp_path / "s" / "7.npz", result.samples, result.args)
        samples = tmp_path / "s"
    elif case == "wrong name":
        samples = renamed(made, tmp_path, "s/8.npz", "9.npz")
    elif case == "wrong model name":
        models = renamed(made, tmp_path, "models/8.pt", "9.pt")
        save_synthetics(tmp_path / "t" / "9.npz", *samples_of(made, 9))
        samples = tmp_path / "t"
    elif case == "other shape":
        images, args = samples_of(made, 9)
        args["model"]["image_size"] = 16
        save_synthetics(tmp_path / "s" / "9.npz", np.full((2, 1, 16, 16), -0.5, np.float32), args)
        samples = tmp_path / "s"
    elif case == "no folder":
        models = tmp_path / "nowhere"
    elif case == "use least":
        more = ["--use-least"]
    elif case == "exact and model":
        more = ["--exact"]
    elif case == "nan":
        images, args = samples_of(made, 8)
        images[2, 0, 3, 3] = np.nan
        save_synthetics(tmp_path / "s" / "8.npz", images, args)
        samples = tmp_path / "s"
    if stage == "run_energy.py":
        np.savez(tmp_path / "ref.npz", samples=np.full((1, 1, 8, 8), -0.5, np.float32))
        more += ["--ref-path", tmp_path / "ref.npz"]
    paths = ["--ckpt-path", models, "--sample-path", samples, "--result-path", tmp_path / "out"]
    assert_one_line(run_here(stage, *paths, *more), *words)
    assert not (tmp_path / "out").exists()


def samples_of(made, k):
    result = load_synthetics(made / "s" / f"{k}.npz")
    return result.samples, result.args


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--p", 0], ("--p", "0.0", "above 0")),
        (["--p", 1.1], ("--p", "1.1")),
        (["--p", "nan"], ("--p", "nan")),
        (["--eta", -0.1], ("--eta", "-0.1", "0 to 1")),
        (["--eta", 2], ("--eta", "2.0")),
        (["--stride", 0], ("--stride", "0", "1 or more")),
        (["--p-trials", 0], ("--p-trials", "0")),
        (["--ddim-steps", 0], ("--ddim-steps", "0")),
        (["--delta", -1], ("--delta", "-1.0")),
        (["--search", "guess"], ("--search", "guess", "scan, bisect")),
        (["--sample-size", 0], ("--sample-size", "0")),
        (["--batch-size", 0], ("--batch-size", "0")),
        (["--use-least"], ("--use-least", "no --sample-path")),
    ],
)
def test_mistakes(flags, words):
    done = run_here("run_critical_times.py", "--result-path", "x", *flags)
    assert_one_line(done, *words)


def test_a_negative_sample_size_takes_all(made, tmp_path):
    measure("--ckpt-path", made / "models", "--result-path", tmp_path / "t", "--sample-size", -1)
    assert len(load_times(tmp_path / "t" / "9.npz").time) == 9
    measure("--ckpt-path", made / "models", "--result-path", tmp_path / "u", "--sample-size", 3)
    assert len(load_times(tmp_path / "u" / "9.npz").time) == 3


def test_bisection_reports_how_often_recovery_returned(tmp_path, capsys):
    flags = ["--config_path", DIGITS, "--exact", "--train-size", 40, "--delta", 1]
    flags += ["--search", "bisect", "--p-trials", 4, "--p", 0.6, "--stride", 20]
    measure(*flags, "--result-path", tmp_path / "t")
    result = load_times(tmp_path / "t" / "40.npz")
    returned = int(result.non_monotone.sum())
    n = len(result.critical_time)
    assert 0 < returned < n and (result.time == -1).all() and not result.followed
    printed = capsys.readouterr().out
    assert f"{returned} of {n} images recovered above a time at which they did not" in printed


def test_what_is_known_of_other_options_is_left_out(made, tmp_path, capsys):
    """A stopped job with another delta must not lend its answers."""
    flags = ["--ckpt-path", made / "models", "--final-idx", 1]
    measure(*flags, "--result-path", tmp_path / "a", "--delta", 3)
    expected = (tmp_path / "a" / "8.npz").read_bytes()
    unfinished = tmp_path / "a" / "unfinished" / "8.npz"
    for content in (made / "s" / "8.npz").read_bytes(), b"no archive":
        (tmp_path / "a" / "8.npz").unlink()
        unfinished.parent.mkdir(exist_ok=True)
        unfinished.write_bytes(content)
        measure(*flags, "--result-path", tmp_path / "a", "--delta", 3)
        assert "left out: " in capsys.readouterr().out
        assert (tmp_path / "a" / "8.npz").read_bytes() == expected and not unfinished.exists()
