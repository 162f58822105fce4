"""Network and schedule under the names of the package diffusers, without importing it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from models.schedule import Schedule

# Names inside a module, ours -> theirs. The 1 x 1 convolutions are W [in, out] here, there
# `weight` [out, in] in attention and [out, in, 1, 1] on the way past a residual block.
LAYER = {"weight": "weight", "bias": "bias"}
NIN = {"W": "weight", "b": "bias"}
RESAMPLING = {"Conv_0": ("conv", LAYER)}
ATTENTION = {
    "GroupNorm_0": ("group_norm", LAYER),
    "NIN_0": ("to_q", NIN),
    "NIN_1": ("to_k", NIN),
    "NIN_2": ("to_v", NIN),
    "NIN_3": ("to_out.0", NIN),
}
BLOCK = {
    "GroupNorm_0": ("norm1", LAYER),
    "Conv_0": ("conv1", LAYER),
    "Dense_0": ("time_emb_proj", LAYER),
    "GroupNorm_1": ("norm2", LAYER),
    "Conv_1": ("conv2", LAYER),
}
WIDENING_BLOCK = {**BLOCK, "NIN_0": ("conv_shortcut", NIN)}  # where the channels change
Parts = Mapping[str, tuple[str, Mapping[str, str]]]


def diffusers_config(model_options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of diffusers' UNet2DModel for the network of resolved `model` options.

    Raises ValueError for options that UNet2DModel lacks: no time, resampling without convolutions,
    another nonlinearity than swish (its last one is fixed), a first level of other width than
    dim (one number is both there), and an output that is divided by sigma."""
    for name, required, why in (
        ("conditional", True, "UNet2DModel always takes the time"),
        ("resamp_with_conv", True, "UNet2DModel always resamples with convolutions"),
        ("nonlinearity", "swish", "UNet2DModel ends with swish"),
        ("scale_by_sigma", False, "UNet2DModel does not divide its output"),
        ("num_classes", 0, "networks that take a class are not converted"),
    ):
        if model_options.get(name, required) != required:
            raise ValueError(f"{name}: found {model_options[name]!r}; {why}")
    mults = model_options["dim_mults"]
    if list(mults[:1]) != [1]:
        raise ValueError(f"dim_mults: found {list(mults)}; UNet2DModel's first level is of 1 x dim")
    channels, attends = model_options["in_channels"], _attends(model_options)
    return {
        "sample_size": model_options["image_size"],
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": [model_options["dim"] * mult for mult in mults],
        "layers_per_block": model_options["num_res_blocks"],
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "mid_block_type": "UNetMidBlock2D",
        "add_attention": True,  # in the middle, whatever the resolutions
        "attention_head_dim": None,  # one head of all channels; the default is 8
        "dropout": model_options["dropout"],
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-6,
        "downsample_padding": 0,  # right and below only
        "time_embedding_type": "positional",
        "flip_sin_to_cos": False,  # sine first
        "freq_shift": 1,  # frequencies over dim / 2 - 1
    }


# The names of schedules and of what a network predicts, ours -> theirs.
SCHEDULES = {"linear": "linear", "scaled-linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v": "v_prediction"}


def scheduler_config(schedule: Schedule, prediction_type: str) -> dict[str, Any]:
    """The arguments of diffusers' DDPMScheduler that make it `models.samplers.ddpm`.

    prediction_type: epsilon, sample or v. With linspace it takes the times of `Schedule.times` for
    2 .. T steps too, except that for some counts (103 of 1000, but not 50, 100 or 250) a time half
    way between two whole numbers is rounded to the other. Raises ValueError for other
    predictions."""
    if prediction_type not in PREDICTIONS:
        raise ValueError(f"prediction_type: found {prediction_type!r}")
    theirs = SCHEDULES.get(schedule.name)
    betas = {"beta_start": schedule.beta[0].item(), "beta_end": schedule.beta[-1].item()}
    betas |= {"beta_schedule": theirs} if theirs else {"trained_betas": schedule.beta.tolist()}
    return {
        "num_train_timesteps": schedule.timesteps,
        **betas,
        "variance_type": "fixed_small",  # that of the posterior
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "prediction_type": PREDICTIONS[prediction_type],
        "timestep_spacing": "linspace",
    }


def to_diffusers(
    state: Mapping[str, Tensor], model_options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The state dict of diffusers' UNet2DModel for that of our UNet.

    Raises ValueError for options that `diffusers_config` refuses, and other names than theirs."""
    names = parameter_names(model_options)
    _check_same(state, names)
    return {names[ours]: _converted(ours, names[ours], value) for ours, value in state.items()}


def from_diffusers(
    state: Mapping[str, Tensor], model_options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The way back: the state dict of our UNet. Raises ValueError as `to_diffusers` does."""
    names = parameter_names(model_options)
    _check_same(state, names.values())
    return {ours: _converted(ours, theirs, state[theirs], True) for ours, theirs in names.items()}


def parameter_names(model_options: Mapping[str, Any]) -> dict[str, str]:
    """Every parameter's name in our UNet -> in diffusers' UNet2DModel, in our order.

    Raises ValueError for options that `diffusers_config` refuses."""
    diffusers_config(model_options)
    return {
        ".".join(filter(None, ("all_modules", str(index), part, leaf))): f"{theirs}.{their_leaf}"
        for index, (module, parts) in enumerate(_modules(model_options))
        for part, (their_part, leaves) in parts.items()
        for theirs in [f"{module}.{their_part}" if their_part else module]
        for leaf, their_leaf in leaves.items()
    }


def _modules(model_options: Mapping[str, Any]) -> Iterator[tuple[str, Parts]]:
    """diffusers' name and the parts of each of our modules, in the order of `UNet.all_modules`."""
    mults, blocks = model_options["dim_mults"], model_options["num_res_blocks"]
    attends, layer = _attends(model_options), {"": ("", LAYER)}
    last = len(mults) - 1
    yield from (("time_embedding.linear_1", layer), ("time_embedding.linear_2", layer))
    yield "conv_in", layer
    for level, (mult, before) in enumerate(zip(mults, [1, *mults[:-1]], strict=True)):
        first = BLOCK if mult == before else WIDENING_BLOCK
        name = f"down_blocks.{level}"
        yield from _level(name, [first] + [BLOCK] * (blocks - 1), attends[level])
        if level < last:
            yield f"{name}.downsamplers.0", RESAMPLING
    yield "mid_block.resnets.0", BLOCK
    yield "mid_block.attentions.0", ATTENTION
    yield "mid_block.resnets.1", BLOCK
    for level in range(last, -1, -1):
        name = f"up_blocks.{last - level}"  # numbered from the middle upwards
        # The skip connections widen the input of every block here.
        yield from _level(name, [WIDENING_BLOCK] * (blocks + 1), attends[level])
        if level > 0:
            yield f"{name}.upsamplers.0", RESAMPLING
    yield from (("conv_norm_out", layer), ("conv_out", layer))


def _level(name: str, blocks: Sequence[Parts], attends: bool) -> Iterator[tuple[str, Parts]]:
    for number, block in enumerate(blocks):
        yield f"{name}.resnets.{number}", block
        if attends:
            yield f"{name}.attentions.{number}", ATTENTION


def _attends(model_options: Mapping[str, Any]) -> list[bool]:
    """Whether each level, from the full resolution down, has attention."""
    side, sides = model_options["image_size"], model_options["attn_resolutions"]
    return [side // 2**level in sides for level in range(len(model_options["dim_mults"]))]


def _converted(ours: str, theirs: str, value: Tensor, back: bool = False) -> Tensor:
    """A weight in the other network's layout; only the 1 x 1 convolutions differ."""
    if not ours.endswith(".W"):
        return value
    if "conv_shortcut" not in theirs:
        return value.T.contiguous()  # [in, out] <-> [out, in]
    if back:
        return value[:, :, 0, 0].T.contiguous()  # [in, out]
    return value.T[:, :, None, None].contiguous()  # [out, in, 1, 1]


def _check_same(state: Mapping[str, Tensor], names: Iterable[str]) -> None:
    expected = set(names)
    for what, difference in (("no", expected - set(state)), ("an unknown", set(state) - expected)):
        if difference:
            raise ValueError(f"state: found {what} {min(difference)!r}; its options are others")
