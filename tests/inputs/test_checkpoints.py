"""Checkpoints in the forms that people have: wrapped names, other number formats, other files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from tests.helpers.runs import complaint
from tests.helpers.sandbox import prepared
from utils.inputs.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    made, _ = prepared(tmp_path_factory)
    return torch.load(made / "models" / "8.pt", weights_only=True)


def saved(folder, content, **changed):
    torch.save({**content, **changed}, folder / "8.pt")
    return folder / "8.pt"


PREFIXES = (
    *("_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "ema_model.module."),
    *("ema_model._orig_mod.", "model."),
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_names_that_wrappers_have_changed(content, tmp_path, prefix):
    """torch.compile, DataParallel and averaged models, in any nesting."""
    wrapped = {prefix + name: value for name, value in content["ema"].items()}
    checkpoint = load_checkpoint(saved(tmp_path, content, ema=wrapped))
    assert checkpoint.ema.keys() == content["ema"].keys()
    for name, value in content["ema"].items():
        assert torch.equal(checkpoint.ema[name], value)


def test_names_of_a_part_that_was_compiled(content, tmp_path):
    wrapped = {n.replace(".0.", ".0._orig_mod."): value for n, value in content["ema"].items()}
    assert wrapped.keys() != content["ema"].keys()
    loaded = load_checkpoint(saved(tmp_path, content, ema=wrapped))
    assert loaded.ema.keys() == content["ema"].keys()


def test_the_averaged_weights_of_ema_pytorch_are_taken(content, tmp_path):
    """It stores the weights that are not averaged too, and counters."""
    state = {"initted": torch.tensor(True), "step": torch.tensor(3)}
    for name, value in content["ema"].items():
        state |= {f"online_model.{name}": value * 0, f"ema_model.{name}": value}
    loaded = load_checkpoint(saved(tmp_path, content, ema=state)).ema
    assert loaded.keys() == content["ema"].keys()
    assert all(torch.equal(loaded[name], value) for name, value in content["ema"].items())


def test_the_counter_of_torchs_averaged_model_is_left_out(content, tmp_path):
    state = {f"module.{name}": value for name, value in content["ema"].items()}
    state["n_averaged"] = torch.tensor(5)
    assert load_checkpoint(saved(tmp_path, content, ema=state)).ema.keys() == content["ema"].keys()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_every_number_format_becomes_float32(content, tmp_path, kind):
    weights = {name: value.to(kind) for name, value in content["ema"].items()}
    checkpoint = load_checkpoint(saved(tmp_path, content, ema=weights, model=weights))
    assert {value.dtype for value in checkpoint.ema.values()} == {torch.float32}
    assert len(checkpoint.fingerprint) == 16
    for name, value in weights.items():
        assert torch.equal(checkpoint.ema[name], value.float())


def test_sound_files_of_another_format_are_named_with_the_way_to_save_them(content, tmp_path):
    torch.save(content, tmp_path / "8.pt", _use_new_zipfile_serialization=False)
    with complaint("8.pt", "before version 1.6", "save it again by torch.save"):
        load_checkpoint(tmp_path / "8.pt")
    save_file(content["ema"], tmp_path / "9.pt")
    with complaint("9.pt", "safetensors", "safetensors.torch.load_file"):
        load_checkpoint(tmp_path / "9.pt")


def test_no_refusal_of_a_sound_file_asks_for_a_new_training(content, tmp_path):
    cases = {
        "no 'args'": {"ema": content["ema"]},
        "no averaged weights": {**content, "ema": {}},
        "no state dict": {**content, "ema": [1]},
    }
    for words, given in cases.items():
        torch.save(given, tmp_path / "8.pt")
        with complaint("8.pt", "save") as caught:
            load_checkpoint(tmp_path / "8.pt")
        assert "train the model again" not in str(caught.value), words
