"""Images depend on seeds alone, shards resume at any batch size, and merging is complete."""

import numpy as np
import pytest

from tests.helpers.runs import DIGITS, assert_one_line, run_here, train_options
from tests.helpers.sandbox import run_stage
from utils.cli.errors import UserError
from utils.cli.options.sections import GenerateStage
from utils.cli.parse import parse
from utils.inputs.samples import load_synthetics
from utils.stages.generate import stage as generate
from utils.stages.train import stage as train


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    train.run(train_options(folder))
    return folder / "models" / "8.pt"


def draw(model, folder, *flags):
    paths = ["--ckpt-path", model, "--result-path", folder / "gen", "--synth-path", folder / "s"]
    own = [*paths, "--sampler", "ddim", "--steps", 5, "--num-samples", 10, *flags]
    run_stage("generate", *own)
    return load_synthetics(folder / "s" / "8.npz")


def test_the_set_is_whole_and_in_the_range_of_images(model, tmp_path):
    result = draw(model, tmp_path, "--batch-size", 4)
    assert result.samples.shape == (10, 1, 8, 8) and result.samples.dtype == np.float32
    assert np.abs(result.samples).max() <= 1 and result.k == 8
    assert result.args["generate"]["sampler"] == "ddim"
    names = sorted(p.name for p in (tmp_path / "gen").glob("[!.]*"))
    assert names == ["grid.png", "shard-3407.npz", "shard-3411.npz", "shard-3415.npz"]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_another_batch_size_changes_rounding_alone(model, tmp_path, sampler):
    sets = [
        draw(model, tmp_path / str(batch), "--batch-size", batch, "--sampler", sampler).samples
        for batch in (10, 3, 1)
    ]
    for other in sets[1:]:
        np.testing.assert_allclose(other, sets[0], rtol=0, atol=1e-5)


def test_a_lost_shard_is_drawn_again_alone(model, tmp_path):
    whole = draw(model, tmp_path, "--batch-size", 4)
    kept = tmp_path / "gen" / "shard-3407.npz"
    before = kept.stat().st_mtime_ns
    (tmp_path / "gen" / "shard-3411.npz").unlink()
    (tmp_path / "s" / "8.npz").unlink()
    again = draw(model, tmp_path, "--batch-size", 4)
    assert np.array_equal(again.samples, whole.samples)
    assert kept.stat().st_mtime_ns == before


def test_another_batch_size_goes_on_where_the_first_stopped(model, tmp_path):
    draw(model, tmp_path, "--batch-size", 4)
    (tmp_path / "gen" / "shard-3411.npz").unlink()
    (tmp_path / "s" / "8.npz").unlink()
    draw(model, tmp_path, "--batch-size", 3)
    names = sorted(p.stem for p in (tmp_path / "gen").glob("*.npz"))
    assert names == ["shard-3407", "shard-3411", "shard-3414", "shard-3415"]


def test_more_samples_keep_the_first_ones(model, tmp_path):
    first = draw(model, tmp_path / "a", "--batch-size", 4)
    with pytest.raises(UserError, match=r"num-samples 10 \(now 12\)"):
        draw(model, tmp_path / "a", "--batch-size", 4, "--num-samples", 12)
    (tmp_path / "a" / "s" / "8.npz").unlink()
    more = draw(model, tmp_path / "a", "--batch-size", 4, "--num-samples", 12)
    assert np.array_equal(more.samples[:10], first.samples) and len(more.samples) == 12


def test_seeds_shift_the_images(model, tmp_path):
    first = draw(model, tmp_path / "a", "--batch-size", 10).samples
    shifted = draw(model, tmp_path / "b", "--batch-size", 10, "--seed", 3410).samples
    np.testing.assert_allclose(shifted[:7], first[3:], rtol=0, atol=1e-5)
    assert not np.allclose(shifted[:7], first[:7])


def test_num_files_counts_batches(model, tmp_path, capsys):
    flags = ["--ckpt-path", model, "--result-path", tmp_path / "gen", "--steps", 3]
    own = [*flags, "--sampler", "ddim", "--num-files", 2, "--batch-size", 3]
    run_stage("generate", *own)
    assert len(list((tmp_path / "gen").glob("shard-*.npz"))) == 2
    assert "to merge them add --synth-path" in capsys.readouterr().out


def test_other_options_are_refused_and_overwrite_redoes(model, tmp_path):
    first = draw(model, tmp_path)
    with pytest.raises(UserError, match="generate: steps 5 .now 6.; redo it with --overwrite"):
        draw(model, tmp_path, "--steps", 6)
    again = draw(model, tmp_path, "--steps", 6, "--overwrite", "True")
    assert not np.array_equal(first.samples, again.samples)


def test_a_model_that_was_replaced_is_noticed(model, tmp_path):
    draw(model, tmp_path)
    train.run(train_options(tmp_path, "--lr", 0.01))
    with pytest.raises(UserError, match="redo it with --overwrite"):
        draw(tmp_path / "models" / "8.pt", tmp_path)


def test_the_exact_model_draws_its_patterns(tmp_path):
    done = run_here(
        *("run_generate.py", "--exact", "--config_path", DIGITS, "--train-size", 5),
        *("--num-samples", 6, "--result-path", tmp_path / "gen", "--synth-path", tmp_path / "s"),
    )
    assert done.returncode == 0, done.stderr
    result = load_synthetics(tmp_path / "s" / "5.npz")
    from utils.data.datasets import to_float
    from utils.data.subsets import training_subset

    patterns = to_float(training_subset(result.args).images).numpy()
    nearest = np.abs(result.samples[:, None] - patterns[None]).max(axis=(2, 3, 4)).min(axis=1)
    assert nearest.max() < 1e-4


def test_a_dry_run_writes_nothing(model, tmp_path, capsys):
    flags = ["--ckpt-path", str(model), "--result-path", str(tmp_path / "g"), "--dry-run"]
    generate.run(parse(GenerateStage, [*flags, "--num-samples", "7"]))
    assert "would draw 7 of 7 images (0.0 MB) of K = 8" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_more_images_than_the_disk_holds_are_refused_before_work(model, tmp_path):
    flags = ["--ckpt-path", model, "--result-path", tmp_path / "g", "--num-samples", 10**15]
    with pytest.raises(UserError, match=r"GB free; 256000000\.0 GB are needed"):
        run_stage("generate", *flags)
    assert not list((tmp_path / "g").iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", 21], ("--steps", "21", "choose 20 or less")),
        (["--steps", 0], ("--steps", "0")),
        (["--batch-size", 0], ("--batch-size", "0")),
        (["--sampler", "euler"], ("--sampler", "euler", "ddpm, ddim, dpmpp")),
        (["--seed", -1], ("--seed", "-1")),
        (["--device", "cuda:99"], ("--device", "cuda:99")),
    ],
)
def test_mistakes(model, tmp_path, flags, words):
    own = ["--ckpt-path", model, "--result-path", tmp_path / "g", "--num-samples", 2, *flags]
    assert_one_line(run_here("run_generate.py", *own), *words)
    assert not (tmp_path / "g").exists()
