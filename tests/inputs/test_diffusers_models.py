"""Folders of diffusers: what is read, in which form, and what is refused."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from models.schedule import Schedule
from tests.helpers.runs import complaint
from utils.cli.errors import UserError
from utils.inputs.diffusers_models import read_pipeline, schedule_in
from utils.inputs.model_files import models_in

KNOWN = {"data": {"data_name": "digits"}, "train": {"train_size": 8, "global_seed": 3407}}
SMALL = {"sample_size": 8, "block_out_channels": (32, 32), "layers_per_block": 1}
SMALL |= {"down_block_types": ("DownBlock2D", "AttnDownBlock2D")}
SMALL |= {"up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": None}


def network(**config):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(**{**SMALL, "in_channels": 1, "out_channels": 1, **config}).eval()


def save(folder, unet=None, scheduler="DDPMScheduler", pipeline="DDPMPipeline", **config):
    """A folder as save_pretrained writes it."""
    import diffusers

    scheduler = getattr(diffusers, scheduler)(**config)
    made = getattr(diffusers, pipeline)(unet=unet or network(), scheduler=scheduler)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("pipeline") / "8")


def eps_of(path, x_t, t=5):
    return read_pipeline(path, KNOWN).build(torch.device("cpu"), "float32").eps(x_t, t)


def expected(unet, x_t, t=5):
    with torch.no_grad():
        return unet(x_t, torch.full((len(x_t),), t)).sample


def test_pipelines_and_bare_networks_give_the_networks_own_numbers(folder, tmp_path):
    x_t = torch.randn(3, 1, 8, 8)
    assert torch.equal(eps_of(folder, x_t), expected(network(), x_t))
    ddim = save(tmp_path / "ddim", scheduler="DDIMScheduler", pipeline="DDIMPipeline")
    assert torch.equal(eps_of(ddim, x_t), expected(network(), x_t))
    bare = tmp_path / "bare"  # a UNet2DModel beside its scheduler
    network().save_pretrained(bare)
    shutil.copy(folder / "scheduler" / "scheduler_config.json", bare)
    assert torch.equal(eps_of(bare, x_t), expected(network(), x_t))
    assert read_pipeline(bare, KNOWN).fingerprint == read_pipeline(folder, KNOWN).fingerprint
    args = read_pipeline(folder, KNOWN).args
    assert args["train"]["beta_schedule"] == "linear" and args["train"]["timesteps"] == 1000
    unet = network()
    unet.conv_out.bias.data += 1
    weights = save(tmp_path / "weights", unet)
    other = save(tmp_path / "other", network(norm_eps=1e-3))  # the same weights
    prints = {read_pipeline(path, KNOWN).fingerprint for path in (folder, weights, other)}
    assert len(prints) == 3
    assert not torch.equal(eps_of(other, x_t), expected(network(), x_t))


def test_pickled_weights_are_read_by_the_allow_list(folder, tmp_path):
    x_t, copy = torch.randn(2, 1, 8, 8), tmp_path / "8"
    shutil.copytree(folder, copy)
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with complaint("diffusion_pytorch_model.safetensors", "no such file", "save_pretrained"):
        read_pipeline(copy, KNOWN)
    pickled = copy / "unet" / "diffusion_pytorch_model.bin"
    torch.save(network().state_dict(), pickled)
    assert torch.equal(eps_of(copy, x_t), expected(network(), x_t))

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"weight": Evil()}, pickled)
    with complaint("diffusion_pytorch_model.bin", "not allowed"):
        read_pipeline(copy, KNOWN)
    assert not (tmp_path / "ran").exists()


def test_the_older_names_of_attention_are_known(folder, tmp_path):
    """google/ddpm-cifar10-32 and its kin have query, key, value and proj_attn."""
    from safetensors.torch import load_file, save_file

    x_t, copy = torch.randn(2, 1, 8, 8), tmp_path / "8"
    shutil.copytree(folder, copy)
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(path)
    for new, older in old.items():
        state = {name.replace(f".{new}.", f".{older}."): value for name, value in state.items()}
    assert any("proj_attn" in name for name in state)
    save_file(state, path)
    assert torch.equal(eps_of(copy, x_t), expected(network(), x_t))


def test_of_a_network_with_variance_the_noise_is_taken(tmp_path):
    unet, x_t = network(out_channels=2), torch.randn(2, 1, 8, 8)
    path = save(tmp_path / "8", unet, variance_type="learned_range")
    assert torch.equal(eps_of(path, x_t), expected(unet, x_t)[:, :1])


@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.03},
        {"beta_schedule": "scaled_linear"},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 77},
        {"beta_schedule": "sigmoid"},
        {"trained_betas": np.linspace(0.001, 0.5, 20).tolist(), "num_train_timesteps": 20},
    ],
)
def test_every_schedule_is_diffusers_own_in_float64(config, tmp_path):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(**config)
    ours = schedule_in(dict(theirs.config), tmp_path)
    np.testing.assert_allclose(ours.alpha_bar.numpy(), theirs.alphas_cumprod.numpy(), rtol=2e-4)
    np.testing.assert_allclose(ours.beta.numpy(), theirs.betas.numpy(), rtol=1e-5)


def test_a_schedule_of_ours_is_known_by_name(tmp_path):
    from utils.inputs.diffusers_names import scheduler_config

    for name in ("linear", "scaled-linear", "cosine", "sigmoid"):
        config = scheduler_config(Schedule(300, name), "epsilon")
        assert schedule_in(config, tmp_path).name == name


def changed(folder, target, file, **values):
    shutil.copytree(folder, target)
    content = json.loads((target / file).read_text())
    content = {name: x for name, x in {**content, **values}.items() if x is not ...}
    (target / file).write_text(json.dumps(content))
    return target


UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, ("StableD", "DDPMPipe")),
        (UNET, {"_class_name": "UNet2DConditionModel"}, ("UNet2DCond", "supported are UNet2DM")),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, ("FlowMatch", "DDIMSch")),
        (SCHEDULER, {"prediction_type": "flow"}, ("prediction_type 'flow'", "v_prediction")),
        (SCHEDULER, {"beta_schedule": "odd"}, ("beta_schedule 'odd'", "squaredcos_cap_v2")),
        (SCHEDULER, {"rescale_betas_zero_snr": True}, ("rescale_betas_zero_snr", "alpha_bar = 0")),
        (SCHEDULER, {"trained_betas": [0.1, -0.1]}, ("0.99 after 0.9 at t = 1", "decrease")),
        (SCHEDULER, {"num_train_timesteps": "x"}, ("scheduler_config.json", "another scheduler")),
        (SCHEDULER, {"num_train_timesteps": 1}, ("alpha_bar", "two values or more")),
        (UNET, {"sample_size": ...}, ("sample_size None", "the side")),
        (UNET, {"out_channels": 3}, ("3 channels of 1", "output is like its input")),
        (UNET, {"num_class_embeds": 10}, ("class labels", "without labels")),
        (UNET, {"block_out_channels": [32, 64]}, ("weights that do not fit", "copy both files")),
        (UNET, {"block_out_channels": None}, ("weights that do not fit",)),
    ],
)
def test_what_cannot_be_used_ends_in_one_line(folder, tmp_path, file, values, words):
    path = changed(folder, tmp_path / "8", file, **values)
    with complaint(*words):
        read_pipeline(path, KNOWN).build(torch.device("cpu"), "float32")


def test_damaged_and_missing_files_are_named(folder, tmp_path):
    for number, (file, words) in enumerate(
        [
            (SCHEDULER, ("scheduler_config.json", "no such file", "save_pretrained")),
            ("unet/diffusion_pytorch_model.safetensors", ("no such file",)),
        ]
    ):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        (copy / file).unlink()
        with complaint(*words):
            read_pipeline(copy, KNOWN)
    copy = tmp_path / "cut"
    shutil.copytree(folder, copy)
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with complaint("diffusion_pytorch_model.safetensors", "no whole .safetensors", "copy it again"):
        read_pipeline(copy, KNOWN)
    (copy / SCHEDULER).write_text("{")
    with complaint("scheduler_config.json", "no JSON"):
        read_pipeline(copy, KNOWN)


def test_without_the_package_it_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    stored = read_pipeline(folder, KNOWN)  # to plan needs no package
    with complaint("diffusers", "no such package", "pip install diffusers"):
        stored.build(torch.device("cpu"), "float32")


def test_models_of_a_folder_are_named_by_k(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m" / "16")
    shutil.copytree(folder, tmp_path / "m" / "8")
    (tmp_path / "m" / "2").mkdir()  # no model
    (tmp_path / "m" / "2" / "config.json").write_text("{}")
    assert list(models_in(tmp_path / "m", "--ckpt-path")) == [8, 16]
    torch.save({}, tmp_path / "m" / "8.pt")
    with complaint("--ckpt-path", "8.pt and a folder 8", "keep one"):
        models_in(tmp_path / "m", "--ckpt-path")
    with complaint("--models", "no K.pt"):
        models_in(tmp_path, "--models")


@pytest.mark.parametrize("file", ["model_index.json", UNET, SCHEDULER, WEIGHTS])
def test_a_mutated_file_gives_one_line_or_a_model(folder, tmp_path, file):
    """Bytes at random places, many of them in the header: never a traceback, nor endless memory."""
    copy = tmp_path / "8"
    shutil.copytree(folder, copy)
    whole = (copy / file).read_bytes()
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for at in draw.integers(0, min(len(data), 3000), 3):
            data[at] = draw.integers(256)
        (copy / file).write_bytes(data)
        try:
            read_pipeline(copy, KNOWN).build(torch.device("cpu"), "float32")
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 10
