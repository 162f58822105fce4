"""hf:// addresses, answered from a cache as huggingface_hub makes it; nothing is downloaded."""

import sys

import numpy as np
import pytest

from tests.helpers.images import noise
from tests.helpers.runs import ROOT, assert_one_line, complaint, run_script
from utils.cli.hub import ADDRESS, fetch

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path):
    """A model repository of two files, and a data set."""
    for kind, files in (
        ("models--owner--net", {"64.pt": "shared", "more/notes.txt": "text"}),
        ("datasets--owner--pictures", {"train.npy": noise(20, 8, 8), "s/20.npy": noise(4, 8, 8)}),
    ):
        snapshot = tmp_path / "cache" / kind / "snapshots" / SHA
        (tmp_path / "cache" / kind / "refs").mkdir(parents=True)
        (tmp_path / "cache" / kind / "refs" / "main").write_text(SHA)
        for name, content in files.items():
            path = snapshot / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content)
            else:
                np.save(path, content)
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("hf://owner/net", (None, "owner/net", None, None)),
        ("hf:/owner/net", (None, "owner/net", None, None)),  # as a Path writes it
        ("hf://owner/net/64.pt", (None, "owner/net", None, "64.pt")),
        ("hf://owner/net@v1.0/a/64.pt", (None, "owner/net", "v1.0", "a/64.pt")),
        ("hf://datasets/owner/net/a/", ("datasets/", "owner/net", None, "a")),
    ],
)
def test_addresses(address, parts):
    assert ADDRESS.fullmatch(address).groups() == parts


@pytest.mark.parametrize("address", ["hf://", "hf://owner", "hf://a b/c", "hf:///owner/net"])
def test_other_addresses_are_refused(address):
    with complaint("--models hf://", "no name of a repository", "hf://OWNER/NAME"):
        fetch(address, "--models")


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with complaint("--models hf://a/b", "no package huggingface_hub", "pip install"):
        fetch("hf://a/b", "--models")


def offline(cache, script, *flags, cwd=ROOT):
    env = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    return run_script(script, *flags, "--device", "cpu", cwd=cwd, **env)


@pytest.mark.slow
def test_samples_and_training_images_of_the_hub(cache, tmp_path):
    flags = ["--synth-path", "hf://datasets/owner/pictures/s", "--result-path", tmp_path / "d"]
    train = ["--train", "hf://datasets/owner/pictures/train.npy"]
    done = offline(cache, "run_distances.py", *flags, *train)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "d" / "20.npz") as file:
        assert file["data-dists"].shape == (4, 5)
    assert "--synth-path" not in done.stderr


@pytest.mark.slow
def test_what_the_hub_does_not_give_ends_in_one_line(cache, tmp_path):
    flags = ["--result-path", tmp_path / "g", "--num-samples", 2]
    failed = offline(cache, "run_generate.py", "--ckpt-path", "hf://owner/none/64.pt", *flags)
    assert_one_line(failed, "--ckpt-path hf://owner/none/64.pt", "hf download owner/none")
    failed = offline(cache, "run_generate.py", "--ckpt-path", "hf://owner/net/64.pt", *flags)
    assert_one_line(failed, f"models--owner--net/snapshots/{SHA}/64.pt", "no whole .pt file")
    assert not (tmp_path / "g").exists()
