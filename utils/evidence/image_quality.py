"""The quality of images: `quality` through their embeddings, as columns, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.data.views import Images
from utils.descriptors.embedders import Embedder
from utils.evidence.quality import LEAST, Estimate, measure_quality
from utils.jobs.memory import search_budget
from utils.metrics.nearest import SearchSettings, embed

MEASURES = {  # titles, with the value of samples that are like real images
    "frechet": "Frechet distance",
    "frechet_limit": "Frechet distance, n to infinity",
    "kernel": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "frechet_gap": "Frechet gap, held-out less training",
    "sample_gap": "distance gap, held-out less training",
}
ENDS = ("", "_low", "_high", "_control")
QUALITY_COLUMNS = ("quality_n", *(f"{name}{end}" for name in MEASURES for end in ENDS))
NUMBERS, PAIRS = 16, 24  # in memory: float32 of each embedding's number, float64 of each pair


def image_quality(
    embedder: Embedder,
    samples: Images,
    train: Images,
    held_out: Images,
    most: int,
    search: SearchSettings,
) -> dict[str, Estimate]:
    """The measures of samples in the embedding, see `measure_quality`; none where there are fewer
    than LEAST samples, or twice as many held-out images.

    samples, train, held_out: images [N, C, H, W]. most: images of each set; fewer are taken where
    memory is small. The first of each set are taken: their embeddings are in the cache."""
    budget = search.memory_bytes or search_budget(None, embedder.device)
    of_vectors = budget // 2 // (NUMBERS * 4 * embedder.dim(samples[:1]))
    of_pairs = int((budget / 2 / (PAIRS * 8)) ** 0.5)
    n = min(len(samples), len(held_out) // 2, most, max(LEAST, min(of_vectors, of_pairs)))
    if n < LEAST:
        return {}
    vectors = []
    for images, count in ((samples, n), (train, n), (held_out, 2 * n)):
        count = min(count, len(images))
        phi = embed(embedder, images, search.batch, search)
        vectors.append(phi.read(range(count)).cpu().numpy())
    return measure_quality(*vectors)


def quality_columns(estimates: Mapping[str, Estimate]) -> dict[str, float | None]:
    """QUALITY_COLUMNS: of each measure the value, its 95 % interval and that of held-out images;
    None where it was not measured."""
    columns: dict[str, float | None] = dict.fromkeys(QUALITY_COLUMNS)
    for name, one in estimates.items():
        values = (one.value, one.low, one.high, one.control)
        columns |= dict(zip((f"{name}{end}" for end in ENDS), values, strict=True))
        if name == "frechet":
            columns["quality_n"] = one.n
    return columns


def measure_text(columns: Mapping[str, Any], name: str) -> str:
    """`1.24 (1.02 to 1.46), real 0.31`; a dash where it was not measured."""
    values = [columns[f"{name}{end}"] for end in ENDS]
    if values[0] is None:
        return "-"
    value, low, high, control = (f"{x:.3g}" for x in values)
    return f"{value} ({low} to {high}), real {control}"
