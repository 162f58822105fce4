"""Real images, random ones, and files of images in the formats of the data sets."""

from __future__ import annotations

import pickle
from hashlib import md5
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image
from scipy.spatial.distance import cdist

from utils.data.datasets import load_image_set, to_float


def real_digits(count: int = 1797) -> torch.Tensor:
    """The first of scikit-learn's digits, in the data set's order: [count, 1, 8, 8] in [-1, 1]."""
    return to_float(load_image_set("digits", ".", 8, 1).read(range(count)))


def offline(*args, **kwargs):
    """Stands in for a download on a machine without internet."""
    raise URLError("no internet")


def random_images(count: int, seed: int = 0) -> torch.Tensor:
    """Random pixels as PyTorch draws them: uint8 [count, 1, 8, 8]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def nearest_within(x: np.ndarray) -> np.ndarray:
    """Each row's Euclidean distance to the nearest other row: [N, D] to [N]."""
    distances = cdist(x, x)
    np.fill_diagonal(distances, np.inf)
    return distances.min(axis=1)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Random pixels as NumPy draws them: uint8 of this shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_image(path, pixels: np.ndarray) -> None:
    """Write an image file, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def small_cifar(root, monkeypatch, pixels: np.ndarray | None = None) -> np.ndarray:
    """CIFAR-10 of six parts in its own format, the last one for testing, and its checksums.

    pixels: uint8 [6 n, 3, 32, 32], which is also returned; 12 of noise where there are none."""
    from torchvision.datasets import CIFAR10

    pixels = noise(12, 3, 32, 32) if pixels is None else pixels
    n = len(pixels) // 6
    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, md5((folder / name).read_bytes()).hexdigest()]

    batches = [
        write(f"batch_{i}", {"data": pixels[n * i :][:n].reshape(n, -1), "labels": [0] * n})
        for i in range(6)
    ]
    meta = write("meta", {"label_names": ["a", "b"]})
    monkeypatch.setattr(CIFAR10, "train_list", batches[:5])
    monkeypatch.setattr(CIFAR10, "test_list", batches[5:])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"filename": meta[0], "md5": meta[1]})
    return pixels


def write_lsun(root, pixels: np.ndarray, part: str = "train") -> None:
    """An LSUN database: webp under keys, in the order of the keys."""
    import io

    import lmdb

    with (
        lmdb.open(str(root / f"church_outdoor_{part}_lmdb"), map_size=2**20) as environment,
        environment.begin(write=True) as transaction,
    ):
        for i, image in enumerate(pixels):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, format="webp", lossless=True)
            transaction.put(b"%04d\xff" % i, buffer.getvalue())
    (root / f"church_outdoor_{part}_lmdb" / "lock.mdb").unlink()


def write_mnist(folder, train, test):
    """Images uint8 [N, 28, 28] in torchvision's layout (idx files)."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, images in (("train", train), ("t10k", test)):
        sizes = b"".join(int(n).to_bytes(4, "big") for n in images.shape)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + images.tobytes())
        count = len(images).to_bytes(4, "big")
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + count + bytes(len(images))
        )


def digits_args(k: int = 16, v: int = 8, seed: int = 3407, **train) -> dict:
    """Options of a training on k digits with v validation images."""
    train = {"train_size": k, "valid_size": v, "global_seed": seed, **train}
    return {
        "data": {"data_name": "digits"},
        "train": train,
        "model": {"image_size": 8, "in_channels": 1},
    }


def planes(pixels: np.ndarray) -> torch.Tensor:
    """[H, W, 3] as [3, H, W]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)
