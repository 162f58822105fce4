"""A sweep of ten nested K: the whole stage against one embedding per image and the products.

    python -m benchmarks.sweep

Candidate: the work of run_distances.py on ten synthetic sets of 1,000 images, K = 400, ..., 4,000
(alex), each time with an empty cache, including files, checksums and refinement. Baseline: each
image through the network once, and for each K the two matrix products, nothing else."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.digit_images import digit_images
from benchmarks.ratio import print_result, seconds
from utils.cli.options.sections import DistancesStage
from utils.cli.options.training import DataOptions, ModelOptions, TrainOptions
from utils.cli.parse import parse
from utils.data.datasets import to_float
from utils.data.subsets import training_subset
from utils.descriptors.embedders import load_metric
from utils.files.provenance import to_plain
from utils.inputs.samples import save_synthetics
from utils.metrics import cache as embedding_cache
from utils.stages.distances.stage import run

SIZES, SAMPLES, REPEATS, BATCH = range(400, 4001, 400), 1000, 3, 256


def main() -> None:
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))


def measure(folder: Path) -> None:
    images = digit_images(max(SIZES) + SAMPLES * len(SIZES), 28)
    write_mnist(folder / "data", images[: max(SIZES)])
    sets = to_float(images[max(SIZES) :]).split(SAMPLES)
    for k, samples in zip(SIZES, sets, strict=True):
        save_synthetics(folder / "synthetics" / f"{k}.npz", samples.numpy(), args(folder, k))
    train = training_subset(args(folder, max(SIZES))).images
    embedder = load_metric("alex", None, "cpu")
    counted = count_embedded()

    def plain() -> None:
        known = torch.cat([embedder(part) for part in train.split(BATCH)])
        for k, samples in zip(SIZES, sets, strict=True):
            phi = torch.cat([embedder(part) for part in samples.split(BATCH)])
            phi @ known[:k].T, phi @ phi.T

    def stage() -> None:
        counted.clear()
        fresh = Path(tempfile.mkdtemp(dir=folder))  # deleting it is not timed
        flags = ["--synth-path", folder / "synthetics", "--result-path", fresh / "dists"]
        run(parse(DistancesStage, [*map(str, flags), "--use-lpips", "--device", "cpu"]))

    pairs = [(seconds(plain), seconds(stage)) for _ in range(REPEATS + 1)][1:]
    print_result(
        "sweep: the stage's time over embedding once and products alone",
        ratio=round(float(np.median([whole / least for least, whole in pairs])), 3),
        plain_seconds=round(float(np.median([least for least, _ in pairs])), 3),
        stage_seconds=round(float(np.median([whole for _, whole in pairs])), 3),
        images=len(images),
        embedded=sum(counted),
        sizes=list(SIZES),
        samples=SAMPLES,
        network="alex",
        repeats=REPEATS,
    )


def count_embedded() -> list[int]:
    """A list to which each write of the cache appends the number of images embedded."""
    counted: list[int] = []
    write = embedding_cache.EmbeddingCache._write

    def counting(self, images: Tensor, *rest: object) -> None:
        counted.append(len(images))
        write(self, images, *rest)

    embedding_cache.EmbeddingCache._write = counting
    return counted


def args(folder: Path, k: int) -> dict:
    """The options of a model trained on K of these images."""
    data = DataOptions(data_path=folder / "data", data_name="mnist")
    train = TrainOptions(train_size=k)
    model = ModelOptions(image_size=28, in_channels=1, dim_mults=(1, 2, 2))
    return {"data": to_plain(data), "train": to_plain(train), "model": to_plain(model)}


def write_mnist(root: Path, images: Tensor) -> None:
    """Write the images in MNIST's file format, equal for train and test: MNIST may not be here."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        header = struct.pack(">4i", 0x803, *images.shape[:1], *images.shape[2:])
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.numpy().tobytes())
        header = struct.pack(">2i", 0x801, len(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(len(images)))


if __name__ == "__main__":
    main()
