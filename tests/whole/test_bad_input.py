"""Bad files and folders end in one line that names them, and leave nothing behind."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch

from tests.helpers.runs import DIGITS, SMALL, assert_one_line, run_here, run_script, train_options
from utils.cli.errors import UserError
from utils.cli.options.sections import ClassifyStage, DistancesStage, GenerateStage
from utils.cli.parse import parse
from utils.stages.classify import stage as classify
from utils.stages.distances import stage as distances
from utils.stages.generate import stage as generate
from utils.stages.train import stage as train

DRAW = ["--sampler", "ddim", "--steps", "2", "--num-samples", "100", "--batch-size", "100"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, a synthetic set and its distances, all sound."""
    folder = tmp_path_factory.mktemp("made")
    train.run(train_options(folder, "--iterations", 2))
    paths = ["--ckpt-path", folder / "models" / "8.pt", "--result-path", folder / "gen"]
    own = [*paths, "--synth-path", folder / "s", *DRAW]
    generate.run(parse(GenerateStage, [str(flag) for flag in own]))
    own = ["--synth-path", folder / "s", "--result-path", folder / "d"]
    distances.run(parse(DistancesStage, [str(flag) for flag in own]))
    return folder


@pytest.fixture
def own(made, tmp_path):
    """A copy that a test may spoil."""
    for name in ("models", "s", "d"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def run_stage_on(own, stage):
    if stage == "generate":
        flags = ["--ckpt-path", own / "models" / "8.pt", "--result-path", own / "out", *DRAW]
        generate.run(parse(GenerateStage, [str(flag) for flag in flags]))
    elif stage == "distances":
        flags = ["--synth-path", own / "s", "--result-path", own / "out"]
        distances.run(parse(DistancesStage, [str(flag) for flag in flags]))
    else:
        flags = ["--dist-path", own / "d", "--eval-path", own / "s", "--result-path", own / "out"]
        classify.run(parse(ClassifyStage, [str(flag) for flag in flags]))


def refused(own, stage, *words):
    with pytest.raises(UserError) as raised:
        run_stage_on(own, stage)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    left = [p for p in (own / "out").rglob("*") if p.is_file()] if (own / "out").exists() else []
    assert not left, left


INPUT = {"generate": "models/8.pt", "distances": "s/8.npz", "classify": "d/8.npz"}


@pytest.mark.parametrize("stage", INPUT)
@pytest.mark.parametrize("how", ["empty", "truncated", "random", "text", "folder", "missing"])
def test_a_file_that_is_not_whole(own, stage, how):
    path = own / INPUT[stage]
    data = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "missing":
        content = {"empty": b"", "truncated": data[: len(data) // 3], "text": b"hello\n"}
        path.write_bytes(content.get(how, np.random.default_rng(0).bytes(4000)))
    folder = path.name if stage == "generate" else path.parent.name
    refused(own, stage, folder if how == "missing" else path.name)


@pytest.mark.parametrize("stage", INPUT)
def test_a_pickle_that_would_run_code(own, stage):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(own / "exploded"),)

    path = own / INPUT[stage]
    if stage == "generate":
        torch.save({"ema": Bomb()}, path)
    else:
        arrays = dict(np.load(path))
        arrays["args"] = np.array(Bomb(), dtype=object)
        np.savez(path, **arrays)
    refused(own, stage, path.name, "posix.mkdir")
    assert not (own / "exploded").exists()


def change(path, **changed):
    arrays = dict(np.load(path))
    for key, value in changed.items():
        key = key.replace("_", "-")
        arrays[key] = value(arrays[key]) if callable(value) else value
        if arrays[key] is None:
            del arrays[key]
    np.savez(path, **arrays)


def with_nan(x):
    x = x.copy()
    x.flat[3] = np.nan
    return x


def other_k(text):
    args = json.loads(str(text))
    args["train"]["train_size"] = 9
    return json.dumps(args)


def other_data(text):
    args = json.loads(str(text))
    args["train"]["global_seed"] = 1
    return json.dumps(args)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (with_nan, ("8.npz", "NaN")),
        (lambda x: x * 100, ("8.npz", "scale them to [-1, 1]")),
        (lambda x: x[:, 0], ("8.npz", "give float images [N, 1, 8, 8]")),
        (lambda x: x[:, :, :4], ("8.npz", "[100, 1, 4, 8]")),
        (lambda x: (x * 255).astype("u1"), ("8.npz", "uint8")),
        (lambda x: x[:0], ("8.npz", "no samples")),
        (None, ("8.npz", "no 'samples'", "args")),
    ],
)
def test_samples_that_are_no_images(own, samples, words):
    change(own / "s" / "8.npz", samples=samples or (lambda x: None))
    refused(own, "distances", *words)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("not json", ("8.npz", "args", "no JSON")),
        ("{}", ("8.npz", "no options of a training run")),
        ("[1]", ("8.npz", "no options of a training run")),
        (other_k, ("8.npz", "args of K = 9", "name it 9.npz")),
        ('{"train": {"train_size": "x"}, "data": {}, "model": {}}', ("8.npz", "args: train")),
        ('{"train": {}, "data": {"data_name": "x"}, "model": {}}', ("8.npz", "--data-name", "x")),
    ],
)
def test_args_that_make_no_sense(own, args, words):
    change(own / "s" / "8.npz", args=args)
    refused(own, "distances", *words)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data_dists": with_nan}, ("8.npz", "data-dists", "NaN")),
        ({"data_dists": lambda x: -x - 1}, ("8.npz", "data-dists")),
        ({"data_dists": lambda x: x[:5]}, ("8.npz", "data-indices", "shape")),
        ({"synth_indices": lambda x: x.astype("f4")}, ("8.npz", "synth-indices float32")),
        ({"synth_dists": lambda x: None}, ("8.npz", "no 'synth-dists'")),
        ({"subset": "another"}, ("8.npz", "another")),
        ({"args": other_data}, ("8.npz", "subset")),
    ],
)
def test_distances_that_make_no_sense(own, changed, words):
    change(own / "d" / "8.npz", **changed)
    refused(own, "classify", *words)


def test_samples_of_another_run(own):
    change(own / "s" / "8.npz", samples=lambda x: x[::-1])
    refused(own, "classify", "--eval-path", "8.npz", "run run_distances.py on this set")


def test_indices_beyond_the_subset(own):
    change(own / "d" / "8.npz", data_indices=lambda x: x + 8)
    refused(own, "classify", "8.npz", "data-indices")


def test_a_model_under_the_name_of_another_k(own):
    (own / "models" / "8.pt").rename(own / "models" / "9.pt")
    flags = ["--ckpt-path", str(own / "models" / "9.pt"), "--result-path", str(own / "out")]
    with pytest.raises(UserError, match=r"9\.pt: found a model of K = 8; name it 8\.pt"):
        generate.run(parse(GenerateStage, flags))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: c.pop("ema"), ("8.pt", "no 'ema'")),
        (lambda c: c.pop("args"), ("8.pt", "no 'args'")),
        (lambda c: c["ema"].popitem(), ("8.pt", "weights that do not fit")),
        (lambda c: next(iter(c["ema"].values())).fill_(float("nan")), ("8.pt", "NaN")),
        (lambda c: c.update(ema=3), ("8.pt", "no state dict")),
        (lambda c: c["args"]["model"].update(dim=33), ("8.pt", "--dim", "33")),
        (lambda c: c["args"].update(train=None), ("8.pt", "no options")),
    ],
)
def test_checkpoints_that_make_no_sense(own, spoil, words):
    path = own / "models" / "8.pt"
    content = torch.load(path, weights_only=True)
    spoil(content)
    torch.save(content, path)
    refused(own, "generate", *words)


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("run_distances.py", ["--synth-path", "{}/none"], ("--synth-path", "no such folder")),
        ("run_distances.py", ["--synth-path", "{}"], ("--synth-path", "no K.npz")),
        ("run_distances.py", [], ("--synth-path", "nothing")),
        ("run_classify.py", ["--dist-path", "{}"], ("--dist-path", "no K.npz")),
        ("run_classify.py", [], ("--dist-path", "nothing")),
        ("run_generate.py", [], ("--ckpt-path", "nothing")),
        ("run_pipeline.py", ["--root", "{}/p"], ("--sizes", "nothing")),
        ("run_pipeline.py", ["--sizes", "2,2", "--root", "{}/p"], ("--sizes", "name each K once")),
        ("run_pipeline.py", ["--metric", "cosine"], ("--metric", "cosine", "l2, alex")),
    ],
)
def test_missing_and_empty_folders(tmp_path, script, flags, words):
    filled = [flag.format(tmp_path) for flag in flags]
    own = [*filled] + (["--result-path", tmp_path / "out"] if script != "run_pipeline.py" else [])
    assert_one_line(run_here(script, *own), *words)
    assert not list(tmp_path.iterdir())


NOWHERE = ["--data-path", "{}/none"]
PIPELINE = ["--config_path", DIGITS, *SMALL, "--iterations", "2", "--timesteps", "60"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sizes", "2,1798"], ("--train-size", "1798", "1797 or less")),
        (["--sizes", "2,1797"], ("digits",)),
        (["--sizes", "2,1700"], ("--pool-size 1700", "97 held-out", "100 or more")),
        (["--samples", "2000"], ("2000 samples, 1797 real images",)),
        (["--criterion", "ratio", "--metric", "alex"], ("--criterion ratio", "alex")),
        (["--metric", "squeeze", "--lpips-weights", "{}/none"], ("--lpips-weights",)),
        (["--image-size", "16"], ("--image-size", "16", "8")),
        (["--in-channels", "3"], ("--in-channels", "3", "1")),
        (
            [*("--data-name", "celeba", "--in-channels", "3", "--image-size", "32"), *NOWHERE],
            ("--data-path",),
        ),
        (["--data-name", "folder", "--data-path", "{}/none"], ("--data-path",)),
        (["--timesteps", "20"], ("--steps", "50", "20 or less")),
    ],
)
def test_the_pipeline_complains_before_it_trains(tmp_path, flags, words):
    own = ["--sizes", "2,8", "--root", tmp_path / "p", *(f.format(tmp_path) for f in flags)]
    done = run_here("run_pipeline.py", *PIPELINE, *own)
    assert_one_line(done, *words)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path):
    """A file in the way stops root too, whom permissions do not."""
    (tmp_path / "taken").write_text("")
    flags = ["--config_path", DIGITS, *SMALL, "--results-path", tmp_path / "taken" / "run"]
    assert_one_line(run_script("train_unet.py", *flags), "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_file_of_another_stage_under_the_target_name(own):
    (own / "out").mkdir()
    shutil.copy(own / "s" / "8.npz", own / "out" / "8.npz")
    with pytest.raises(UserError, match=r"out/8\.npz: found no 'data-dists'"):
        run_stage_on(own, "distances")
    assert (own / "out" / "8.npz").read_bytes() == (own / "s" / "8.npz").read_bytes()


def test_a_plain_pickle_named_pt(own):
    (own / "models" / "8.pt").write_bytes(pickle.dumps({"ema": {}}))
    refused(own, "generate", "8.pt", "no whole .pt file")
