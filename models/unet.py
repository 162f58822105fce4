"""The U-Net of DDPM, with the parameter names of the published checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, cat, nn

from models.layers import (
    NONLINEARITIES,
    AttentionBlock,
    Downsample,
    ResidualBlock,
    Upsample,
    conv,
    dense,
    group_norm,
    time_embedding,
)


class UNet(nn.Module):
    """Predicts the noise (or x_0) in x_t; `forward(x, t)` with x [B, C, H, W], t [B] in steps.

    With num_classes, `forward(x, t, labels)`: an embedding of the class, labels int64 [B], is added
    to that of the time (as Dhariwal and Nichol 2021, arXiv 2105.05233).

    The modules are in one flat list, in the order of the published checkpoints: two Linear for
    the time, conv_in, the levels downwards, the middle, the levels upwards, GroupNorm, conv_out.
    `plan` tells which of them are blocks, attention and resampling.

    Raises ValueError if dim is not a multiple of 32, or the side cannot be halved often enough.
    Source: Ho et al. 2020, arXiv 2006.11239, appendix B."""

    def __init__(
        self,
        image_size: int = 32,
        in_channels: int = 3,
        dim: int = 128,
        dim_mults: Sequence[int] = (1, 2, 2, 2),
        attn_resolutions: Sequence[int] = (16,),
        num_res_blocks: int = 2,
        dropout: float = 0.0,
        conditional: bool = True,
        resamp_with_conv: bool = True,
        nonlinearity: str = "swish",
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        levels = len(dim_mults)
        if dim < 32 or dim % 32:
            raise ValueError(f"dim: found {dim}; group norm needs a multiple of 32")
        if image_size % 2 ** (levels - 1):
            raise ValueError(f"image_size: found {image_size}; {levels} levels halve it too often")
        self.image_size, self.in_channels, self.dim = image_size, in_channels, dim
        self.conditional = conditional
        self.act = NONLINEARITIES[nonlinearity]
        time_dim = 4 * dim if conditional else None
        self.all_modules = nn.ModuleList()
        self.plan: list[str] = []  # the kind of each module after conv_in; push and pop are skips

        def add(kind: str, module: nn.Module) -> None:
            self.plan.append(kind)
            self.all_modules.append(module)

        def add_block(kind: str, channels_in: int, channels_out: int, resolution: int) -> None:
            block = ResidualBlock(channels_in, channels_out, time_dim, dropout, self.act)
            if resolution in attn_resolutions:
                add("block", block)
                add(f"attention {kind}", AttentionBlock(channels_out))
            else:
                add(f"block {kind}", block)

        if num_classes and not conditional:
            raise ValueError(f"num_classes: found {num_classes} without conditional; set it")
        self.label_embedding = nn.Embedding(num_classes, time_dim) if num_classes else None
        if conditional:
            self.all_modules.extend([dense(dim, 4 * dim), dense(4 * dim, 4 * dim)])
        self.all_modules.append(conv(in_channels, dim, padding=1))
        channels, skips = dim, [dim]
        for level, mult in enumerate(dim_mults):
            for _ in range(num_res_blocks):
                add_block("push", channels, dim * mult, image_size // 2**level)
                channels = dim * mult
                skips.append(channels)
            if level < levels - 1:
                add("down push", Downsample(channels, resamp_with_conv))
                skips.append(channels)
        add("block", ResidualBlock(channels, channels, time_dim, dropout, self.act))
        add("attention", AttentionBlock(channels))
        add("block", ResidualBlock(channels, channels, time_dim, dropout, self.act))
        for level, mult in reversed(list(enumerate(dim_mults))):
            for _ in range(num_res_blocks + 1):
                self.plan.append("pop")
                add_block("", channels + skips.pop(), dim * mult, image_size // 2**level)
                channels = dim * mult
            if level > 0:
                add("up", Upsample(channels, resamp_with_conv))
        self.all_modules.extend([group_norm(channels), conv(channels, in_channels, 0, padding=1)])

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        modules = iter(self.all_modules)
        temb = None
        if self.conditional:
            temb = next(modules)(time_embedding(t, self.dim))
            temb = next(modules)(self.act(temb))  # [B, 4 dim]
        if self.label_embedding is not None:
            temb = temb + self.label_embedding(labels)
        h = next(modules)(x)
        skips = [h]
        for step in self.plan:
            if step == "pop":
                h = cat([h, skips.pop()], dim=1)
                continue
            module = next(modules)
            h = module(h, temb) if step.startswith("block") else module(h)
            if step.endswith("push"):
                skips.append(h)
        h = self.act(next(modules)(h))
        return next(modules)(h)  # [B, C, H, W]
