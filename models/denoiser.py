"""What every stage asks of a model: x_0, eps and the score at (x_t, t), whatever computes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.schedule import (
    Schedule,
    coefficients,
    eps_from_v,
    factor,
    predict_eps,
    predict_x0,
    score,
    x0_from_v,
)

PREDICTIONS = ("epsilon", "sample", "v")


class Denoiser(ABC):
    """The denoiser D(x_t, t) = E[x_0 | x_t]. Subclasses define eps.

    t is one time for all rows, or int64 [B] on the CPU, one for each row, in 0 .. T - 1. `shape`
    is (C, H, W), `schedule` the noise schedule, `device` the device of the tensors x_t."""

    shape: tuple[int, ...]
    schedule: Schedule
    device: torch.device

    @abstractmethod
    def eps(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """The noise in x_t: [B, C, H, W] at time t."""

    def x_0(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """The clean image that follows from x_t and eps, not clipped."""
        return predict_x0(x_t, self.eps(x_t, t), self.schedule.alpha_bar_at(t))

    def score(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """s(x_t, t) = -eps / sqrt(1 - alpha_bar_t)."""
        return score(self.eps(x_t, t), self.schedule.alpha_bar_at(t))


class NetworkDenoiser(Denoiser):
    """A network that predicts epsilon, sample (x_0) or v (`predict_v`), without gradients.

    network: called with x_t [B, C, H, W] and t int64 [B], 0 .. T - 1; a Module, or any function
    with the device of its tensors. `dtype` bfloat16 runs it under autocast; inputs and results stay
    float32."""

    def __init__(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule,
        shape: tuple[int, ...],
        prediction_type: str = "epsilon",
        scale_by_sigma: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        if prediction_type not in PREDICTIONS:
            remedy = f"choose {', '.join(PREDICTIONS)}"
            raise ValueError(f"prediction_type: found {prediction_type!r}; {remedy}")
        self.network, self.schedule, self.shape = frozen(network), schedule, shape
        self.prediction_type, self.scale_by_sigma = prediction_type, scale_by_sigma
        self.dtype = dtype
        self.device = device or device_of(network)
        # The class of all rows, int64 [], or of each row, [B]; of a class-conditional network.
        self.labels: Tensor | None = None

    def output(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """What the network predicts, noise, x_0 or v: [B, C, H, W] at time t."""
        times = torch.as_tensor(t).expand(len(x_t)).to(x_t.device)
        labels = None if self.labels is None else self.labels.expand(len(x_t)).to(x_t.device)
        how = (self.schedule, self.scale_by_sigma, self.dtype)
        return predict(self.network, x_t, times, *how, labels)

    def eps(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        output, alpha_bar = self.output(x_t, t), self.schedule.alpha_bar_at(t)
        if self.prediction_type == "epsilon":
            return output
        if self.prediction_type == "sample":
            return predict_eps(x_t, output, alpha_bar)
        return eps_from_v(x_t, output, alpha_bar)

    def x_0(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        output, alpha_bar = self.output(x_t, t), self.schedule.alpha_bar_at(t)
        if self.prediction_type == "sample":
            return output
        if self.prediction_type == "epsilon":
            return predict_x0(x_t, output, alpha_bar)
        return x0_from_v(x_t, output, alpha_bar)


class SigmaDenoiser(Denoiser):
    """A denoiser of the variance-exploding form, D(y; sigma) = E[x_0 | y = x_0 + sigma n].

        x_0(x_t, t) = D(x_t / sqrt(alpha_bar_t); sigma_t),
        sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t)

    which is exact, since x_t / sqrt(alpha_bar_t) = x_0 + sigma_t eps. network: called with y
    [B, C, H, W] and sigma [B], both float32. schedule: any, as `Schedule.from_sigma` of the noise
    levels of the training. Source: Karras et al. 2022, arXiv 2206.00364, eq. 3 and table 1."""

    def __init__(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule,
        shape: tuple[int, ...],
        device: torch.device | None = None,
    ) -> None:
        self.network, self.schedule, self.shape = frozen(network), schedule, shape
        self.device = device or device_of(network)

    def x_0(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        alpha_bar = self.schedule.alpha_bar_at(t)
        scale, sigma = (1 / alpha_bar).sqrt(), ((1 - alpha_bar) / alpha_bar).sqrt()
        levels = sigma.expand(len(x_t)).to(x_t.device, x_t.dtype)
        return self.network(factor(scale, x_t) * x_t, levels).float()

    def eps(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        return predict_eps(x_t, self.x_0(x_t, t), self.schedule.alpha_bar_at(t))


def frozen(network: Callable) -> Callable:
    """The network, its weights fixed and its dropout off where it is a Module."""
    return network.eval().requires_grad_(False) if isinstance(network, nn.Module) else network


def device_of(network: Callable) -> torch.device:
    """The device of a Module's weights. Raises ValueError where there are none."""
    weights = network.parameters() if isinstance(network, nn.Module) else iter(())
    weight = next(weights, None)
    if weight is None:
        raise ValueError("device: found a network without weights; give the device of its tensors")
    return weight.device


def predict(
    network: Callable[..., Tensor],
    x_t: Tensor,
    t: Tensor,
    schedule: Schedule,
    scale_by_sigma: bool,
    dtype: torch.dtype,
    labels: Tensor | None = None,
) -> Tensor:
    """The network's output in float32, computed in dtype; x_t: [B, C, H, W], t and labels: [B].

    scale_by_sigma divides it by sqrt(1 - alpha_bar_t)."""
    with torch.autocast(x_t.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = (network(x_t, t) if labels is None else network(x_t, t, labels)).float()
    if scale_by_sigma:
        output = output / coefficients(schedule.alpha_bar_at(t.cpu()), output)[1]
    return output
