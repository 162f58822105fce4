"""The toy's score network for noised points of the plane; several networks are stacked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HIDDEN_LAYERS = 128, 4
FREQUENCIES, FREQUENCY_SCALE = 64, 16.0


class ScoreNets(nn.Module):
    """n networks s(x, t) of one shape; each weight is stacked, [n, ...], for batched products.

        e(t) = (sin 2 pi f t, cos 2 pi f t),   f ~ N(0, 16^2) fixed, 64 of them
        s(x, t) = MLP(x, e(t)) / sqrt(t),      4 hidden layers of 128, SiLU

    The initial weights and the frequencies of a network depend on its own seed alone, and no
    output of one network depends on the others.
    Source: Song et al. 2021, arXiv 2011.13456, sec. 5 (Fourier features: Tancik et al. 2020,
    arXiv 2006.10739); the sizes are those of Pham et al. 2025."""

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        widths = list(pairwise([2, *[WIDTH] * HIDDEN_LAYERS, 2]))
        self.register_buffer("frequencies", FREQUENCY_SCALE * _stack(_normal, generators))
        self.time_weight = nn.Parameter(_uniform(generators, 2 * FREQUENCIES, WIDTH))
        # the first layer takes x and e(t) together: its bound is that of both
        fan_in = [2 + 2 * FREQUENCIES, *[WIDTH] * HIDDEN_LAYERS]
        self.weights = nn.ParameterList(
            _uniform(generators, a, b, fan) for (a, b), fan in zip(widths, fan_in, strict=True)
        )
        self.biases = nn.ParameterList(
            _uniform(generators, 1, b, fan) for (_, b), fan in zip(widths, fan_in, strict=True)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Scores like x [n, B, 2], for times t [n, B] or [1, 1] in (0, 1]."""
        t = t[..., None].expand(len(x), -1, 1)  # [n, B or 1, 1]
        phase = 2 * math.pi * self.frequencies * t
        embedding = torch.cat([phase.sin(), phase.cos()], dim=2)  # [n, B or 1, 128]
        h = torch.bmm(x, self.weights[0]) + torch.baddbmm(
            self.biases[0], embedding, self.time_weight
        )
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            h = torch.baddbmm(bias, functional.silu(h), weight)
        return h / t.sqrt()

    def state_of(self, i: int) -> dict[str, Tensor]:
        """A copy of the weights of network i, without the dimension of the stack."""
        return {name: value[i].clone() for name, value in self.state_dict().items()}

    def load_state_of(self, i: int, state: dict[str, Tensor]) -> None:
        """Give network i these weights. Raises ValueError where names or shapes differ."""
        stacked = self.state_dict()
        if state.keys() != stacked.keys():
            raise ValueError(f"weights: found {sorted(state)}; give {sorted(stacked)}")
        for name, value in state.items():
            target = stacked[name][i]
            if value.shape != target.shape:
                raise ValueError(f"{name}: found {list(value.shape)}; give {list(target.shape)}")
            target.copy_(value)


class NetworkScore:
    """One network as a function of points x [B, 2] and a time t, a float or [B]: scores like x.

    The network computes in float32, whatever the dtype of x."""

    def __init__(self, state: dict[str, Tensor], device: torch.device) -> None:
        self._net = ScoreNets([0])
        self._net.load_state_of(0, state)
        self._net.to(device).requires_grad_(False)

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float32, device=x.device)
        return self._net(x.float()[None], t.reshape(1, -1))[0].to(x)


def denoising_loss(nets: ScoreNets, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """mean |sqrt(t) s(x_0 + sqrt(t) z, t) + z|^2 of each network, [n].

    x_0, noise z: [n, B, 2]; t: [n, B]. Its minimum is the score of the noised points.
    Source: Vincent 2011; Song et al. 2021, arXiv 2011.13456, eq. 7 with weight t."""
    scale = t.sqrt()[..., None]
    return (scale * nets(x_0 + scale * noise, t) + noise).square().mean(dim=(1, 2))


def _normal(generator: torch.Generator) -> Tensor:
    return torch.randn(1, FREQUENCIES, generator=generator)


def _uniform(
    generators: Sequence[torch.Generator], rows: int, columns: int, fan_in: int | None = None
) -> Tensor:
    """[n, rows, columns], uniform within 1 / sqrt(fan_in) of 0, as PyTorch initialises layers."""
    bound = 1 / math.sqrt(fan_in or rows)
    return bound * (2 * _stack(lambda g: torch.rand(rows, columns, generator=g), generators) - 1)


def _stack(draw, generators: Sequence[torch.Generator]) -> Tensor:
    return torch.stack([draw(generator) for generator in generators])
