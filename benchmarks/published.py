"""How long a network call of each published architecture takes here, for each image.

    python -m benchmarks.published

Random weights; batches of 16; the median of three calls, in the precision of `--precision auto`."""

from __future__ import annotations

import time
from statistics import median

import torch

from models.denoiser import NetworkDenoiser
from models.schedule import Schedule
from models.unet import UNet
from utils.jobs.devices import pick_device, pick_dtype

ROWS, CALLS, SAMPLES = 16, 20, 2048  # a batch; network calls of dpmpp; images of a K
SMALL = {"image_size": 32, "in_channels": 3}
LARGE = {"image_size": 64, "in_channels": 3, "dim_mults": (1, 1, 2, 2, 4, 4)}
GREY = {"image_size": 28, "in_channels": 1, "dim_mults": (1, 2, 2), "dim": 128}
NETWORKS = {
    **{f"cifar10-unet{dim}": {**SMALL, "dim": dim} for dim in (64, 96, 128)},
    **{f"church64-unet{dim}": {**LARGE, "dim": dim} for dim in (64, 96, 128)},
    "celebahq64-unet64": {**LARGE, "dim": 64},
    "mnist-unet128, fmnist-unet128": GREY,
}


def seconds_a_call(denoiser: NetworkDenoiser, x_t: torch.Tensor) -> float:
    start = time.perf_counter()
    denoiser.eps(x_t, 500).sum().item()  # waits for the device
    return time.perf_counter() - start


@torch.no_grad()
def main() -> None:
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    print(f"{device}, {dtype}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, options in NETWORKS.items():
        shape = (options["in_channels"], options["image_size"], options["image_size"])
        network = UNet(**options).to(device)
        denoiser = NetworkDenoiser(network, Schedule(), shape, dtype=dtype)
        x_t = torch.randn(ROWS, *shape, device=device)
        seconds_a_call(denoiser, x_t)
        each = median(seconds_a_call(denoiser, x_t) for _ in range(3)) / ROWS
        hours = each * CALLS * SAMPLES / 3600
        print(f"{name:30} {1000 * each:6.1f} ms an image   {hours:.2f} h for {SAMPLES} samples")


if __name__ == "__main__":
    main()
