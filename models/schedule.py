"""Noise schedules in float64, and conversions between eps, x_0, v and the score."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MOST_BETA = 0.999  # of cosine and sigmoid, which would end at 1 (Nichol and Dhariwal 2021)
NAMED = 1e-4  # largest relative difference to a named schedule: of products in float32


class Schedule:
    """alpha_bar_t, t = 0 .. T - 1: how much of the image is left at each noise level.

        x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps,
        alpha_bar_t = prod_{s <= t} (1 - beta_s)

    name: of `SCHEDULES`. Kept in float64: in float32 sqrt(1 - alpha_bar_0) is off by 8e-5
    (relative). Index -1 means no noise, alpha_bar = 1. Raises ValueError for T < 2 and unknown
    names. Source: Ho et al. 2020, arXiv 2006.11239, eq. 4."""

    def __init__(self, timesteps: int = 1000, name: str = "linear") -> None:
        if timesteps < 2:
            raise ValueError(f"timesteps: found {timesteps}; 2 or more are needed")
        if name not in SCHEDULES:
            raise ValueError(f"schedule: found {name!r}; choose {', '.join(SCHEDULES)}")
        self.timesteps = timesteps
        self.beta = SCHEDULES[name](timesteps)  # [T]
        self.alpha_bar = torch.cumprod(1 - self.beta, dim=0)  # [T]

    @classmethod
    def from_alpha_bar(cls, alpha_bar: Tensor) -> Schedule:
        """The schedule of any alpha_bar [T]: T >= 2, strictly decreasing, in (0, 1].

        Raises ValueError for others."""
        alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float64, device="cpu").clone()
        if alpha_bar.dim() != 1 or len(alpha_bar) < 2:
            raise ValueError(f"alpha_bar: found {list(alpha_bar.shape)}; give two values or more")
        if not alpha_bar.isfinite().all() or alpha_bar[0] > 1 or alpha_bar[-1] <= 0:
            ends = f"{alpha_bar[0]:.6g} to {alpha_bar[-1]:.6g}"
            raise ValueError(f"alpha_bar: found {ends}; give values above 0, and up to 1")
        rising = (alpha_bar.diff() >= 0).nonzero()
        if len(rising):
            t = rising[0].item() + 1
            found = f"{alpha_bar[t]:.6g} after {alpha_bar[t - 1]:.6g} at t = {t}"
            raise ValueError(f"alpha_bar: found {found}; give values that decrease")
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        schedule = cls.__new__(cls)
        schedule.timesteps, schedule.alpha_bar = len(alpha_bar), alpha_bar
        schedule.beta = 1 - alpha_bar / before
        return schedule

    @classmethod
    def from_sigma(cls, sigma: Tensor) -> Schedule:
        """The schedule of noise levels sigma [T], strictly increasing, 0 or more, of the variance-
        exploding form x_0 + sigma n: alpha_bar = 1 / (1 + sigma^2). Raises ValueError for others.

        Source: Karras et al. 2022, arXiv 2206.00364, table 1."""
        return cls.from_alpha_bar(1 / (1 + torch.as_tensor(sigma, dtype=torch.float64).square()))

    @property
    def name(self) -> str | None:
        """Its name in `SCHEDULES`, also if it was made of an array; None for any other one.

        Arrays that went through float32 are known as well: there 1 - alpha_bar errs by 6e-8."""
        for name in SCHEDULES:
            named = Schedule(self.timesteps, name).alpha_bar
            signal = torch.allclose(self.alpha_bar, named, rtol=NAMED, atol=0)
            if signal and torch.allclose(1 - self.alpha_bar, 1 - named, rtol=NAMED, atol=1e-7):
                return name
        return None

    def alpha_bar_at(self, t: Tensor | int) -> Tensor:
        """alpha_bar at t in -1 .. T - 1, float64, shaped like t (on the CPU)."""
        t = torch.as_tensor(t, device="cpu")
        padded = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar])
        return padded[t + 1]

    def times(self, steps: int) -> list[int]:
        """`steps` times for sampling, from T - 1 down, evenly spaced, the last one 0.

        All of T - 1 .. 0 for steps = T. Raises ValueError outside 1 .. T."""
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"steps: found {steps}; choose 1 to {self.timesteps}")
        if steps == 1:
            return [self.timesteps - 1]
        grid = torch.linspace(self.timesteps - 1, 0, steps, dtype=torch.float64)
        return grid.round().long().tolist()


def linear(timesteps: int) -> Tensor:
    """beta_t linear from 1e-4 to 0.02, [T]. Source: Ho et al. 2020, arXiv 2006.11239, section 4."""
    return torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64)


def scaled_linear(timesteps: int) -> Tensor:
    """sqrt(beta_t) linear from sqrt(1e-4) to sqrt(0.02), [T]. Source: Rombach et al. 2022, arXiv
    2112.10752 (latent diffusion), with the ends of Ho et al. 2020."""
    return torch.linspace(1e-4**0.5, 0.02**0.5, timesteps, dtype=torch.float64).square()


def cosine(timesteps: int) -> Tensor:
    """beta_t of alpha_bar_t = f(t + 1) / f(0), f(t) = cos^2((t / T + 0.008) / 1.008 pi / 2), [T].

    Source: Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17."""
    return _betas(timesteps, lambda u: ((u + 0.008) / 1.008 * math.pi / 2).cos().square())


def sigmoid(timesteps: int) -> Tensor:
    """beta_t of alpha_bar_t = (s(3) - s(6 u - 3)) / (s(3) - s(-3)), u = (t + 1) / T, s the logistic
    function, [T]. Source: Jabri et al. 2022, arXiv 2212.11972, algorithm 1 (start -3, end 3)."""
    end = torch.tensor(3.0, dtype=torch.float64).sigmoid()
    return _betas(timesteps, lambda u: (end - (6 * u - 3).sigmoid()) / (2 * end - 1))


def _betas(timesteps: int, signal: Callable[[Tensor], Tensor]) -> Tensor:
    """beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, at most MOST_BETA; signal: alpha_bar(u)."""
    alpha_bar = signal(torch.linspace(0, 1, timesteps + 1, dtype=torch.float64))
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=MOST_BETA)


SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear": linear,
    "scaled-linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
}


def add_noise(x_0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps.

    x_0, eps: [B, ...]; alpha_bar: a scalar or [B], in (0, 1]. Returns x_t like x_0."""
    signal, noise = coefficients(alpha_bar, x_0)
    return signal * x_0 + noise * eps


def predict_x0(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar), shapes as in `add_noise`."""
    signal, noise = coefficients(alpha_bar, x_t)
    return (x_t - noise * eps) / signal


def predict_eps(x_t: Tensor, x_0: Tensor, alpha_bar: Tensor) -> Tensor:
    """eps = (x_t - sqrt(alpha_bar) x_0) / sqrt(1 - alpha_bar); alpha_bar < 1."""
    signal, noise = coefficients(alpha_bar, x_t)
    return (x_t - signal * x_0) / noise


def predict_v(x_0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0, shapes as in `add_noise`.

    Source: Salimans and Ho 2022, arXiv 2202.00512, section 4."""
    signal, noise = coefficients(alpha_bar, x_0)
    return signal * eps - noise * x_0


def x0_from_v(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v, shapes as in `add_noise`."""
    signal, noise = coefficients(alpha_bar, x_t)
    return signal * x_t - noise * v


def eps_from_v(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """eps = sqrt(1 - alpha_bar) x_t + sqrt(alpha_bar) v, shapes as in `add_noise`."""
    signal, noise = coefficients(alpha_bar, x_t)
    return noise * x_t + signal * v


def score(eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """s(x_t, t) = grad log p_t(x_t) = -eps / sqrt(1 - alpha_bar); alpha_bar < 1."""
    return -eps / coefficients(alpha_bar, eps)[1]


def coefficients(alpha_bar: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), rounded once from float64, to multiply `like`."""
    alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float64, device="cpu")
    return factor(alpha_bar.sqrt(), like), factor((1 - alpha_bar).sqrt(), like)


def factor(values: Tensor, like: Tensor) -> Tensor:
    """A scalar, or one value for each row (float64 [B]), to multiply like [B, ...]."""
    shape = values.shape + (1,) * (like.dim() - 1) if values.dim() else ()
    return values.reshape(shape).to(like.device, like.dtype)
