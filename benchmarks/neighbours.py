"""LPIPS neighbours: one embedding per image, against features that are recomputed for each pair.

    python -m benchmarks.neighbours
    python -m benchmarks.neighbours full

Two baselines, written with the package `lpips`: its `forward` on each pair of images (24 x 64
images; with `full` 1,000 x 4,000, which takes minutes), and the features of each block computed
once for each pair of blocks, with the differences written by hand (1,000 x 4,000).
Images: digits of 28 x 28."""

from __future__ import annotations

import sys
import warnings

import torch
from torch import Tensor, nn

from benchmarks.digit_images import digit_images
from benchmarks.ratio import compare
from utils.data.datasets import to_float
from utils.descriptors.embedders import Embedder, load_metric
from utils.descriptors.lpips import TAPS, LpipsEmbedding
from utils.metrics.nearest import SearchSettings, nearest

K, PAIRS, BLOCK = 5, 256, 256


def main() -> None:
    torch.set_num_threads(2)
    embedder = load_metric("alex", None, "cpu")
    package = lpips_package(embedder.phi)
    if sys.argv[1:] == ["full"]:
        each_pair(embedder, package, *sets(1000, 4000), repeats=1)
        return
    each_pair(embedder, package, *sets(24, 64))
    each_block(embedder, package, *sets(1000, 4000))


def sets(samples: int, references: int) -> tuple[Tensor, Tensor]:
    images = to_float(digit_images(samples + references, 28))
    return images[:samples], images[samples:]


def lpips_package(network: LpipsEmbedding) -> nn.Module:
    """lpips.LPIPS with the same weights (the package itself would download them)."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, about arguments that lpips passes
        package = lpips.LPIPS(net="alex", pretrained=True, pnet_rand=True, verbose=False)
    layers = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    theirs = [layer for layer in package.net.modules() if isinstance(layer, nn.Conv2d)]
    for mine, other in zip(layers, theirs, strict=True):
        other.load_state_dict(mine.state_dict())
    return package.eval().requires_grad_(False)


def enlarged(images: Tensor) -> Tensor:
    """In the form that LPIPS needs: three channels, 32 x 32 pixels."""
    return nn.functional.interpolate(images, (32, 32), mode="nearest-exact").expand(-1, 3, -1, -1)


def ours(embedder: Embedder, samples: Tensor, references: Tensor) -> Tensor:
    return torch.from_numpy(nearest(embedder, samples, references, K, settings=SearchSettings())[0])


def each_pair(
    embedder: Embedder, package: nn.Module, samples: Tensor, references: Tensor, repeats: int = 5
) -> None:
    @torch.no_grad()
    def row(sample: Tensor) -> Tensor:
        parts = [
            package(enlarged(sample.expand(len(block), -1, -1, -1)), enlarged(block)).flatten()
            for block in references.split(PAIRS)
        ]
        return torch.cat(parts).topk(K, largest=False).values

    def pairs() -> Tensor:
        return torch.stack([row(sample) for sample in samples])

    sizes = {"samples": len(samples), "references": len(references), "network": "alex"}
    compare(
        "neighbours: each pair",
        pairs,
        lambda: ours(embedder, samples, references),
        repeats,
        **sizes,
    )


def each_block(embedder: Embedder, package: nn.Module, samples: Tensor, references: Tensor) -> None:
    import lpips

    def features(images: Tensor) -> list[Tensor]:
        outs = package.net(package.scaling_layer(enlarged(images)))
        return [lpips.normalize_tensor(out) for out in outs]  # [B, C, H, W] a layer

    def distances(left: list[Tensor], right: list[Tensor]) -> Tensor:
        """All pairs [n, m]: the head's weighted mean of the squared differences, row by row."""
        total = torch.zeros(len(left[0]), len(right[0]))
        for layer, (a, b) in enumerate(zip(left, right, strict=True)):
            weights = package.lins[layer].model[-1].weight.view(1, -1, 1, 1)
            for row in range(len(a)):
                total[row] += ((a[row] - b).square_() * weights).sum(1).mean((1, 2))
        return total

    @torch.no_grad()
    def blocks() -> Tensor:
        rows = []
        for some in samples.split(BLOCK):
            parts = [distances(features(some), features(b)) for b in references.split(BLOCK)]
            rows.append(torch.cat(parts, dim=1).topk(K, largest=False).values)
        return torch.cat(rows)

    assert len(package.lins) == len(TAPS["alex"])
    sizes = {"samples": len(samples), "references": len(references), "network": "alex"}
    compare(
        "neighbours: each block pair",
        blocks,
        lambda: ours(embedder, samples, references),
        repeats=3,
        **sizes,
    )


if __name__ == "__main__":
    main()
