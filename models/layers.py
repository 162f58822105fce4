"""Building blocks of the DDPM U-Net (Ho et al. 2020, arXiv 2006.11239, appendix B), NCHW.

Attribute names (`GroupNorm_0`, `NIN_3`, ...) are those in the published checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": F.silu,
    "relu": F.relu,
    "lrelu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
}


def time_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding [sin(t f), cos(t f)], f_i = exp(-ln(10000) i / (dim / 2 - 1)).

    t: [B], in steps; dim even, 4 or more. Returns [B, dim]. Source: Vaswani et al. 2017, 3.5."""
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(10_000) / (half - 1) * steps)
    angles = t.float()[:, None] * frequencies  # [B, half]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def variance_scaling_(weight: Tensor, fan_in: int, fan_out: int, scale: float = 1.0) -> None:
    """Fill weight uniformly with variance scale / mean(fan_in, fan_out); scale 0 means 1e-10."""
    bound = math.sqrt(3 * (scale or 1e-10) / ((fan_in + fan_out) / 2))
    nn.init.uniform_(weight, -bound, bound)


def conv(in_channels: int, out_channels: int, scale: float = 1.0, **options: int) -> nn.Conv2d:
    """A 3 x 3 convolution, initialised as published, with zero bias."""
    layer = nn.Conv2d(in_channels, out_channels, 3, **options)
    variance_scaling_(layer.weight, 9 * in_channels, 9 * out_channels, scale)
    nn.init.zeros_(layer.bias)
    return layer


def dense(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer, initialised as published, with zero bias."""
    layer = nn.Linear(in_features, out_features)
    variance_scaling_(layer.weight, in_features, out_features)
    nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class NIN(nn.Module):
    """A 1 x 1 convolution ("network in network"): W [in, out], b [out]; [B, in, H, W] in."""

    def __init__(self, in_channels: int, out_channels: int, scale: float = 0.1) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(in_channels, out_channels))
        self.b = nn.Parameter(torch.zeros(out_channels))
        variance_scaling_(self.W, in_channels, out_channels, scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.W.t()[:, :, None, None], self.b)


class ResidualBlock(nn.Module):
    """x + h, h: norm, act, conv, + time, norm, act, dropout, conv; x by 1 x 1 if channels change.

    x: [B, in, H, W]; temb: [B, time_dim] or None. Returns [B, out, H, W]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_dim: int | None,
        dropout: float,
        act: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.act = act
        self.GroupNorm_0 = group_norm(in_channels)
        self.Conv_0 = conv(in_channels, out_channels, padding=1)
        if time_dim is not None:
            self.Dense_0 = dense(time_dim, out_channels)
        self.GroupNorm_1 = group_norm(out_channels)
        self.Dropout_0 = nn.Dropout(dropout)
        self.Conv_1 = conv(out_channels, out_channels, scale=0, padding=1)
        if in_channels != out_channels:
            self.NIN_0 = NIN(in_channels, out_channels)

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        h = self.Conv_0(self.act(self.GroupNorm_0(x)))
        if temb is not None:
            h = h + self.Dense_0(self.act(temb))[:, :, None, None]
        h = self.Conv_1(self.Dropout_0(self.act(self.GroupNorm_1(h))))
        return h + (self.NIN_0(x) if hasattr(self, "NIN_0") else x)


class AttentionBlock(nn.Module):
    """x + NIN_3(softmax(q k / sqrt(C)) v) over all pixels, one head; x: [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels)
        self.NIN_0 = NIN(channels, channels)
        self.NIN_1 = NIN(channels, channels)
        self.NIN_2 = NIN(channels, channels)
        self.NIN_3 = NIN(channels, channels, scale=0)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.GroupNorm_0(x)
        q, k, v = (
            nin(normed).flatten(2).transpose(1, 2).unsqueeze(1)  # [B, 1, H W, C]
            for nin in (self.NIN_0, self.NIN_1, self.NIN_2)
        )
        h = F.scaled_dot_product_attention(q, k, v)  # scaled by C^-1/2
        return x + self.NIN_3(h.squeeze(1).transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halve the side: a 3 x 3 convolution with stride 2, padded right and below; or 2 x 2 means."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        if with_conv:
            self.Conv_0 = conv(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "Conv_0"):
            return self.Conv_0(F.pad(x, (0, 1, 0, 1)))
        return F.avg_pool2d(x, 2)


class Upsample(nn.Module):
    """Double the side by nearest neighbours; with_conv, a 3 x 3 convolution follows."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        if with_conv:
            self.Conv_0 = conv(channels, channels, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.Conv_0(x) if hasattr(self, "Conv_0") else x
