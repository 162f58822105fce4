"""A training step: ours against that of a straightforward DDPM script (benchmarks/plain.py).

    python -m benchmarks.training

Seconds per step, timed alternately, with `--precision auto --compile auto`. First both networks
are checked to give the same output and gradients in float32. On a CPU: 28 x 28 images and the
demo's digits. With CUDA: the CIFAR-10 model at the published widths, where the baseline also uses
TF32 products, and the share of the device's peak that is used."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.digit_images import digit_images
from benchmarks.plain import (
    PlainTrainer,
    options_of,
    perturb,
    plain_network,
    timed_alternately,
)
from benchmarks.ratio import print_result
from benchmarks.sweep import write_mnist
from utils.cli.options.sections import TrainStage
from utils.data.datasets import to_float
from utils.jobs.devices import pick_dtype, prepare
from utils.stages.train.stage import training_args
from utils.stages.train.trainer import Plan, Trainer

# Dense bfloat16 operations per second of the SXM models, from NVIDIA's data sheets.
BF16_PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
OTHER_FORMS = ("PCIe", "NVL")  # slower models of the same name
SWEEP_MODELS, SWEEP_STEPS = 38, 500_000  # published for CIFAR-10, batch 128
IMAGES, COLOUR_IMAGES = 2048, 4096
AUTO = ("--precision", "auto", "--compile", "auto", "--valid-size", 0)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (on_gpu if torch.cuda.is_available() else on_cpu)(Path(folder))


def on_cpu(folder: Path) -> None:
    write_mnist(folder / "data", digit_images(IMAGES, 28))
    small = ("--dim", 64, "--dropout", 0, "--global-batch-size", 32, "--train-size", IMAGES)
    paths = ("--data-path", folder / "data", "--results-path", folder / "run", "--device", "cpu")
    torch.set_num_threads(2)
    measure("training 28x28", options_of("mnist.yaml", *small, *paths, *AUTO), 5, 2)
    torch.set_num_threads(1)
    demo = options_of("digits.yaml", "--train-size", 1500, *paths, *AUTO)
    measure("training demo", demo, 7, 10)


def on_gpu(folder: Path) -> None:
    write_colours(folder / "data", COLOUR_IMAGES)
    flags = ("--data-name", "folder", "--train-size", COLOUR_IMAGES, "--device", "cuda", *AUTO)
    paths = ("--data-path", folder / "data", "--results-path", folder / "run")
    for width in (64, 96, 128):
        options = options_of("cifar10.yaml", "--dim", width, *flags, *paths)
        measure("training CIFAR-10", options, 5, 30)


def write_colours(folder: Path, count: int) -> None:
    """Random 32 x 32 colour images: CIFAR-10 may not be here, and the speed is the same."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    for i, image in enumerate(pixels.numpy()):
        Image.fromarray(image).save(folder / f"{i}.png")


def measure(name: str, options: TrainStage, repeats: int, steps: int) -> None:
    device, batch = prepare(options.run), options.train.global_batch_size
    allow_tf32(True)
    args, dtype = training_args(options), pick_dtype(options.run.precision, device)
    ours = Trainer(Plan(options, args, device, dtype))

    def candidate() -> None:
        for _ in range(steps):
            ours.train_step()

    memory = peak_memory(candidate, device)  # before the baseline takes memory of the device
    plain = plain_network(args["model"]).to(device)
    plain.load_state_dict(ours.network.state_dict())
    check_same_function(ours.network, plain, ours.images[:4])
    flops = batch * flops_of_image(plain, ours.images)
    trainer = PlainTrainer(plain, ours.images, options.train, device)

    def baseline() -> None:
        for _ in range(steps):
            trainer.step()

    times = timed_alternately(baseline, candidate, device, repeats, steps)
    print_result(
        name,
        **times,
        images_per_second=round(batch / times["candidate_seconds"], 1),
        baseline_images_per_second=round(batch / times["baseline_seconds"], 1),
        repeats=repeats,
        steps=steps,
        precision=str(dtype).removeprefix("torch."),
        batch=batch,
        width=options.model.dim,
        side=options.model.image_size,
        teraflops_a_step=round(flops / 1e12, 4),
        **memory,
        **gpu_use(times["candidate_seconds"], flops, device),
    )


def allow_tf32(on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def check_same_function(ours: nn.Module, plain: nn.Module, images: Tensor) -> None:
    """Raises AssertionError if output or gradients differ, in float32 and without dropout."""
    allow_tf32(False)
    x_t = to_float(images)
    x_t = x_t + torch.randn_like(x_t)
    t = torch.linspace(0, 999, len(x_t), device=x_t.device).long()
    results = []
    for network in (ours, plain):
        network = perturb(copy.deepcopy(network)).eval()
        output = network(x_t, t)
        F.mse_loss(output, x_t).backward()
        results.append((output.detach(), {n: p.grad for n, p in network.named_parameters()}))
    torch.testing.assert_close(*(output for output, _ in results), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(*(gradients for _, gradients in results), rtol=1e-3, atol=1e-4)
    allow_tf32(True)


def flops_of_image(network: nn.Module, images: Tensor) -> int:
    """Multiplications plus additions of forward and backward for one image."""
    device = next(network.parameters()).device
    x_t, t = to_float(images[:1]).to(device), torch.zeros(1, dtype=torch.long, device=device)
    with FlopCounterMode(display=False) as counter:
        network(x_t, t).square().mean().backward()
    network.zero_grad()
    return counter.get_total_flops()


def peak_memory(work: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Peak memory of a GPU while work runs; empty on a CPU."""
    if device.type != "cuda":
        return {}
    torch.compiler.reset()  # frees the network of the previous width
    work()  # compiling and the choice of kernels take extra memory
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return {"peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 3)}


def gpu_use(seconds_a_step: float, flops: int, device: torch.device) -> dict[str, Any]:
    """The GPU's name, the share of its peak, and the hours of the published sweep at this rate."""
    if device.type != "cuda":
        return {}
    name, use = torch.cuda.get_device_name(device), {}
    peak = next((peak for part, peak in BF16_PEAK.items() if part in name), None)
    if peak and not any(form in name for form in OTHER_FORMS):
        use["share_of_bf16_peak"] = round(flops / seconds_a_step / peak, 4)
    hours = SWEEP_MODELS * SWEEP_STEPS * seconds_a_step / 3600
    return use | {"sweep_hours_at_this_rate": round(hours, 1), "device": name}


if __name__ == "__main__":
    main()
