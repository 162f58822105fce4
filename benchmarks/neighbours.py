"""LPIPS distances of all pairs: the network once for each pair, or once for each image.

    python -m benchmarks.neighbours

The baseline is ours, written as the original toolkit goes about it: blocks of pairs through the
network, then top-k. Images: scikit-learn's digits, 8 x 8 (LPIPS resizes them to 32 x 32)."""

from __future__ import annotations

import torch

from benchmarks.ratio import compare
from utils.datasets import load_image_set, to_float
from utils.embeddings import load_metric, nearest

SAMPLES, REFERENCES, K, PAIRS = 24, 64, 5, 256


def main() -> None:
    torch.set_num_threads(1)
    images = to_float(load_image_set("digits", ".", 8, 1).read(range(SAMPLES + REFERENCES)))
    samples, references = images[:SAMPLES], images[SAMPLES:]
    embedder = load_metric("alex", None, "cpu")

    def each_pair() -> torch.Tensor:
        left = samples.repeat_interleave(REFERENCES, dim=0)  # [pairs, C, H, W]
        right = references.repeat(SAMPLES, 1, 1, 1)
        parts = [
            (embedder(a) - embedder(b)).square().sum(dim=1)
            for a, b in zip(left.split(PAIRS), right.split(PAIRS), strict=True)
        ]
        return torch.cat(parts).reshape(SAMPLES, REFERENCES).topk(K, largest=False).values

    def each_image() -> torch.Tensor:
        return torch.from_numpy(nearest(embedder, samples, references, K)[0])

    compare("lpips-neighbours", each_pair, each_image, samples=SAMPLES, references=REFERENCES)


if __name__ == "__main__":
    main()
