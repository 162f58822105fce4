"""A converted checkpoint is the same model in diffusers: network, samplers, bytes, refusals."""

import json

import pytest
import torch

from models.samplers import ddim, ddpm
from models.schedule import SCHEDULES, Schedule
from tests.helpers.models import random_network
from tests.helpers.runs import assert_one_line, run_here, run_script, train_options, with_options
from utils import to_diffusers as converter
from utils.cli.errors import UserError
from utils.cli.options.sections import TrainStage
from utils.files.arrays import read_npz
from utils.inputs.checkpoints import (
    Checkpoint,
    denoiser_of,
    load_checkpoint,
    save_checkpoint,
)
from utils.inputs.diffusers_names import (
    diffusers_config,
    from_diffusers,
    parameter_names,
    scheduler_config,
    to_diffusers,
)
from utils.stages.train import stage as train
from utils.to_diffusers import convert, to_safetensors

FILES = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
]
SMALL = {
    **{"image_size": 8, "in_channels": 1, "dim": 32, "dim_mults": (1, 2)},
    **{"attn_resolutions": (4,), "num_res_blocks": 1},
}
CHURCH = {"image_size": 64, "in_channels": 3, "dim_mults": (1, 1, 2, 2, 4, 4)}
NETWORKS = {
    "small": {},
    "one level": {"dim_mults": (1,), "attn_resolutions": ()},
    "one level with attention": {"dim_mults": (1,), "attn_resolutions": (8,), "in_channels": 3},
    "no attention": {"attn_resolutions": (), "num_res_blocks": 2},
    "attention first": {"dim_mults": (1, 2, 2), "attn_resolutions": (8,)},
    "attention between": {"image_size": 16, "dim_mults": (1, 2, 2), "attn_resolutions": (8, 5)},
    "attention everywhere": {"dim_mults": (1, 2, 4), "attn_resolutions": (8, 4, 2), "dim": 64},
    "narrower below": {"dim_mults": (1, 3, 1), "num_res_blocks": 2, "in_channels": 3},
    "dropout": {"dropout": 0.5, "num_res_blocks": 3},
    "church": {**CHURCH, "attn_resolutions": (16,), "num_res_blocks": 2},
}


def options(**model) -> dict:
    """The resolved args of a training of the small network, unless model says else."""
    stage = with_options(TrainStage, train={"timesteps": 50, "train_size": 8}, model=model)
    return train.training_args(stage)


def save(path, args: dict):
    """A checkpoint of random weights under path; other weights than the averaged ones differ."""
    state = random_network(args["model"]).state_dict()
    other = {name: value + 1 for name, value in state.items()}
    save_checkpoint(path, Checkpoint(other, state, {}, args, 0))
    return path


def load_pipeline(folder):
    from diffusers import DDPMPipeline

    pipeline = DDPMPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def compare_networks(ours, theirs, model: dict, times=(0, 1, 25, 500, 999)) -> None:
    x = torch.randn(len(times), model["in_channels"], model["image_size"], model["image_size"])
    with torch.no_grad():
        expected, result = ours(x, torch.tensor(times)), theirs(x, torch.tensor(times)).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_the_same_numbers(name, tmp_path):
    from diffusers import UNet2DModel

    args = options(**{**SMALL, **NETWORKS[name]})
    source = save(tmp_path / "8.pt", args)
    convert(source, tmp_path / "folder")
    theirs, info = UNet2DModel.from_pretrained(
        tmp_path / "folder" / "unet", output_loading_info=True, local_files_only=True
    )
    assert not any(info.values()), info
    assert not theirs.training and theirs.config.dropout == args["model"]["dropout"]
    ours = random_network(args["model"])
    compare_networks(ours, theirs, args["model"])
    norms = [m for m in theirs.modules() if isinstance(m, torch.nn.GroupNorm)]
    # Outputs near 1 hardly tell eps 1e-6 from 1e-5, which is diffusers' own.
    assert {(n.eps, n.num_groups) for n in norms} == {(1e-6, 32)}
    back = from_diffusers(theirs.state_dict(), args["model"])
    assert list(back) == list(ours.state_dict())
    for key, value in ours.state_dict().items():
        assert torch.equal(back[key], value) and back[key].is_contiguous(), key


def test_the_original_checkpoint_gives_the_original_numbers(shared, tmp_path):
    convert(shared / "reference" / "16.pt", tmp_path / "folder")
    arrays = read_npz(shared / "reference" / "16_forward.npz")
    pipeline = load_pipeline(tmp_path / "folder")
    with torch.no_grad():
        out = pipeline.unet(torch.tensor(arrays["x"]), torch.tensor(arrays["t"])).sample
    torch.testing.assert_close(out, torch.tensor(arrays["ema_out"]), rtol=0, atol=1e-5)
    assert pipeline.scheduler.config.num_train_timesteps == 1000


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two models of 20 timesteps, trained as a user trains them, and their folders."""
    made = {}
    for prediction in ("epsilon", "sample"):
        folder = tmp_path_factory.mktemp(prediction)
        flags = ["--iterations", 60, "--lr", 0.003, "--prediction-type", prediction]
        train.run(train_options(folder, *flags, "--ema-decay", 0.5, "--ckpt-every", 60))
        convert(folder / "models" / "8.pt", folder / "out")
        made[prediction] = folder / "models" / "8.pt", folder / "out"
    return made


def our_denoiser(path):
    return denoiser_of(load_checkpoint(path), path, torch.device("cpu"), "float32")


def seeded(shape=(3, 1, 8, 8)):
    """The noise that diffusers draws from a generator of seed 1: x_T, then one for each step."""
    generator = torch.Generator().manual_seed(1)
    return lambda: torch.randn(shape, generator=generator)


@pytest.mark.parametrize("steps", [20, 7, 2])
@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_a_ddpm_run_of_the_pipeline_is_ours(trained, prediction, steps):
    source, folder = trained[prediction]
    pipeline = load_pipeline(folder)
    generator = torch.Generator().manual_seed(1)
    theirs = pipeline(3, generator, num_inference_steps=steps, output_type="pt").images
    ours = ddpm(our_denoiser(source), seeded(), steps)
    assert ours.std() > 0.2
    torch.testing.assert_close(theirs, ours / 2 + 0.5, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_a_ddim_run_of_the_pipeline_is_ours(trained, prediction):
    from diffusers import DDIMPipeline, DDIMScheduler

    source, folder = trained[prediction]
    ddpm_pipeline = load_pipeline(folder)
    scheduler = DDIMScheduler.from_config(ddpm_pipeline.scheduler.config)
    pipeline = DDIMPipeline(ddpm_pipeline.unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    flags = {"num_inference_steps": 20, "use_clipped_model_output": True, "output_type": "pt"}
    theirs = pipeline(3, generator, **flags).images
    ours = ddim(our_denoiser(source), seeded(), 20)
    torch.testing.assert_close(theirs, ours / 2 + 0.5, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("timesteps", [2, 20, 1000])
def test_the_scheduler_has_our_betas_and_times(timesteps, name):
    from diffusers import DDPMScheduler

    ours = Schedule(timesteps, name)
    theirs = DDPMScheduler(**scheduler_config(ours, "v"))
    assert theirs.config.prediction_type == "v_prediction"
    torch.testing.assert_close(theirs.betas, ours.beta.float())
    for steps in {2, min(50, timesteps), timesteps}:
        theirs.set_timesteps(steps)
        assert theirs.timesteps.tolist() == ours.times(steps)


def test_the_default_pipeline_makes_pictures(trained):
    (image,) = load_pipeline(trained["epsilon"][1])(1, num_inference_steps=20).images
    assert image.size == (8, 8) and image.mode == "L"


def test_the_averaged_weights_are_the_ones_written(tmp_path):
    args = options(**SMALL)
    convert(save(tmp_path / "8.pt", args), tmp_path / "folder")
    compare_networks(
        random_network(args["model"]), load_pipeline(tmp_path / "folder").unet, args["model"]
    )


def content(folder) -> dict:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_a_folder_holds_four_files_and_the_same_bytes_each_time(tmp_path):
    source = save(tmp_path / "8.pt", options(**SMALL))
    convert(source, tmp_path / "a")
    convert(source, tmp_path / "b" / "c")
    assert sorted(content(tmp_path / "a")) == FILES
    assert content(tmp_path / "a") == content(tmp_path / "b" / "c")
    for name in FILES[:3]:
        text = (tmp_path / "a" / name).read_text()
        assert text.endswith("}\n") and str(tmp_path) not in text and json.loads(text)


def test_safetensors_reads_what_we_write(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file

    tensors = {
        "b.weight": torch.randn(3, 5).T,  # not contiguous
        "a": torch.randn(2, 3, 1, 1, dtype=torch.float64),
        "half": torch.randn(3).half(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "ü": torch.nn.Parameter(torch.ones(1)),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(to_safetensors(tensors))
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    read = load_file(path)
    assert list(read) and set(read) == set(tensors)
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype and torch.equal(read[name], value), name
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    other_order = dict(reversed(tensors.items()))
    assert to_safetensors(other_order) == path.read_bytes()


REFUSED = [
    ({"conditional": False}, "conditional: found False"),
    ({"resamp_with_conv": False}, "resamp_with_conv: found False"),
    ({"nonlinearity": "relu"}, "nonlinearity: found 'relu'"),
    ({"nonlinearity": "elu"}, "nonlinearity: found 'elu'"),
    ({"scale_by_sigma": True}, "scale_by_sigma: found True"),
    ({"dim_mults": (2, 2)}, "dim_mults: found [2, 2]"),
]


@pytest.mark.parametrize(("model", "message"), REFUSED)
def test_what_diffusers_lacks_is_refused_and_nothing_written(model, message, tmp_path):
    args = options(**{**SMALL, **model})
    source = save(tmp_path / "8.pt", args)
    with pytest.raises(UserError) as raised:
        convert(source, tmp_path / "folder")
    assert str(source) in str(raised.value) and message in str(raised.value)
    assert not (tmp_path / "folder").exists()
    for function in (diffusers_config, parameter_names):
        with pytest.raises(ValueError) as raised:
            function(args["model"])
        assert str(raised.value).startswith(message)


def test_a_state_of_other_options_is_refused():
    model = options(**SMALL)["model"]
    state = random_network(model).state_dict()
    named = to_diffusers(state, model)
    lacking = dict(list(state.items())[1:])
    with pytest.raises(ValueError, match=r"state: found no 'all_modules.0.weight'"):
        to_diffusers(lacking, model)
    with pytest.raises(ValueError, match="state: found an unknown 'x'"):
        to_diffusers({**state, "x": torch.ones(1)}, model)
    with pytest.raises(ValueError, match="state: found an unknown 'y'"):
        from_diffusers({**named, "y": torch.ones(1)}, model)
    with pytest.raises(ValueError, match="prediction_type: found 'v_prediction'"):
        scheduler_config(Schedule(20), "v_prediction")


def test_weights_that_misfit_are_refused(tmp_path):
    args = options(**SMALL)
    wrong = {**args, "model": {**args["model"], "dim": 64}}
    source = tmp_path / "8.pt"
    state = random_network(args["model"]).state_dict()
    save_checkpoint(source, Checkpoint(state, state, {}, wrong, 0))
    with pytest.raises(UserError, match="do not fit its options"):
        convert(source, tmp_path / "folder")
    with pytest.raises(UserError, match="9.pt"):
        convert(tmp_path / "9.pt", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_folder_with_other_content_is_left_alone(tmp_path):
    args, folder = options(**SMALL), tmp_path / "folder"
    source = save(tmp_path / "8.pt", args)
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"folder: found unet/notes.txt in it; .*--overwrite"):
        convert(source, folder)
    assert list(content(folder)) == ["unet/notes.txt"]
    convert(source, folder, overwrite=True)
    assert sorted(content(folder)) == sorted([*FILES, "unet/notes.txt"])
    assert (folder / "unet" / "notes.txt").read_text() == "mine"
    convert(source, folder)  # done already
    other = {**args, "train": {**args["train"], "timesteps": 30}}
    before = content(folder)
    (folder / "unet" / "notes.txt").unlink()
    with pytest.raises(UserError, match=r"model_index.json in it"):
        convert(save(tmp_path / "checkpoints" / "8.pt", other), folder)
    assert {**before, **content(folder)} == before
    convert(tmp_path / "checkpoints" / "8.pt", folder, overwrite=True)
    assert load_pipeline(folder).scheduler.config.num_train_timesteps == 30
    with pytest.raises(UserError, match=r"8.pt: found"):
        convert(source, source)


def test_a_killed_conversion_is_not_whole_and_goes_on(tmp_path, monkeypatch):
    source, folder = save(tmp_path / "8.pt", options(**SMALL)), tmp_path / "folder"
    real = converter.atomic_write

    def killed(path):
        if path.name == "scheduler_config.json":
            raise KeyboardInterrupt
        return real(path)

    convert(source, tmp_path / "whole")
    for overwrite in (False, True):
        monkeypatch.setattr(converter, "atomic_write", killed)
        with pytest.raises(KeyboardInterrupt):
            convert(source, folder, overwrite)
        assert not (folder / "model_index.json").exists()
        monkeypatch.setattr(converter, "atomic_write", real)
        (folder / "unet" / ".config.json.0.part").write_bytes(b"half")
        convert(source, folder)
        (folder / "unet" / ".config.json.0.part").unlink()
        assert content(folder) == content(tmp_path / "whole")


def test_the_command(tmp_path):
    train.run(train_options(tmp_path))
    run_module = "import runpy; runpy.run_module('utils.to_diffusers', run_name='__main__')"
    model, folder = tmp_path / "models" / "8.pt", tmp_path / "out"
    flags = ("--ckpt-path", model, "--result-path", folder)
    done = run_here("utils/to_diffusers.py", *flags, "--dry-run")
    assert f"would write {folder}/unet/diffusion_pytorch_model.safetensors" in done.stdout
    assert not folder.exists()
    done = run_script("-c", run_module, *flags)
    assert done.returncode == 0 and f"DDPMPipeline.from_pretrained('{folder}')" in done.stdout
    assert (folder / "model_index.json").is_file()
    assert_one_line(run_here("utils/to_diffusers.py"), "--ckpt-path: found nothing")
    (folder / "notes.txt").write_text("mine")
    train.run(train_options(tmp_path, "--overwrite", "--lr", "0.01"))
    assert_one_line(run_here("utils/to_diffusers.py", *flags), str(folder), "--overwrite")
