"""The same images in every form that the readers of utils/data/sources take."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from utils.data.photos import photo_tiles


def tiles(count: int, split: str = "train", seed: int = 0, size: int = 16) -> np.ndarray:
    """Colour tiles of photographs, uint8 [count, 3, size, size], in a random order."""
    every = photo_tiles(size, split).numpy()
    return every[np.random.default_rng(seed).permutation(len(every))[:count]]


def picture(image: np.ndarray) -> Image.Image:
    """uint8 [C, H, W] as a picture."""
    pixels = image.transpose(1, 2, 0)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def encoded(image: np.ndarray, kind: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    picture(image).save(buffer, kind, **options)
    return buffer.getvalue()


def as_jpeg(image: np.ndarray, quality: int = 90) -> np.ndarray:
    """The image after it was saved as JPEG."""
    opened = Image.open(io.BytesIO(encoded(image, "jpeg", quality=quality)))
    pixels = np.asarray(opened)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def write_folder(folder: Path, images: np.ndarray) -> Path:
    """Each image as 00000.png, ..., in folders of ten."""
    for i, image in enumerate(images):
        path = folder / f"{i // 10:04d}" / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
    return folder


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_parquet(path: Path, images: np.ndarray) -> Path:
    import pyarrow
    import pyarrow.parquet

    cells = [{"bytes": encoded(image), "path": None} for image in images]
    table = pyarrow.table({"image": cells, "label": list(range(len(images)))})
    pyarrow.parquet.write_table(table, path, row_group_size=7)
    return path


def every_form(folder: Path, images: np.ndarray) -> dict[str, object]:
    """uint8 images [N, 3, H, W] in every form, by its name: what `--samples` takes."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    members = {f"00000/img{i:08d}.png": encoded(image) for i, image in enumerate(images)}
    last = images.transpose(0, 2, 3, 1)
    unit = images / 255
    np.save(folder / "nhwc.npy", last)
    np.save(folder / "float16.npy", (2 * unit - 1).astype(np.float16))
    np.save(folder / "uint16.npy", images.astype(np.uint16) * 257)
    np.savez(folder / "nhwc.npz", arr_0=last)
    np.savez(folder / "unit.npz", samples=unit.astype(np.float32))
    np.savez(folder / "signed.npz", images=2 * unit - 1)
    np.savez(folder / "bytes.npz", other=images.astype(np.float32), labels=np.arange(len(images)))
    np.savez_compressed(folder / "packed.npz", x=images)
    torch.save({"samples": torch.from_numpy(images)}, folder / "tensors.pt")
    save_file({"x": torch.from_numpy(unit).half()}, folder / "unit.safetensors")
    split = folder / "arrays"
    split.mkdir()
    for i, image in enumerate(last):
        np.save(split / f"{i:05d}.npy", image)
    return {
        "folder": write_folder(folder / "pictures", images),
        "zip": write_zip(folder / "stylegan.zip", {**members, "dataset.json": b"{}"}),
        "tar": write_tar(folder / "web.tar", {**members, "00000/img00000000.cls": b"3"}),
        "nhwc.npy": folder / "nhwc.npy",
        "float16.npy": folder / "float16.npy",
        "uint16.npy": folder / "uint16.npy",
        "nhwc.npz": folder / "nhwc.npz",
        "unit.npz": folder / "unit.npz",
        "signed.npz": folder / "signed.npz",
        "bytes.npz": f"{folder / 'bytes.npz'}:other",
        "packed.npz": folder / "packed.npz",
        "tensors.pt": folder / "tensors.pt",
        "unit.safetensors": folder / "unit.safetensors",
        "parquet": write_parquet(folder / "table.parquet", images),
        "arrays": split,
        "array": images,
        "tensor": torch.from_numpy(2 * unit - 1),
        "pictures": [picture(image) for image in images],
        "generator": (image for image in images),
    }


FORMS = (
    *("folder", "zip", "tar", "nhwc.npy", "float16.npy", "uint16.npy", "nhwc.npz", "unit.npz"),
    *("signed.npz", "bytes.npz", "packed.npz", "tensors.pt", "unit.safetensors", "parquet"),
    *("arrays", "array", "tensor", "pictures", "generator"),
)
