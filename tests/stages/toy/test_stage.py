"""toy_example.py: exact answers through its own stages, resume, reruns, a line for mistakes."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import norm

from models.circle.exact import PatternMixture
from models.circle.probability_flow import log_density
from tests.helpers.runs import ROOT, assert_one_line, run_here, run_script
from tests.helpers.sandbox import TOY_TRAINING, toy_training, train_toy, without_toy_pictures
from utils.cli.errors import UserError
from utils.cli.options.sections import (
    ToyAllStage,
    ToyBasinOptions,
    ToyBasinStage,
    ToyDataOptions,
    ToyDataStage,
    ToyExactStage,
    ToyPlotsOptions,
    ToyPlotsStage,
    ToyTrainStage,
)
from utils.cli.parse import parse
from utils.files.training_log import read_stats
from utils.stages.toy import analysis as toy_analysis
from utils.stages.toy import stage as toy
from utils.stages.toy.analysis import CIRCLE_POINT, PATTERN, SPURIOUS_STATE, basins_of, landscape_of
from utils.stages.toy.files import (
    Basins,
    ExactEnergies,
    Landscape,
    basin_file,
    checkpoint_file,
    landscape_file,
    load_checkpoint,
    load_points,
    ordered_points,
    save_checkpoint,
)
from utils.stages.toy.stage import run_all, run_basin, run_data, run_exact, run_plots, run_train
from utils.stages.toy.training import Draws, Trainer, recipe, score_errors


def plots(root, *flags):
    given = ["--results_path", str(root), "--samples", "40", *map(str, flags)]
    return parse(ToyPlotsStage, given)


def basin(root, *flags):
    given = ["--results_path", str(root), "--points", "2", "--p_trials", "4", *map(str, flags)]
    return parse(ToyBasinStage, given)


@pytest.fixture
def coarse(monkeypatch):
    """Landscapes on few points and in few steps, for tests that are not of their exactness."""
    monkeypatch.setattr(toy_analysis, "SIDE", 25)
    monkeypatch.setattr(toy_analysis, "log_density", partial(log_density, steps=10))


@pytest.fixture
def plain(coarse):
    """Coarse, and no pictures."""
    with without_toy_pictures():
        yield


def bytes_below(root, *endings):
    return {
        p.relative_to(root): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.suffix in endings and "logs" not in p.parts
    }


# ---- exact scores through the analysis


def exact_landscape(k, t, **options):
    patterns = ordered_points(ToyDataOptions())[:k]
    given = ToyPlotsOptions(t=t, samples=600, dynamic_threshold=True, **options)
    return landscape_of(PatternMixture(patterns).score, patterns, given, {})


def test_two_patterns_are_two_memories():
    found = exact_landscape(2, 0.15)
    assert np.abs(found.energy - found.exact_energy).max() < 1e-3
    assert found.well_kinds.tolist() == [0, 0] and found.centre_kinds.tolist() == [0, 0]
    for places in (found.wells, found.centres):
        nearest = np.linalg.norm(places[:, None] - found.patterns, axis=2)
        assert nearest.min(axis=1).max() < 0.02 and set(nearest.argmin(axis=1)) == {0, 1}
    count = (found.sample_wells == 0).sum()
    assert abs(count - 300) < 4 * math.sqrt(150)


def test_nine_patterns_have_spurious_wells_between_them():
    found = exact_landscape(9, 0.05)
    spurious = found.wells[found.well_kinds == 1]
    away = np.linalg.norm(spurious[:, None] - found.patterns, axis=2).min(axis=1)
    assert len(spurious) >= 2 and away.max() > 0.05
    assert (found.well_kinds == 0).any()
    assert len(found.centres) == len(found.wells)  # the samples find the same states
    exact = PatternMixture(torch.from_numpy(found.patterns))
    for places, energies in (
        (found.wells, found.well_energies),
        (found.centres, found.centre_energies),
    ):
        expected = exact.energy(torch.from_numpy(places), 10.0)
        np.testing.assert_allclose(energies, expected, rtol=0, atol=1e-4)
    assert np.ptp(found.well_energies) > 0.03


def test_a_thousand_patterns_are_a_ring(monkeypatch):
    monkeypatch.setattr(toy_analysis, "SIDE", 21)
    found = exact_landscape(1000, 0.15)
    assert found.well_kinds.tolist() == [2] and found.centre_kinds.tolist() == [2]
    assert np.abs(found.energy - found.exact_energy).max() < 1e-3


def exact_basins(patterns, spurious=(), **options):
    given = ToyBasinOptions(**{"p_trials": 300, "points": 4, **options})
    score = PatternMixture(patterns).score
    return basins_of(score, patterns, np.array(spurious).reshape(-1, 2), given, {})


def test_one_pattern_is_always_recovered():
    found = exact_basins(torch.tensor([[1.0, 0.0]]).double(), p_trials=5)
    first = found.groups == PATTERN
    assert (found.recovery[first] == 1).all() and found.censored[first].all()
    assert (found.critical_time[first] == 1).all()
    # of the four points of the circle one is the pattern; the others never come back
    others = found.groups == CIRCLE_POINT
    assert found.recovery[others].sum(axis=1).tolist() == [32, 0, 0, 0]
    assert (
        found.critical_time[others].tolist() == [1, 0, 0, 0] and not found.radius[others][1:].any()
    )


@pytest.mark.parametrize(("delta", "near"), [(1.2, 0), (1.5, 32)])
def test_a_point_is_recovered_within_delta_of_itself(delta, near):
    """All of the plane falls into the one pattern, sqrt(2) and 2 away from other points."""
    found = exact_basins(torch.tensor([[1.0, 0.0]]).double(), p_trials=5, delta=delta)
    others = found.groups == CIRCLE_POINT
    assert found.recovery[others].sum(axis=1).tolist() == [32, near, 0, near]


def test_two_patterns_share_the_plane_at_its_middle():
    """A copy is recovered on its pattern's side: a share Phi(a / sqrt(t)), a to the middle."""
    a = 0.6
    found = exact_basins(torch.tensor([[a, 0.0], [-a, 0.0]]).double())
    expected = norm.cdf(a / np.sqrt(found.times[:2]))
    spread = np.sqrt(expected * (1 - expected) / 300) + 1e-3
    assert (np.abs(found.recovery[:2] - expected) < 4.5 * spread).all()
    last = a**2 / norm.ppf(0.9) ** 2  # where 9 of 10 come back
    assert (np.abs(found.critical_time[:2] - last) < 0.12).all()
    mean_radius = np.sqrt(found.critical_time[:2] * np.pi / 2)  # of normal noise in the plane
    np.testing.assert_allclose(found.radius[:2], mean_radius, rtol=0.1)


def test_a_spurious_state_lives_at_its_own_time():
    """At t = 0.5 two near patterns have merged: the middle is a state, and comes back to itself."""
    patterns = torch.tensor([[0.2, 1.0], [-0.2, 1.0]]).double()
    found = exact_basins(patterns, [[0.0, 1.0]], t=0.5)
    state = found.groups == SPURIOUS_STATE
    assert found.censored[state].all() and (found.times[state] > 0.5).all()
    # only the noise from 0.5 to 1 is added to it: the noise of 0.5 it has
    np.testing.assert_allclose(found.radius[state], math.sqrt(0.5 * math.pi / 2), rtol=0.1)
    alone = exact_basins(patterns, [[0.0, 1.0]], t=0.5, points=1)
    for name in ("recovery", "critical_time", "radius"):  # whatever stands beside it
        same = alone.groups == SPURIOUS_STATE
        np.testing.assert_array_equal(getattr(alone, name)[same], getattr(found, name)[state])


def test_the_batch_changes_nothing():
    patterns = ordered_points(ToyDataOptions())[:3]
    whole, parts = (exact_basins(patterns, p_trials=6, batch_size=n) for n in (10_000, 7))
    np.testing.assert_array_equal(whole.recovery, parts.recovery)


# ---- training


def test_a_step_draws_what_seed_size_and_step_say():
    patterns = ordered_points(ToyDataOptions())

    def make(sizes, seed=1):
        return Draws([patterns[:k] for k in sizes], 32, seed, False, torch.device("cpu"))

    both, alone = make([2, 9]), make([9])
    for step in (0, 63, 64, 5):  # blocks of steps, and back
        for many, one in zip(both.at(step), alone.at(step)):
            assert torch.equal(many[1], one[0])
    x_0, t, _ = both.at(7)
    assert not torch.equal(t, both.at(8)[1]) and not torch.equal(t, make([2, 9], 2).at(7)[1])
    assert not torch.equal(*both.at(7)[2])  # networks do not share their noise
    assert (torch.cdist(x_0[1].double(), patterns[:9]).amin(dim=1) < 1e-6).all()
    level = t.sqrt().sort(dim=1).values  # one in each of 32 equal parts
    edges = torch.linspace(math.sqrt(1e-3), 1.05, 33)
    assert (level >= edges[:-1] - 1e-6).all() and (level <= edges[1:] + 1e-6).all()


def test_the_published_recipe():
    given = parse(ToyTrainStage, ["--as_published"]).toy_train
    assert [recipe(given, k).batch for k in (2, 9, 1000)] == [2, 9, 500]
    assert recipe(given, 9).lr(0) == recipe(given, 9).lr(799_999) == 1e-4
    ours = recipe(parse(ToyTrainStage, ["--n_iter", "100"]).toy_train, 9)
    assert [round(ours.lr(step) * 1e3, 6) for step in (0, 50, 100)] == [1.0, 0.5, 0.0]


def test_a_step_has_the_step_size_of_the_recipe(tmp_path):
    given = toy_training(tmp_path).toy_train
    trainer = Trainer(tmp_path, given, load_points(tmp_path), [2, 3], torch.device("cpu"))
    for step in range(3):
        trainer.train_step()
        assert trainer.optimizer.param_groups[0]["lr"] == recipe(given, 2).lr(step)
    assert recipe(given, 2).lr(1) < recipe(given, 2).lr(0)


def test_networks_do_not_depend_on_their_companions(tmp_path):
    train_toy(tmp_path / "both", "--sample_size", "2,9")
    train_toy(tmp_path / "alone", "--sample_size", "9")
    many, one = (load_checkpoint(checkpoint_file(tmp_path / n, 9, 60)) for n in ("both", "alone"))
    for name, value in one.model.items():
        torch.testing.assert_close(many.model[name], value, rtol=1e-4, atol=1e-5)


def test_learning_comes_near_the_exact_score(tmp_path):
    """An untrained network errs by about 1 in these units; 1,500 steps take most of that away."""
    flags = ("--n_iter", 1500, "--sampling_freq", 1500, "--global_batch_size", 128)
    train_toy(tmp_path, "--sample_size", 2, *flags)
    (row,) = [row for row in read_stats(tmp_path / "2") if row.get("score_errors")]
    assert max(row["score_errors"][1:]) < 0.05  # from t = 0.05 on
    exact = PatternMixture(load_points(tmp_path).points[:2])
    assert max(score_errors(exact.score, exact)) < 1e-20


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    straight = train_toy(tmp_path / "straight", "--sample_size", "2,9")
    stopped = train_toy(tmp_path / "stopped", "--sample_size", "2,9")
    # as after a kill between two writes: one K is ahead, and a last checkpoint is cut short
    for lost in ((2, 60), (9, 60), (9, 40)):
        checkpoint_file(stopped, *lost).unlink()
    cut = checkpoint_file(stopped, 2, 40)
    cut.write_bytes(cut.read_bytes()[:1000])
    train_toy(stopped, "--sample_size", "2,9")
    assert bytes_below(stopped, ".pt") == bytes_below(straight, ".pt")
    assert [row["step"] for row in read_stats(stopped / "2")] == [20, 40, 60]
    # and no more is done again than must be
    for k in (2, 9):
        checkpoint_file(stopped, k, 60).unlink()
    before = checkpoint_file(stopped, 2, 40).stat().st_mtime_ns
    train_toy(stopped, "--sample_size", "2,9")
    assert checkpoint_file(stopped, 2, 40).stat().st_mtime_ns == before
    assert bytes_below(stopped, ".pt") == bytes_below(straight, ".pt")


def start(*flags):
    command = [sys.executable, str(ROOT / "toy_example.py"), *map(str, flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process):
    until = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path):
    long = ("train", *TOY_TRAINING, "--sample_size", "2,9", "--n_iter", 600, "--sampling_freq", 150)
    flags = (*long, "--results_path", tmp_path / "stopped")
    process = start(*flags)
    wait_for(checkpoint_file(tmp_path / "stopped", 9, 150), process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 75 and "stopped: saved at step" in told.splitlines()[-1]
    for root in ("stopped", "straight"):
        train_toy(tmp_path / root, *long[1:])
    for k in (2, 9):
        last = (
            checkpoint_file(tmp_path / root, k, 600).read_bytes()
            for root in ("stopped", "straight")
        )
        assert len(set(last)) == 1


@pytest.mark.slow
def test_two_trainings_at_once_do_each_k_once(tmp_path, capsys):
    flags = ("--n_iter", 1500, "--sampling_freq", 500)
    own = ("--results_path", tmp_path, "--sample_size", "2,9")
    first = start("train", *TOY_TRAINING, *flags, *own)
    wait_for(tmp_path / "9" / "logs" / "stats.jsonl", first)
    train_toy(tmp_path, *flags, "--sample_size", "9,5")
    assert "waiting for another job" in capsys.readouterr().out
    _, told = first.communicate(timeout=200)
    assert first.returncode == 0, told
    for k in (2, 5, 9):
        assert [row["step"] for row in read_stats(tmp_path / str(k))] == [500, 1000, 1500]
    assert not list(tmp_path.rglob(".*.claim")) and not list(tmp_path.rglob("*.part"))


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(
        UserError, match=r"loss of K = 2 at step 20: found nan; the last checkpoint"
    ):
        train_toy(tmp_path, "--sample_size", "2", "--lr", "1e30")
    assert not list(tmp_path.rglob("*.pt"))


# ---- commands, as they follow one another


def test_every_command_finds_what_the_one_before_wrote(tmp_path, coarse, capsys):
    root = tmp_path
    run_train(toy_training(root, "--sample_size", "1,2"))
    run_plots(plots(root, "--sample_size", "1,2"))
    found = Landscape.load(landscape_file(root, 2, 0.15))
    assert found.energy.shape == (25, 25) and found.samples.shape == (40, 2)
    network = load_checkpoint(checkpoint_file(root, 2, 60))
    assert found.args["toy_plots"]["network"] == network.fingerprint
    run_basin(basin(root, "--sample_size", "1,2"))
    basins = Basins.load(basin_file(root, 2, 0.15))
    spurious = found.wells[found.well_kinds == 1]
    np.testing.assert_array_equal(basins.points[basins.groups == SPURIOUS_STATE], spurious)
    figures = ("circle-t0.15", "training", "2/landscape-t0.15", "2/basins-t0.15", "2/samples/60")
    for file in (root / f"{name}.{ending}" for name in figures for ending in ("png", "pdf")):
        assert file.stat().st_size > 5000
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.suffix in (".npz", ".pt")}
    capsys.readouterr()
    with without_toy_pictures():
        run_train(toy_training(root, "--sample_size", "1,2"))
        run_plots(plots(root, "--sample_size", "1,2"))
        run_basin(basin(root, "--sample_size", "1,2"))
    assert capsys.readouterr().out.count(" is finished") == 6
    assert before == {
        p: p.stat().st_mtime_ns for p in root.rglob("*") if p.suffix in (".npz", ".pt")
    }
    for run, given, words in (
        (run_plots, plots(root, "--sample_size", 2, "--distance_threshold", 2), "threshold 1.0"),
        (run_basin, basin(root, "--sample_size", 2, "--delta", 0.2), r"delta 0\.1 \(now 0\.2\)"),
    ):
        with pytest.raises(UserError, match=words):
            run(given)
    once = bytes_below(root, ".npz")
    with without_toy_pictures():
        run_plots(plots(root, "--sample_size", "1,2", "--overwrite"))
    assert bytes_below(root, ".npz") == once


def test_exact_energies_are_stored_and_drawn(tmp_path):
    given = ["--results_path", str(tmp_path), "--sample_size", "2,9", "--beta", "10"]
    run_exact(parse(ToyExactStage, given))
    found = ExactEnergies.load(tmp_path / "9" / "exact-beta10.npz")
    x = torch.tensor([[found.axis[5], found.axis[70]]])
    expected = PatternMixture(load_points(tmp_path).points[:9]).energy(x, 10.0).item()
    assert found.energy[70, 5] == pytest.approx(expected, abs=1e-12)  # rows are y
    for ending in ("png", "pdf"):
        assert (tmp_path / f"exact-beta10.{ending}").stat().st_size > 5000


def test_data_are_the_seeds_own(tmp_path):
    for root, seed in (("a", 9), ("b", 9), ("c", 10)):
        run_data(parse(ToyDataStage, ["--results_path", str(tmp_path / root), "--seed", str(seed)]))
    a, b, c = ((tmp_path / root / "data.npz") for root in "abc")
    np.testing.assert_array_equal(load_points(a.parent).points, load_points(b.parent).points)
    assert not torch.equal(load_points(a.parent).points, load_points(c.parent).points)
    assert torch.equal(load_points(a.parent).points, ordered_points(ToyDataOptions()))
    for ending in ("png", "pdf"):
        assert (tmp_path / "a" / f"data.{ending}").stat().st_size > 5000


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    root = tmp_path / "new"
    given = ["--results_path", str(root), "--dry-run"]
    run_data(parse(ToyDataStage, given))
    run_exact(parse(ToyExactStage, given))
    run_train(parse(ToyTrainStage, given))
    run_all(parse(ToyAllStage, given))
    assert not root.exists()
    assert f"would write {root}/1000/checkpoints/800000.pt" in capsys.readouterr().out


def test_the_checkpoint_is_the_published_one_or_the_newest(tmp_path, plain):
    root = train_toy(tmp_path, "--sample_size", "2")
    run_plots(plots(root, "--sample_size", "2", "--checkpoint", "20", "--t", "0.3"))
    assert Landscape.load(landscape_file(root, 2, 0.3)).args["toy_plots"]["checkpoint"] == 20
    run_plots(plots(root, "--sample_size", "2"))
    assert Landscape.load(landscape_file(root, 2, 0.15)).args["toy_plots"]["checkpoint"] == 60
    published = load_checkpoint(checkpoint_file(root, 2, 20))
    for published.iterations in (500_000, 600_000):
        save_checkpoint(root, published)
    run_plots(plots(root, "--sample_size", "2", "--t", "0.2"))
    assert Landscape.load(landscape_file(root, 2, 0.2)).args["toy_plots"]["checkpoint"] == 500_000


def test_a_threshold_that_gives_one_cluster_is_told(tmp_path, plain, capsys):
    root = train_toy(tmp_path, "--sample_size", "2")
    run_plots(plots(root, "--sample_size", "2", "--distance_threshold", "50"))
    assert (
        "one cluster: settled samples form a chain with links below 50" in capsys.readouterr().out
    )


@pytest.mark.slow
def test_learned_landscapes_are_wells_and_a_ring(tmp_path, monkeypatch, capsys):
    """The whole story by one command: trained for a tenth of the usual time, on fewer points."""
    monkeypatch.setattr(toy_analysis, "SIDE", 25)
    monkeypatch.setattr(toy, "ToyBasinOptions", partial(ToyBasinOptions, p_trials=6))
    with without_toy_pictures():
        run_all(parse(ToyAllStage, ["--results_path", str(tmp_path), "--n_iter", "4000"]))
    found = {k: Landscape.load(landscape_file(tmp_path, k, 0.05)) for k in (2, 9, 1000)}
    assert found[2].well_kinds.tolist() == [0, 0]
    assert found[1000].well_kinds.tolist() == [2]
    spurious = found[9].wells[found[9].well_kinds == 1]
    away = np.linalg.norm(spurious[:, None] - found[9].patterns, axis=2).min(axis=1)
    assert len(spurious) >= 2 and away.max() > 0.04
    times = {k: Basins.load(basin_file(tmp_path, k, 0.05)) for k in found}
    patterns = {k: b.critical_time[b.groups == PATTERN].mean() for k, b in times.items()}
    assert patterns[2] > 0.2 > patterns[9] > patterns[1000]
    assert "along the ring beta E has a standard deviation of 0." in capsys.readouterr().out


# ---- mistakes


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return train_toy(tmp_path_factory.mktemp("toy"), "--sample_size", "2")


def test_mistakes_end_in_one_line(tree):
    for flags, words in {
        ("plots", "--checkpoint", 77): ("--checkpoint: found 77", "20, 40, 60"),
        ("plots", "--t", 0): ("--t: found 0.0", "up to 1"),
        ("basin", "--t", 1.5): ("--t: found 1.5",),
        ("plots", "--sample_size", 5): ("no checkpoint of K = 5", "train --sample_size 5"),
        ("train", "--sample_size", 60001): ("--sample-size: found 60001", "1 to 60000"),
        ("train", "--sample_size", "2,2"): ("name each K once",),
        ("train", "--n_iter", 70, "--global_batch_size", 16): ("n-iter 60 (now 70)", "--overwrite"),
        ("train", "--as_published", "--lr", 1): ("--as-published", "leave out --lr"),
        ("exact", "--beta", 0): ("--beta: found 0.0",),
        ("data", "--seed", 3): ("seed 9 (now 3)",),
        ("plots", "--precision", "bfloat16"): ("--precision",),
        ("dat",): ("found dat", "data, exact, train"),
    }.items():
        more = () if flags in (("dat",),) else ("--results_path", tree)
        size = (
            () if "--sample_size" in flags or flags[0] in ("data", "dat") else ("--sample_size", 2)
        )
        run = run_script if flags[0] in ("data", "dat") else run_here
        assert_one_line(run("toy_example.py", *flags, *more, *size), *words)


def damaged(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_damaged_points_are_refused(tmp_path):
    good = ordered_points(ToyDataOptions()).numpy()
    args = json.dumps({"toy_data": {}})
    bad = good.copy()
    bad[7] = np.nan
    for points, message in (
        (good[:5], r"points float64 \[5, 2\]"),
        (good.astype(np.float32), "points float32"),
        (2 * good, "not on the circle"),
        (bad, "not on the circle"),
    ):
        np.savez(tmp_path / "data.npz", points=points, args=args)
        with pytest.raises(UserError, match=message):
            load_points(tmp_path)
    np.savez(tmp_path / "data.npz", points=good, args="[]")
    with pytest.raises(UserError, match="no toy_data in args"):
        load_points(tmp_path)
    damaged(tmp_path / "data.npz", b"PK\3\4nothing")
    with pytest.raises(UserError, match=r"no readable \.npz"):
        load_points(tmp_path)


def test_damaged_checkpoints_are_refused(tree, tmp_path):
    good = checkpoint_file(tree, 2, 60).read_bytes()
    content = torch.load(checkpoint_file(tree, 2, 60), weights_only=True)
    path = checkpoint_file(tmp_path, 2, 60)
    damaged(path, good[:-500])
    with pytest.raises(UserError, match=r"no whole \.pt file"):
        load_checkpoint(path)

    def refused(message, **changed):
        torch.save({**content, **changed}, path)
        with pytest.raises(UserError, match=message):
            load_checkpoint(path)

    model = dict(content["model"])
    refused("not finite", model={**model, "time_weight": model["time_weight"] * math.nan})
    refused("weights: found", model={})
    refused(r"biases\.0: found \[3\]", model={**model, "biases.0": torch.zeros(3)})
    refused("K = 2 at step 40", iterations=40)
    refused("no toy_train in args", args={"toy_data": {}})
    refused("no whole checkpoint", opt={"exp_avg": {}, "exp_avg_sq": {}})
    refused("no whole checkpoint", opt=3)
    torch.save({"ema": {}}, path)
    with pytest.raises(UserError, match="no checkpoint of the toy"):
        load_checkpoint(path)
    elsewhere = checkpoint_file(tmp_path, 3, 60)
    damaged(elsewhere, good)
    with pytest.raises(UserError, match="K = 2 at step 60; put it where it belongs"):
        load_checkpoint(elsewhere)


def test_other_points_under_a_network_are_refused(tmp_path, plain):
    root = train_toy(tmp_path, "--sample_size", "2")
    run_data(parse(ToyDataStage, ["--results_path", str(root), "--seed", "1", "--overwrite"]))
    with pytest.raises(
        UserError, match=r"60\.pt: found a file made with toy_data: seed 9 \(now 1\)"
    ):
        run_plots(plots(root, "--sample_size", "2"))


def test_a_landscape_of_another_network_gives_no_spurious_states(tmp_path, plain, capsys):
    root = train_toy(tmp_path, "--sample_size", "2")
    run_basin(basin(root, "--sample_size", "2", "--t", "0.4"))
    assert "no landscape at t = 0.4, so no spurious states" in capsys.readouterr().out
    run_plots(plots(root, "--sample_size", "2", "--checkpoint", "20"))
    with pytest.raises(
        UserError, match="a landscape of the network at step 20; run toy_example.py"
    ):
        run_basin(basin(root, "--sample_size", "2"))
    damaged(landscape_file(root, 2, 0.15), b"")
    with pytest.raises(UserError, match=r"no readable \.npz"):
        run_basin(basin(root, "--sample_size", "2"))
