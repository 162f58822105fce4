"""run_distances.py: any division of the work gives the same files; no other run's are merged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.runs import ROOT, assert_one_line, run_here, train_options
from utils.cli.errors import UserError
from utils.cli.options.sections import DistancesStage
from utils.cli.parse import parse
from utils.data.subsets import training_subset
from utils.inputs.samples import save_synthetics
from utils.jobs.shares import Share
from utils.stages.distances.files import load_dists
from utils.stages.distances.parts import part_file, part_of
from utils.stages.distances.stage import cost, run
from utils.stages.train.stage import training_args

N, SIZES = 30, (2, 9, 40)
LPIPS = ("--use-lpips", "--network", "alex")


@pytest.fixture(scope="module")
def synthetics(tmp_path_factory):
    """Sets for three K: noised digits, some of them copies of training images and of each other."""
    folder = tmp_path_factory.mktemp("sets")
    for k in SIZES:
        options = train_options(folder, "--train-size", k)
        args = training_args(options)
        train = training_subset(args).images.float() / 127.5 - 1
        noise = torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(k))
        samples = train[torch.arange(N) % k] + noise * (torch.arange(N) % 3)[:, None, None, None]
        save_synthetics(folder / "s" / f"{k}.npz", samples.clamp(-1, 1).numpy(), args)
    return folder / "s"


def options(synthetics: Path, target: Path, *flags: object) -> DistancesStage:
    own = ["--synth-path", synthetics, "--result-path", target, "--device", "cpu", *flags]
    return parse(DistancesStage, [str(flag) for flag in own])


@pytest.fixture(scope="module")
def whole(synthetics, tmp_path_factory):
    """One run for each metric."""
    folder = tmp_path_factory.mktemp("whole")
    run(options(synthetics, folder / "l2"))
    run(options(synthetics, folder / "lpips", *LPIPS))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("metric, flags", [("l2", ()), ("lpips", LPIPS)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7, 12])
def test_shards_in_any_order_equal_the_whole(synthetics, whole, tmp_path, metric, flags, count):
    order = np.random.default_rng(count).permutation(count)
    for i in order:
        run(options(synthetics, tmp_path / "d", *flags, "--shard", f"{i}/{count}"))
    assert contents(tmp_path / "d") == contents(whole / metric)  # and no parts are left


@pytest.mark.parametrize("flags", [("--no-cache",), ("--memory", "1M"), ("--eval-batch-size", "1")])
def test_cache_memory_and_batches_change_no_byte(synthetics, whole, tmp_path, flags):
    run(options(synthetics, tmp_path / "d", *LPIPS, *flags))
    assert contents(tmp_path / "d") == contents(whole / "lpips")
    assert (tmp_path / "embeddings").exists() is (flags != ("--no-cache",))


def test_bfloat16_products_change_no_byte(synthetics, whole, tmp_path):
    for metric, flags in (("l2", ()), ("lpips", LPIPS)):
        run(options(synthetics, tmp_path / metric, *flags, "--precision", "bfloat16"))
        assert contents(tmp_path / metric) == contents(whole / metric)


def test_equals_float64_brute_force(synthetics, whole):
    for k in SIZES:
        result = load_dists(whole / "l2" / f"{k}.npz")
        samples = np.load(synthetics / f"{k}.npz")["samples"].reshape(N, -1).astype(float)
        train = training_subset(result.args).images.double().flatten(1).numpy() / 127.5 - 1
        for kind, other in (("data", train), ("synth", samples)):
            dists = np.linalg.norm(samples[:, None] - other, axis=2)
            if kind == "synth":
                np.fill_diagonal(dists, np.inf)
            columns = min(5, k if kind == "data" else N - 1)
            expected = np.sort(dists, axis=1)[:, :columns]
            np.testing.assert_allclose(
                result.arrays[f"{kind}-dists"], expected, rtol=1e-6, atol=1e-6
            )
            chosen = np.take_along_axis(dists, result.arrays[f"{kind}-indices"], axis=1)
            np.testing.assert_allclose(chosen, expected, rtol=1e-6, atol=1e-6)


def test_nested_sets_embed_each_image_once(synthetics, tmp_path, monkeypatch):
    from utils.metrics.cache import EmbeddingCache

    seen = []
    init = EmbeddingCache.__init__

    def remember(self, *arguments):
        init(self, *arguments)
        seen.append(self)

    monkeypatch.setattr(EmbeddingCache, "__init__", remember)
    run(options(synthetics, tmp_path / "d", *LPIPS))
    distinct = {
        image.tobytes() for k in SIZES for image in np.load(synthetics / f"{k}.npz")["samples"]
    }
    assert seen[0].embedded == len(distinct) + max(SIZES)
    run(options(synthetics, tmp_path / "again", *LPIPS))
    assert [cache.embedded for cache in seen] == [len(distinct) + max(SIZES), 0]


def test_parts_of_a_sweep_equal_the_whole(synthetics, whole, tmp_path):
    for i in range(2):
        run(options(synthetics, tmp_path / "d", "--part", f"{i}/2"))
    assert contents(tmp_path / "d") == contents(whole / "l2")


def test_the_cost_of_a_set_is_read_from_its_header(synthetics, tmp_path):
    assert cost(40, synthetics / "40.npz") == N * (40 + N)
    (tmp_path / "40.npz").write_bytes(b"nothing")  # refused later, by name
    assert cost(40, tmp_path / "40.npz") == 41


@pytest.mark.parametrize("rows, k_train", [(30, 40), (1, 2), (10_000, 50_000), (7, 1)])
@pytest.mark.parametrize("count", [1, 2, 5, 8, 12])
def test_parts_cover_each_pair_once(rows, k_train, count):
    parts, columns = [part_of(Share(i, count), rows, k_train) for i in range(count)], rows + k_train
    assert sum(len(p.rows) * len(p.columns) for p in parts) == rows * columns
    if rows * columns < 10_000:
        covered = np.zeros((rows, columns), int)
        for p in parts:
            covered[p.rows.start : p.rows.stop, p.columns.start : p.columns.stop] += 1
        assert (covered == 1).all()


def test_parts_read_few_embeddings():
    """N = 10,000 and K = 50,000 on 8 workers: cutting the samples alone would read 61,250."""
    parts = [part_of(Share(i, 8), 10_000, 50_000) for i in range(8)]
    assert max(len(p.rows) + len(p.columns) for p in parts) <= 17_500


def shards(synthetics: Path, target: Path, count: int, but: int, *flags: object) -> None:
    """All shards but one."""
    for i in range(count):
        if i != but:
            run(options(synthetics, target, *flags, "--shard", f"{i}/{count}"))


@pytest.fixture
def one_set(synthetics, tmp_path):
    (tmp_path / "s").mkdir()
    shutil.copy(synthetics / "9.npz", tmp_path / "s")
    return tmp_path / "s"


def test_a_missing_part_is_waited_for_and_reported(one_set, whole, tmp_path, capsys):
    shards(one_set, tmp_path / "d", 4, but=2)
    assert not (tmp_path / "d" / "9.npz").exists()
    assert "K = 9: 3 of 4 parts are there" in capsys.readouterr().out
    run(options(one_set, tmp_path / "d", "--shard", "2/4"))
    assert (tmp_path / "d" / "9.npz").read_bytes() == (whole / "l2" / "9.npz").read_bytes()


def test_a_merge_that_was_killed_is_made_up_for(one_set, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("utils.stages.distances.stage.merge", lambda *_: None)
        shards(one_set, tmp_path / "d", 3, but=-1)
    assert not (tmp_path / "d" / "9.npz").exists()
    run(options(one_set, tmp_path / "d", "--shard", "1/3"))
    assert (tmp_path / "d" / "9.npz").read_bytes() == (whole / "l2" / "9.npz").read_bytes()


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--k", "3"), ("distances: k 3",)),
        (LPIPS, ("metric 'lpips'",)),
    ],
)
def test_a_part_of_other_options_is_refused(one_set, tmp_path, flags, words):
    target = tmp_path / "d"
    run(options(one_set, target, *flags, "--shard", "1/3"))
    for again in (lambda: shards(one_set, target, 3, but=1), lambda: shards(one_set, target, 3, 0)):
        with pytest.raises(UserError) as refused:
            again()
    for word in (*words, "--overwrite", "1-of-3"):
        assert word in str(refused.value)
    assert not (target / "9.npz").exists()
    run(options(one_set, target, "--shard", "1/3", "--overwrite"))
    assert (target / "9.npz").exists()


def test_a_part_of_other_samples_is_refused(one_set, tmp_path):
    target = tmp_path / "d"
    shards(one_set, target, 3, but=2)
    arrays = dict(np.load(one_set / "9.npz"))
    arrays["samples"] = arrays["samples"][::-1]
    np.savez(one_set / "9.npz", **arrays)
    with pytest.raises(UserError, match="0-of-3/9.npz: found a file made with distances: samples"):
        run(options(one_set, target, "--shard", "2/3"))
    assert not (target / "9.npz").exists()


def test_a_part_to_other_training_images_is_refused(one_set, tmp_path):
    target = tmp_path / "d"
    shards(one_set, target, 3, but=2)
    path = part_file(target, 9, Share(0, 3))
    arrays = dict(np.load(path))
    arrays["subset"] = np.array("cifar10 seed=1 K=9 first sha256=0")
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="distances to other training images"):
        run(options(one_set, target, "--shard", "2/3"))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"part": np.array([0, 30, 0, 7, 30, 9])}, "another part"),
        ({"part": np.array([0, 30, 0, 13, 30, 0])}, "no such part"),
        ({"part": np.array([0, 30, 0, 13])}, "no such part"),
        ({"part": np.array([0.5] * 6)}, "no such part"),
        ({"data-squares": np.full((30, 5), np.nan, np.float32)}, "data-squares below 0 or NaN"),
        ({"data-squares": np.zeros((30, 5))}, "data of a wrong shape or type"),
        ({"data-squares": np.zeros(3, np.float32)}, "data of a wrong shape or type"),
        ({"synth-indices": np.full((30, 5), 30)}, "synth-indices beyond"),
        ({"data-indices": np.full((30, 5), -1)}, "data-indices beyond"),
    ],
)
def test_a_part_that_makes_no_sense_is_refused(one_set, tmp_path, change, words):
    target = tmp_path / "d"
    shards(one_set, target, 3, but=2)
    path = part_file(target, 9, Share(0, 3))
    np.savez(path, **{**dict(np.load(path)), **change})
    with pytest.raises(UserError, match=words):
        run(options(one_set, target, "--shard", "2/3"))
    assert not (target / "9.npz").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short"])
def test_a_part_that_is_not_whole_is_refused_by_name(one_set, tmp_path, content):
    target = tmp_path / "d"
    shards(one_set, target, 3, but=2)
    path = part_file(target, 9, Share(0, 3))
    path.write_bytes(content)
    with pytest.raises(UserError, match="0-of-3/9.npz"):
        run(options(one_set, target, "--shard", "2/3"))


def test_overwrite_does_all_shards_again(one_set, whole, tmp_path):
    target = tmp_path / "d"
    run(options(one_set, target, "--k", "3"))
    for i in range(3):
        assert load_dists(target / "9.npz").args["distances"]["k"] == 3
        run(options(one_set, target, "--shard", f"{i}/3", "--overwrite"))
    assert (target / "9.npz").read_bytes() == (whole / "l2" / "9.npz").read_bytes()
    assert not (target / "parts").exists()


def test_finished_k_need_no_shards(one_set, tmp_path, capsys):
    run(options(one_set, tmp_path / "d"))
    before = (tmp_path / "d" / "9.npz").stat().st_mtime_ns
    run(options(one_set, tmp_path / "d", "--shard", "0/3"))
    assert "is finished" in capsys.readouterr().out
    assert contents(tmp_path / "d").keys() == {"9.npz"}
    assert (tmp_path / "d" / "9.npz").stat().st_mtime_ns == before


def test_a_dry_run_writes_nothing_and_prints_the_plan(one_set, tmp_path, capsys):
    run(options(one_set, tmp_path / "d", *LPIPS, "--dry-run"))
    assert f"K = 9: write {tmp_path / 'd' / '9.npz'}" in capsys.readouterr().out
    run(options(one_set, tmp_path / "d", *LPIPS, "--dry-run", "--shard", "1/3"))
    assert f"write {tmp_path / 'd' / 'parts' / '9' / '1-of-3'}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_sets_of_other_image_sizes_in_one_folder(one_set, tmp_path):
    """They do not share a cache; each is compared with its own data."""
    options_16 = train_options(tmp_path, "--train-size", 5, "--image-size", 16, "--centercrop")
    args = training_args(options_16)
    samples = training_subset(args).images.float() / 127.5 - 1
    large = torch.nn.functional.interpolate(samples, scale_factor=5)  # 80 x 80: alex takes it as is
    args["model"]["image_size"] = 80
    save_synthetics(one_set / "5.npz", large.numpy(), args)
    run(options(one_set, tmp_path / "d", *LPIPS))
    result = load_dists(tmp_path / "d" / "5.npz").arrays
    assert result["data-indices"].shape == (5, 5)
    run(options(one_set, tmp_path / "e", *LPIPS, "--no-cache"))
    assert contents(tmp_path / "d") == contents(tmp_path / "e")


def test_one_sample_has_no_synthetic_neighbour(one_set, tmp_path):
    arrays = dict(np.load(one_set / "9.npz"))
    arrays["samples"] = arrays["samples"][:1]
    np.savez(one_set / "9.npz", **arrays)
    run(options(one_set, tmp_path / "d"))
    for i in range(2):
        run(options(one_set, tmp_path / "e", "--shard", f"{i}/2"))
    assert load_dists(tmp_path / "d" / "9.npz").arrays["synth-dists"].shape == (1, 0)
    assert contents(tmp_path / "d") == contents(tmp_path / "e")


def test_a_full_disk_leaves_earlier_results_whole(synthetics, whole, tmp_path):
    """A limit on file size as a quota would set it: K = 2 and 9 fit, a block of embeddings not."""
    target = tmp_path / "d"
    run(options(synthetics, target, *LPIPS, "--final-idx", "1"))
    kept = (
        contents(target),
        contents(tmp_path / "embeddings" / os.listdir(tmp_path / "embeddings")[0]),
    )
    limited = f"ulimit -f 200; exec {sys.executable} {ROOT / 'run_distances.py'} "
    limited += f"--synth-path {synthetics} --result-path {target} {' '.join(LPIPS)} --device cpu"
    done = subprocess.run(
        ["bash", "-c", limited], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert_one_line(done, "embeddings", "free space")
    (folder,) = (tmp_path / "embeddings").iterdir()
    assert (contents(target), contents(folder)) == kept  # nothing lost, nothing half-written
    run(options(synthetics, target, *LPIPS))
    assert contents(target) == contents(whole / "lpips")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--shard", "0/2")])
def test_ranks_of_torchrun_share_each_k(synthetics, whole, tmp_path, flags):
    """Two ranks, on one machine; with --shard they share that shard."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    own = ["--synth-path", synthetics, "--result-path", tmp_path / "d", *LPIPS, "--device", "cpu"]
    done = subprocess.run(
        [*command, str(ROOT / "run_distances.py"), *map(str, own), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("distances: ") == 1  # rank 0 alone tells the options
    if flags:
        assert not list((tmp_path / "d").glob("*.npz"))
        run(options(synthetics, tmp_path / "d", *LPIPS, "--shard", "2/4"))
        run(options(synthetics, tmp_path / "d", *LPIPS, "--shard", "3/4"))
    assert contents(tmp_path / "d") == contents(whole / "lpips")


def test_two_shards_at_once_with_one_cache(synthetics, whole, tmp_path):
    command = [sys.executable, str(ROOT / "run_distances.py"), "--synth-path", str(synthetics)]
    command += ["--result-path", str(tmp_path / "d"), *LPIPS, "--device", "cpu", "--shard"]
    workers = [subprocess.Popen([*command, f"{i}/2"], cwd=ROOT) for i in (0, 1, 0, 1)]
    assert [worker.wait(timeout=240) for worker in workers] == [0, 0, 0, 0]
    assert contents(tmp_path / "d") == contents(whole / "lpips")


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--shard", "3/3"), ("--shard", "3/3", "i/n")),
        (("--part", "1"), ("--part", "i/n")),
        (("--memory", "4X"), ("--memory", "4X")),
    ],
)
def test_flags_that_make_no_sense(synthetics, tmp_path, flags, words):
    own = ("--synth-path", synthetics, "--result-path", tmp_path / "d")
    assert_one_line(run_here("run_distances.py", *own, *flags), *words)
    assert not (tmp_path / "d").exists()


def test_a_cache_folder_that_cannot_be_written(synthetics, tmp_path):
    (tmp_path / "file").write_text("")
    flags = ("--synth-path", synthetics, "--result-path", tmp_path / "d", *LPIPS, "--device", "cpu")
    done = run_here("run_distances.py", *flags, "--cache-path", tmp_path / "file")
    assert_one_line(done, str(tmp_path / "file"), "folder")
