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

    `dtype` bfloat16 runs the network under autocast; inputs and results stay float32."""

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        shape: tuple[int, ...],
        prediction_type: str = "epsilon",
        scale_by_sigma: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if prediction_type not in PREDICTIONS:
            remedy = f"choose {', '.join(PREDICTIONS)}"
            raise ValueError(f"prediction_type: found {prediction_type!r}; {remedy}")
        self.network = network.eval().requires_grad_(False)
        self.schedule, self.shape = schedule, shape
        self.prediction_type, self.scale_by_sigma = prediction_type, scale_by_sigma
        self.dtype = dtype
        self.device = next(network.parameters()).device

    def output(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """What the network predicts, noise, x_0 or v: [B, C, H, W] at time t."""
        times = torch.as_tensor(t).expand(len(x_t)).to(x_t.device)
        return predict(self.network, x_t, times, self.schedule, self.scale_by_sigma, self.dtype)

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


def predict(
    network: Callable[[Tensor, Tensor], Tensor],
    x_t: Tensor,
    t: Tensor,
    schedule: Schedule,
    scale_by_sigma: bool,
    dtype: torch.dtype,
) -> Tensor:
    """The network's output in float32, computed in dtype; x_t: [B, C, H, W], t: [B].

    scale_by_sigma divides it by sqrt(1 - alpha_bar_t)."""
    with torch.autocast(x_t.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = network(x_t, t).float()
    if scale_by_sigma:
        output = output / coefficients(schedule.alpha_bar_at(t.cpu()), output)[1]
    return output
