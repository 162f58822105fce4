"""Which descriptor finds a changed copy: the share found of each transformation, on photographs.

    python -m benchmarks.descriptors                              # l2, alex, vgg: 11 minutes
    python -m benchmarks.descriptors --metric l2 sscd --metric-weights sscd.onnx

Training images are tiles of the left part of each photograph, held-out images of the right part. A
copy is found where its distance to the nearest training image is below the threshold at which 1 %
of held-out images would be called copies. Prints a table and one JSON line; writes
results/descriptors/descriptors.json, descriptors.png and .pdf."""

from __future__ import annotations

import argparse
import io
import json
import platform
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from utils.cli.options.choices import DESCRIPTOR, metric_family
from utils.cli.options.metric import MetricOptions
from utils.data.photos import CONTRAST, TRAIN_PART, photographs, pixels
from utils.descriptors.embedders import load_metric, to_float
from utils.figures.images import draw_tile
from utils.figures.save import save_figure
from utils.figures.style import INK, PALE, blank_figure, styled
from utils.metrics.intervals import wilson_interval
from utils.metrics.nearest import nearest

SIDE = 64  # of a tile
# Pixels between tiles; held-out images are few, so that the rank of the threshold would be coarse.
STEP, HELD_OUT_STEP = 32, 16
MARGIN = 4  # pixels of the photograph on each side, from which shifted and rotated copies are cut
RATE = 0.01  # of held-out images called copies
QUALITY, ANGLE, BRIGHTER, CROPPED = 50, 5, 1.2, 51  # JPEG; degrees; factor; pixels of 64: 80 %
EXAMPLE = 544  # tile above the columns of the figure


def windows(train: bool) -> Tensor:
    """Windows uint8 [N, 3, 72, 72]: tiles with contrast of one part of the photographs, as those of
    the data set photos, each with MARGIN pixels around it."""
    tiles, side, step = [], SIDE + 2 * MARGIN, STEP if train else HELD_OUT_STEP
    for path in photographs():
        photograph = pixels(path)
        border = int(TRAIN_PART * photograph.shape[1])
        part = photograph[:, :border] if train else photograph[:, border:]
        if min(part.shape[:2]) >= side:
            views = np.lib.stride_tricks.sliding_window_view(part, (side, side), axis=(0, 1))
            tiles.append(views[::step, ::step].reshape(-1, 3, side, side))
    all_windows = np.concatenate(tiles)
    contrast = all_windows[..., MARGIN:-MARGIN, MARGIN:-MARGIN].std((2, 3)).mean(1)
    return torch.from_numpy(all_windows[contrast >= CONTRAST])


def at(x: Tensor, shift: int = 0) -> Tensor:
    """The tiles [N, 3, 64, 64] of windows, or tiles as many pixels further right and down."""
    start = MARGIN + shift
    return x[..., start : start + SIDE, start : start + SIDE]


def jpeg(tile: Tensor) -> Tensor:
    """One tile [3, H, W], saved and read again."""
    file = io.BytesIO()
    Image.fromarray(tile.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=QUALITY)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def cropped(x: Tensor) -> Tensor:
    """The central 80 % of each side, enlarged to the whole tile."""
    return V.resize(V.center_crop(at(x), [CROPPED, CROPPED]), [SIDE, SIDE], antialias=True)


def pasted(x: Tensor, others: Tensor) -> Tensor:
    """The central quarter of the area of each tile, at a random place of another picture."""
    side, draw = SIDE // 2, np.random.default_rng(1)
    patches, results = V.center_crop(at(x), [side, side]), others.clone()
    for patch, result in zip(patches, results, strict=True):
        y, left = draw.integers(0, SIDE - side + 1, 2)
        result[:, y : y + side, left : left + side] = patch
    return results


COPIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of windows, and other pictures
    "none": lambda x, _: at(x),
    "JPEG 50": lambda x, _: torch.stack([jpeg(tile) for tile in at(x)]),
    "shift 1": lambda x, _: at(x, 1),
    "shift 4": lambda x, _: at(x, 4),
    "flip": lambda x, _: at(x).flip(-1),
    "crop 80 %": lambda x, _: cropped(x),
    "brighter": lambda x, _: (at(x).float() * BRIGHTER).round().clamp(0, 255).byte(),
    "rotate 5°": lambda x, _: at(V.rotate(x, ANGLE, interpolation=V.InterpolationMode.BILINEAR)),
    "patch 25 %": pasted,
}


def measure(metric: MetricOptions, count: int) -> dict:
    """For each transformation: how many of the copies are found, and how many have the image that
    they are a copy of as their nearest training image."""
    train, held_out = windows(train=True), at(windows(train=False))
    draw = np.random.default_rng(0)
    sources = draw.permutation(len(train))[:count]
    others = held_out[draw.integers(0, len(held_out), len(sources))]
    copies = [change(train[sources], others) for change in COPIES.values()]
    embedder = load_metric(metric.metric_name, metric.weights_path, "cpu")
    queries = torch.cat([held_out, *copies])
    distances, indices = (columns[:, 0] for columns in nearest(embedder, queries, at(train), 1))
    n = len(held_out)
    rank = int(RATE * (n + 1))
    threshold = float(np.sort(distances[:n])[rank - 1])
    shape = (len(COPIES), len(sources))
    found = (distances[n:] < threshold).reshape(shape)
    right = (indices[n:].reshape(shape) == sources).sum(1)
    return {
        "metric": metric.metric_name,
        "training_images": len(train),
        "held_out": n,
        "rank": rank,
        "threshold": threshold,
        "copies": len(sources),
        "found": dict(zip(COPIES, found.sum(1).tolist(), strict=True)),
        "nearest_is_right": dict(zip(COPIES, right.tolist(), strict=True)),
    }


def rows(result: dict) -> str:
    """A line for each transformation."""
    n, lines = result["copies"], [f"{result['metric']:12}  found  95 % interval   nearest is right"]
    for name, found in result["found"].items():
        low, high = wilson_interval(found, n)
        interval, right = f"{low:.1%} to {high:.1%}", result["nearest_is_right"][name] / n
        lines.append(f"{name:12} {found / n:6.1%}  {interval:15} {right:.1%}")
    return "\n".join(lines)


@styled
def figure(results: list[dict]):
    """The share found in each cell, the share whose nearest image is the right one below it; above
    each column an example."""
    from matplotlib import colormaps

    left, top, cell, height = 0.9, 1.25, 0.82, 0.5  # inches
    fig, ax = blank_figure(left + cell * len(COPIES) + 0.1, top + height * len(results) + 0.35)
    train, others = windows(train=True), at(windows(train=False))
    for j, (name, change) in enumerate(COPIES.items()):
        x = left + j * cell
        example = to_float(change(train[EXAMPLE : EXAMPLE + 1], others[:1]))[0].numpy()
        draw_tile(ax, example, x + 0.04, 0.3, cell - 0.08)
        ax.text(x + cell / 2, 0.2, name, ha="center", size=8)
        for i, result in enumerate(results):
            y, n = top + i * height, result["copies"]
            share, right = (result[key][name] / n for key in ("found", "nearest_is_right"))
            box = ([x, x + cell, x + cell, x], [y, y, y + height, y + height])
            ax.fill(*box, color=colormaps["Blues"](0.5 * share), ec="white", lw=2)
            ax.text(x + cell / 2, y + 0.24, f"{100 * share:.0f} %", ha="center", color=INK, size=10)
            ax.text(x + cell / 2, y + 0.41, f"{100 * right:.0f} %", ha="center", color=INK, size=7)
    for i, result in enumerate(results):
        ax.text(left - 0.1, top + (i + 0.6) * height, result["metric"], ha="right", size=10)
    words = (
        "large: copies found (1 % of held-out images are); small: the nearest image is the source"
    )
    ax.text(left, top + len(results) * height + 0.22, words, size=8, color=PALE)
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metric", nargs="+", default=["l2", "alex", "vgg"])
    parser.add_argument("--metric-weights", type=Path, help="of the descriptor among them")
    parser.add_argument("--copies", type=int, default=100, help="of each transformation")
    parser.add_argument("--result-path", type=Path, default=Path("results/descriptors"))
    options = parser.parse_args()
    results = []
    for name in options.metric:
        weights = options.metric_weights if metric_family(name) == DESCRIPTOR else None
        results.append(measure(MetricOptions(metric=name, metric_weights=weights), options.copies))
        print(rows(results[-1]), flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    stored = {"benchmark": "descriptors", "results": results, **machine}
    stored["date"] = date.today().isoformat()
    print(json.dumps(stored))
    options.result_path.mkdir(parents=True, exist_ok=True)
    text = json.dumps(stored, indent=1, ensure_ascii=False)
    (options.result_path / "descriptors.json").write_text(text + "\n")
    save_figure(figure(results), options.result_path / "descriptors.png")


if __name__ == "__main__":
    main()
