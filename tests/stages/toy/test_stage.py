"""toy_example.py: its commands one after another, reruns, and one line for each mistake."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch

from models.circle.exact import PatternMixture
from models.circle.probability_flow import log_density
from tests.helpers.runs import assert_one_line, run_here, run_script
from tests.helpers.sandbox import bytes_below, toy_training, train_toy, without_toy_pictures
from utils.cli.errors import UserError
from utils.cli.options.sections import (
    ToyAllStage,
    ToyBasinOptions,
    ToyBasinStage,
    ToyDataOptions,
    ToyDataStage,
    ToyExactStage,
    ToyPlotsStage,
    ToyTrainStage,
)
from utils.cli.parse import parse
from utils.inputs.checkpoints import save_checkpoint
from utils.stages.toy import analysis as toy_analysis
from utils.stages.toy import stage as toy
from utils.stages.toy.analysis import PATTERN, SPURIOUS_STATE
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
)
from utils.stages.toy.stage import run_all, run_basin, run_data, run_exact, run_plots, run_train


def plots(root, *flags):
    arguments = ["--results_path", str(root), "--samples", "40", *map(str, flags)]
    return parse(ToyPlotsStage, arguments)


def basin(root, *flags):
    arguments = ["--results_path", str(root), "--points", "2", "--p_trials", "4", *map(str, flags)]
    return parse(ToyBasinStage, arguments)


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


# Commands, one after another


def test_every_command_finds_what_the_one_before_wrote(tmp_path, coarse, capsys):
    root = tmp_path
    run_train(toy_training(root, "--sample_size", "1,2"))
    run_plots(plots(root, "--sample_size", "1,2"))
    result = Landscape.load(landscape_file(root, 2, 0.15))
    assert result.energy.shape == (25, 25) and result.samples.shape == (40, 2)
    network = load_checkpoint(checkpoint_file(root, 2, 60))
    assert result.args["toy_plots"]["network"] == network.fingerprint
    run_basin(basin(root, "--sample_size", "1,2"))
    basins = Basins.load(basin_file(root, 2, 0.15))
    spurious = result.wells[result.well_kinds == 1]
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
    for run, arguments, words in (
        (run_plots, plots(root, "--sample_size", 2, "--distance_threshold", 2), "threshold 1.0"),
        (run_basin, basin(root, "--sample_size", 2, "--delta", 0.2), r"delta 0\.1 \(now 0\.2\)"),
    ):
        with pytest.raises(UserError, match=words):
            run(arguments)
    once = bytes_below(root, ".npz")
    with without_toy_pictures():
        run_plots(plots(root, "--sample_size", "1,2", "--overwrite"))
    assert bytes_below(root, ".npz") == once


def test_exact_energies_are_stored_and_drawn(tmp_path):
    arguments = ["--results_path", str(tmp_path), "--sample_size", "2,9", "--beta", "10"]
    run_exact(parse(ToyExactStage, arguments))
    result = ExactEnergies.load(tmp_path / "9" / "exact-beta10.npz")
    x = torch.tensor([[result.axis[5], result.axis[70]]])
    expected = PatternMixture(load_points(tmp_path).points[:9]).energy(x, 10.0).item()
    assert result.energy[70, 5] == pytest.approx(expected, abs=1e-12)  # rows are y
    for ending in ("png", "pdf"):
        assert (tmp_path / f"exact-beta10.{ending}").stat().st_size > 5000


def test_data_depend_on_the_seed_alone(tmp_path):
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
    arguments = ["--results_path", str(root), "--dry-run"]
    run_data(parse(ToyDataStage, arguments))
    run_exact(parse(ToyExactStage, arguments))
    run_train(parse(ToyTrainStage, arguments))
    run_all(parse(ToyAllStage, arguments))
    assert not root.exists()
    assert f"K = 1000: write {root}/1000/checkpoints/800000.pt" in capsys.readouterr().out


def test_the_checkpoint_is_the_published_one_or_the_newest(tmp_path, plain):
    root = train_toy(tmp_path, "--sample_size", "2")
    run_plots(plots(root, "--sample_size", "2", "--checkpoint", "20", "--t", "0.3"))
    assert Landscape.load(landscape_file(root, 2, 0.3)).args["toy_plots"]["checkpoint"] == 20
    run_plots(plots(root, "--sample_size", "2"))
    assert Landscape.load(landscape_file(root, 2, 0.15)).args["toy_plots"]["checkpoint"] == 60
    published = load_checkpoint(checkpoint_file(root, 2, 20))
    for published.iterations in (500_000, 600_000):
        save_checkpoint(checkpoint_file(root, 2, published.iterations), published)
    run_plots(plots(root, "--sample_size", "2", "--t", "0.2"))
    assert Landscape.load(landscape_file(root, 2, 0.2)).args["toy_plots"]["checkpoint"] == 500_000


def test_a_threshold_that_gives_one_cluster_is_reported(tmp_path, plain, capsys):
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
    result = {k: Landscape.load(landscape_file(tmp_path, k, 0.05)) for k in (2, 9, 1000)}
    assert result[2].well_kinds.tolist() == [0, 0]
    assert result[1000].well_kinds.tolist() == [2]
    spurious = result[9].wells[result[9].well_kinds == 1]
    away = np.linalg.norm(spurious[:, None] - result[9].patterns, axis=2).min(axis=1)
    assert len(spurious) >= 2 and away.max() > 0.04
    times = {k: Basins.load(basin_file(tmp_path, k, 0.05)) for k in result}
    patterns = {k: b.critical_time[b.groups == PATTERN].mean() for k, b in times.items()}
    assert patterns[2] > 0.2 > patterns[9] > patterns[1000]
    assert "along the ring beta E has a standard deviation of 0." in capsys.readouterr().out


# Mistakes


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
