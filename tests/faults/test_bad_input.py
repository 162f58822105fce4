"""Bad files and folders end in one line that names them, and leave nothing behind."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch

from tests.helpers.runs import DIGITS, SMALL, assert_one_line, run_here
from tests.helpers.sandbox import work
from utils.cli.errors import UserError

pytestmark = pytest.mark.usefixtures("no_pictures")


def refused(folder, stage, *words):
    """One line that holds each of words, and no result."""
    with pytest.raises(UserError) as raised:
        work(stage, folder)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert not [path for path in folder.glob("out/**/*") if path.is_file()]


INPUT = {"generate": "models/8.pt", "distances": "s/8.npz", "classify": "d/8.npz"}
MISSING = {"generate": "8.pt", "distances": "--synth-path s", "classify": "--dist-path d"}


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
    refused(own, stage, MISSING[stage] if how == "missing" else path.name)


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
        (lambda x: x[:, :, :4], ("8.npz", "[4, 1, 4, 8]")),
        (lambda x: x.astype(complex), ("8.npz", "complex")),
        (lambda x: x[:0], ("8.npz", "no samples")),
        (None, ("8.npz", "0 arrays of images", "args")),
    ],
)
def test_samples_that_are_no_images(own, samples, words):
    change(own / "s" / "8.npz", samples=samples or (lambda x: None))
    refused(own, "distances", *words)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("not json", ("8.npz", "args", "no JSON")),
        ("{}", ("8.npz", "unknown training set", "--data-name")),
        ("[1]", ("8.npz", "args", "no options")),
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
        ({"data_dists": lambda x: x[:3]}, ("8.npz", "data-indices", "shape")),
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


def test_distances_in_two_metrics(own):
    """The control is measured in one metric, so it would be that of other distances."""
    args = json.loads(str(np.load(own / "d" / "8.npz")["args"]))
    args["train"]["train_size"] = 16
    shutil.copy(own / "s" / "8.npz", own / "s" / "16.npz")
    shutil.copy(own / "d" / "8.npz", own / "d" / "16.npz")
    change(own / "d" / "16.npz", args=json.dumps(args), metric="lpips", network="alex")
    refused(own, "classify", "d/16.npz", "distances by alex", "a folder of its own")


def test_a_model_under_the_name_of_another_k(own):
    (own / "models" / "8.pt").rename(own / "models" / "9.pt")
    with pytest.raises(UserError, match=r"9\.pt: found a model of K = 8; name it 8\.pt"):
        work("generate", own, "--ckpt-path", "models/9.pt")


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


def test_a_folder_that_cannot_be_written(tmp_path):
    """A file in the way stops root too, whom permissions do not."""
    (tmp_path / "taken").write_text("")
    flags = ["--config_path", DIGITS, *SMALL, "--results-path", tmp_path / "taken" / "run"]
    assert_one_line(run_here("train_unet.py", *flags), "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_file_of_another_stage_under_the_target_name(own):
    (own / "out").mkdir()
    shutil.copy(own / "s" / "8.npz", own / "out" / "8.npz")
    with pytest.raises(UserError, match=r"out/8\.npz: found no 'data-dists'"):
        work("distances", own)
    assert (own / "out" / "8.npz").read_bytes() == (own / "s" / "8.npz").read_bytes()


def test_a_plain_pickle_named_pt(own):
    (own / "models" / "8.pt").write_bytes(pickle.dumps({"ema": {}}))
    refused(own, "generate", "8.pt", "no whole .pt file")
