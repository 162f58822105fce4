"""Checkpoints that claim more than they hold, or hold other things than weights."""

import json
import struct
import zipfile

import numpy as np
import pytest
import torch

from tests.helpers.formats import (
    archive_of,
    array_around,
    called,
    checkpoint_around,
    in_dict,
    members_of,
    named,
    object_npz,
    tensor_storage,
    text,
)
from tests.helpers.runs import train_options
from tests.helpers.trials import refusal
from utils.cli.errors import UserError
from utils.cli.progress import QUIET
from utils.files.arrays import read_npz
from utils.files.tensors import load_torch
from utils.inputs.denoisers import trained_model
from utils.stages.train import stage as train

pytestmark = pytest.mark.usefixtures("quiet_and_small")


def rebuilt(storage, size, stride, grad=b"\x89"):
    hooks = called(named("collections", "OrderedDict"))
    name = named("torch._utils", "_rebuild_tensor_v2")
    return called(name, storage, b"K\x00", size, stride, grad, hooks)


FAR = b"\x8a\x06" + struct.pack("<q", 2**40)[:6]  # an integer


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (rebuilt(tensor_storage("0", 2**40), FAR + b"\x85", b"K\x01\x85"), "no whole"),
        (rebuilt(tensor_storage("0", 7), b"K\x07\x85", b"K\x01\x85"), "no whole"),
        (rebuilt(tensor_storage("0", -6), b"K\x06\x85", b"K\x01\x85"), "no whole"),
        (rebuilt(tensor_storage("9", 6), b"K\x06\x85", b"K\x01\x85"), "no whole"),
        (rebuilt(tensor_storage("../version", 6), b"K\x06\x85", b"K\x01\x85"), "no whole"),
        (rebuilt(tensor_storage("0", 6), b"K\x07\x85", b"K\x01\x85"), "no whole"),
        (rebuilt(tensor_storage("0", 6), FAR + b"\x85", b"K\x00\x85"), "does not hold"),
        (rebuilt(tensor_storage("0", 6), b"K\x06\x85", b"K\x01\x85", b"\x88"), None),
        (tensor_storage("0", 6), "no state dict"),
        (b"K\x01", "no state dict"),
    ],
)
def test_tensors_that_are_not_there(whole, tmp_path, tensor, words):
    """A storage may claim more than the file has, and a stride of 0 makes one number any size."""
    path = tmp_path / "8.pt"
    path.write_bytes(checkpoint_around(whole, ema=in_dict(a=tensor)))
    message = refusal(path)
    assert message is None if words is None else words in (message or ""), message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["model", "ema"])
def test_weights_that_are_no_numbers(whole, tmp_path, value, which):
    path = tmp_path / "8.pt"
    path.write_bytes(whole["ours.pt"])
    content = load_torch(path)
    content[which] = {"a": torch.tensor([1.0, value])}
    torch.save(content, path)
    assert "NaN or infinite weights" in (refusal(path) or "")


@pytest.mark.parametrize(
    "changed",
    [
        *({"iterations": value} for value in ("x", -1, 2.5, True, [1], torch.ones(2), 2**70)),
        *({"opt": value} for value in ("x", [1], 3)),
        *({"rng": value} for value in ("x", [1], 3)),
        *({"ema": value} for value in (None, {}, {1: torch.ones(1)}, {"a": 1}, [torch.ones(1)])),
        {"ema": {"a": torch.ones(1, dtype=torch.complex64)}},
        *({"args": value} for value in (None, [], "x", {"train": {"train_size": torch.ones(1)}})),
    ],
    ids=str,
)
def test_contents_of_other_kinds(whole, tmp_path, changed):
    path = tmp_path / "8.pt"
    path.write_bytes(whole["ours.pt"])
    torch.save({**load_torch(path), **changed}, path)
    assert refusal(path)


@pytest.mark.parametrize(
    ("section", "changed"),
    [
        *(("train", {"train_size": value}) for value in (8.0, True, "8", None, [8], 2**70)),
        *(("train", {"lr": value}) for value in ("x", None, float("nan"), True)),
        *(("train", {"clip_grad": value}) for value in (1, "False")),
        *(("train", {"timesteps": value}) for value in (20.5, 10**9)),
        *(("model", {"dim_mults": value}) for value in (3, "a,b", [1.5], [None], [True], {})),
        *(("data", {"data_path": value}) for value in (3, None, ["x"])),
        ("model", None),
        ("train", []),
    ],
    ids=str,
)
def test_options_of_other_kinds(whole, tmp_path, section, changed):
    for suffix in (".pt", ".npz"):
        path = tmp_path / f"8{suffix}"
        path.write_bytes(whole[f"ours{suffix}"])
        content = load_torch(path) if suffix == ".pt" else read_npz(path)
        args = content["args"] if suffix == ".pt" else json.loads(str(content["args"]))
        args[section] = {**args[section], **changed} if isinstance(changed, dict) else changed
        if suffix == ".pt":
            torch.save(content, path)
        else:
            np.savez(path, samples=content["samples"], args=json.dumps(args))
        assert refusal(path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_unpack_to_more_than_the_memory(whole, tmp_path, kind):
    """Pickles are small and never packed; numpy's own packing stays below a thousandfold."""
    zeros = array_around(b"B" + struct.pack("<I", 10**8) + bytes(10**8))
    object_npz(tmp_path / "8.npz", zeros)
    (tmp_path / "8.npz").write_bytes(
        archive_of(members_of((tmp_path / "8.npz").read_bytes()), kind)
    )
    assert (tmp_path / "8.npz").stat().st_size < 2**20 and refusal(tmp_path / "8.npz")
    (tmp_path / "8.pt").write_bytes(archive_of(members_of(whole["ours.pt"]), kind))
    assert "no whole .pt file" in (refusal(tmp_path / "8.pt") or "")


def test_archives_that_two_readers_would_read_otherwise(whole, tmp_path):
    path = tmp_path / "8.pt"
    members = members_of(whole["ours.pt"])
    evil = b"\x80\x02" + called(named("posix", "mkdir"), text(tmp_path / "MARKER")) + b"."
    pickled = next(name for name, _ in members if name.endswith("data.pkl"))
    for changed in (
        [*members, (pickled.upper(), evil)],
        [(pickled.upper(), evil), *members],
        [("other/data.pkl", evil), *members],
        [*members, ("archive/code/x.py", b"")],
        [*members, ("archive/../x", b"")],
        [*members, ("archive/data/a", b"")],
        [*members, ("archive/constants.pkl", evil)],
        [],
    ):
        path.write_bytes(archive_of(changed))
        assert "no whole .pt file" in (refusal(path) or ""), [name for name, _ in changed]
    path.write_bytes(archive_of([(pickled, evil)]) + whole["ours.pt"])  # one behind the other
    assert refusal(path)
    assert not (tmp_path / "MARKER").exists()


def test_options_of_a_giant_cost_no_memory(tmp_path, monkeypatch):
    """The network is built when its weights are known to fit."""
    monkeypatch.setenv(QUIET, "1")
    train.run(train_options(tmp_path))
    content = torch.load(tmp_path / "models" / "8.pt", weights_only=True)
    content["args"]["model"]["dim"] = 2**20
    torch.save(content, tmp_path / "models" / "8.pt")
    with pytest.raises(UserError, match=r"8\.pt: found weights that do not fit its options"):
        trained_model(tmp_path / "models" / "8.pt").denoiser(torch.device("cpu"))


@pytest.mark.parametrize("wrap", [lambda t: {"ema": t}, lambda t: [{"opt": (t,)}], lambda t: t])
def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path, wrap):
    """One number and strides of 0: a look at its least value would take 4 TB."""
    path = tmp_path / "8.pt"
    torch.save(wrap(torch.zeros(1).expand(10**12)), path)
    with pytest.raises(UserError, match=r"8\.pt: found a tensor \[1000000000000\] whose numbers"):
        load_torch(path)
