"""A sampling step: ours against that of a straightforward DDPM script (benchmarks/plain.py).

    python -m benchmarks.sampling

Seconds per network call, including the solver's step, timed alternately. Ours draws the noise of
each image from its seed, as run_generate.py does; the baseline draws it on the device. First both
are checked to give the same images from the same noise in float32. With CUDA all solvers are timed:
the ratio compares equal numbers of steps (those of the baseline are always ancestral), and images
per second show the gain from fewer steps. Weights are random, which does not affect the speed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.plain import (
    options_of,
    perturb,
    plain_network,
    plain_sampling_step,
    timed_alternately,
)
from benchmarks.ratio import print_result
from models.denoiser import NetworkDenoiser
from models.noise import SeededNoise
from models.samplers import SAMPLERS, ddpm
from models.schedule import Schedule
from models.unet import UNet
from utils.cli.options.sections import TrainStage
from utils.files.provenance import to_plain
from utils.inputs.checkpoints import build_network
from utils.jobs.devices import compiled, pick_dtype, prepare

SCHEDULE = Schedule()
WHOLE = {"ddpm": SCHEDULE.timesteps, "ddim": 50, "dpmpp": 20}  # steps for an image, as in generate
# All steps of ddpm take equally long, so a few are enough.
TIMED = {"ddpm": 20, "ddim": 50, "dpmpp": 20}


def main() -> None:
    if torch.cuda.is_available():
        for width in (64, 96, 128):
            options = options_of("cifar10.yaml", "--dim", width, "--device", "cuda")
            measure("sampling CIFAR-10", options, 256, TIMED)
        return
    torch.set_num_threads(2)
    options = options_of("mnist.yaml", "--dim", 64, "--device", "cpu")
    measure("sampling 28x28", options, 32, {"ddpm": 3})
    torch.set_num_threads(1)
    measure("sampling demo", options_of("digits.yaml", "--device", "cpu"), 64, {"ddpm": 20})


def measure(name: str, options: TrainStage, batch: int, solvers: dict[str, int]) -> None:
    """Time `steps` steps of each of solvers, {name: steps}, and print a line for each."""
    device, model = prepare(options.run), to_plain(options.model)
    shape = (options.model.in_channels, *[options.model.image_size] * 2)
    network, plain = (build(model).to(device).eval() for build in (build_network, plain_network))
    plain.load_state_dict(perturb(network).state_dict())
    check_same_images(network, plain, shape, device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    dtype = pick_dtype("auto", device)
    ours = NetworkDenoiser(compiled(network, "auto", device), SCHEDULE, shape, dtype=dtype)
    for solver, steps in solvers.items():

        def candidate(solver: str = solver, steps: int = steps) -> Tensor:
            return SAMPLERS[solver](ours, SeededNoise(range(batch), shape).draw, steps)

        def baseline(steps: int = steps) -> Tensor:
            return plain_ddpm(plain, lambda: torch.randn(batch, *shape, device=device), steps)

        times = timed_alternately(baseline, candidate, device, 5, steps)
        whole = WHOLE[solver]
        print_result(
            name,
            **times,
            solver=solver,
            steps_of_an_image=whole,
            images_per_second=round(batch / times["candidate_seconds"] / whole, 4),
            baseline_images_per_second=round(batch / times["baseline_seconds"] / whole, 4),
            repeats=5,
            steps=steps,
            precision=str(dtype).removeprefix("torch."),
            batch=batch,
            width=options.model.dim,
            side=options.model.image_size,
            **({"device": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
        )


def plain_ddpm(network: UNet, noise: Callable[[], Tensor], steps: int) -> Tensor:
    """Images from plain steps at the times that our samplers use."""
    x = noise()
    alpha_bar = SCHEDULE.alpha_bar.float().to(x.device)
    times = SCHEDULE.times(steps)
    for t, s in zip(times, [*times[1:], -1], strict=True):
        x = plain_sampling_step(network, x, t, s, alpha_bar, None if s < 0 else noise())
    return x


def check_same_images(
    network: UNet, plain: UNet, shape: tuple[int, ...], device: torch.device
) -> None:
    """Raises AssertionError if images after three steps from the same noise differ, in float32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    denoiser = NetworkDenoiser(copy.deepcopy(network), SCHEDULE, shape)
    images = ddpm(denoiser, SeededNoise(range(4), shape).draw, 3)
    draw = SeededNoise(range(4), shape).draw
    expected = plain_ddpm(plain, lambda: draw().to(device), 3)
    torch.testing.assert_close(images, expected, rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    main()
