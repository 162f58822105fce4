"""Nearest images in bounded memory: each image is embedded once, and blocks are compared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.data.views import Images
from utils.descriptors.embedders import Embedder
from utils.jobs.memory import as_size, search_budget
from utils.metrics.cache import Embedded, EmbeddingCache
from utils.metrics.exact_search import NearestNeighbours

BLOCK_BYTES = 2**28  # larger blocks are not faster


@dataclass(frozen=True)
class SearchSettings:
    """Resources of a search; they do not change its result.

    batch, reference_batch: images embedded at once. memory_bytes: for embeddings and blocks
    (default: half of the free memory). product: the number format of the product that proposes
    neighbours. on_embedded: called with the number of images embedded since; on_compared: with
    the number of references compared with a block of queries since."""

    batch: int = 256
    reference_batch: int = 256
    memory_bytes: int | None = None
    cache: EmbeddingCache | None = None
    product: torch.dtype = torch.float32
    on_embedded: Callable[[int], object] = lambda _: None
    on_compared: Callable[[int], object] = lambda _: None


@dataclass(frozen=True)
class References:
    """Images to search: those of span, for the k nearest. exclude_self: they are the queries, and
    no image is its own neighbour."""

    images: Embedded
    span: range
    k: int
    exclude_self: bool = False


def nearest(
    embedder: Embedder,
    queries: Images,
    references: Images,
    k: int,
    *,
    exclude_self: bool = False,
    rows: range | None = None,
    settings: SearchSettings | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest references of each query: distances float32 [N, k'], indices int64 [N, k'].

    Ascending, equal distances by index, in the embedder's metric; k' = min(k, references).
    exclude_self: references are the queries, no image its own neighbour, and k' = min(k, N - 1).
    queries [N, C, H, W], references [K, C, H, W]: float in [-1, 1] or uint8, on the CPU; tensors,
    or images that are read a block at a time. rows: the queries to answer for; default all.
    Each image is embedded once if there is a cache, or if the queries' embeddings fit into half
    of the memory; else the references are embedded again for each block of queries.
    Raises ValueError for other shapes, NaN and infinite values."""
    settings = settings or SearchSettings()
    if exclude_self and len(references) != len(queries):
        counts = f"{len(references)} for {len(queries)} queries"
        raise ValueError(f"references: found {counts}; with exclude_self give the queries")
    check_shapes(queries, references)
    query_phi = reference_phi = embed(embedder, queries, settings.batch, settings)
    if not exclude_self:
        reference_phi = embed(embedder, references, settings.reference_batch, settings)
    k = min(k, len(references) - exclude_self)
    searched = References(reference_phi, range(len(references)), k, exclude_self)
    rows = range(len(queries)) if rows is None else rows
    squares, indices = search(query_phi, rows, [searched], settings)[0]
    return to_metric(embedder, squares.numpy()), indices.numpy()


def nearest_images(
    embedder: Embedder,
    samples: Tensor,
    train: Tensor,
    k: int,
    settings: SearchSettings | None = None,
) -> dict[str, np.ndarray]:
    """`nearest` of the samples among train and among themselves, each image embedded once.

    The arrays of dists/K.npz: data-dists, data-indices, synth-dists, synth-indices."""
    rows, columns = range(len(samples)), range(len(train) + len(samples))
    return as_distances(embedder, nearest_in(embedder, samples, train, k, rows, columns, settings))


def nearest_in(
    embedder: Embedder,
    samples: Tensor,
    train: Tensor,
    k: int,
    rows: range,
    columns: range,
    settings: SearchSettings | None = None,
) -> dict[str, np.ndarray]:
    """A part of `nearest_images`: the samples of rows, against the references of columns.

    columns count train first and then the samples, 0 .. K + N - 1. Returns data-squares,
    data-indices, synth-squares, synth-indices [rows, k'], k' = min(k, K) and min(k, N - 1):
    squared distances of phi, infinite where the part has fewer than k' neighbours."""
    settings = settings or SearchSettings()
    check_shapes(samples, train)
    count = len(train)
    sample_phi = embed(embedder, samples, settings.batch, settings)
    train_phi = embed(embedder, train, settings.reference_batch, settings)
    in_train = range(min(columns.start, count), min(columns.stop, count))
    in_samples = range(max(columns.start - count, 0), max(columns.stop - count, 0))
    searches = [
        References(train_phi, in_train, min(k, len(train))),
        References(sample_phi, in_samples, min(k, len(samples) - 1), exclude_self=True),
    ]
    results = search(sample_phi, rows, searches, settings)
    arrays = {}
    for kind, (squares, indices) in zip(("data", "synth"), results, strict=True):
        arrays |= {f"{kind}-squares": squares.numpy(), f"{kind}-indices": indices.numpy()}
    return arrays


def as_distances(embedder: Embedder, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of dists/K.npz from those of `nearest_in` for all rows and columns."""
    result = {}
    for kind in ("data", "synth"):
        result[f"{kind}-dists"] = to_metric(embedder, arrays[f"{kind}-squares"])
        result[f"{kind}-indices"] = arrays[f"{kind}-indices"]
    return result


def to_metric(embedder: Embedder, squares: np.ndarray) -> np.ndarray:
    """Squared distances of phi as distances of the metric."""
    return squares if embedder.squared else np.sqrt(squares)


def search(
    queries: Embedded, rows: range, searches: list[References], settings: SearchSettings
) -> list[tuple[Tensor, Tensor]]:
    """Squared distances [rows, k] and indices for each of searches, on the CPU.

    The queries are cut into blocks that fill half of the memory at most, and each is compared with
    the references block by block. Infinite where there are fewer than k neighbours."""
    budget = settings.memory_bytes or search_budget(None, queries.device)
    block_bytes = max(1, min(budget // 4, BLOCK_BYTES))
    at_once = max(1, min(budget // 8, BLOCK_BYTES) // (4 * queries.dim))  # references
    queries.fill(rows)
    for references in searches:
        references.images.fill(references.span)
    size = query_block(len(rows), queries.dim, budget)
    parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in searches]
    for start in range(rows.start, rows.stop, size):
        block = range(start, min(start + size, rows.stop))
        phi = queries.hold(block)
        for part, references in zip(parts, searches, strict=True):
            if references.k < 1:  # one sample has no other
                empty = torch.zeros(len(block), 0)
                part.append((empty, empty.long()))
                continue
            best = NearestNeighbours(
                phi,
                references.k,
                exclude_self=references.exclude_self,
                first_query=start,
                block_bytes=block_bytes,
                product=settings.product,
            )
            for first in range(references.span.start, references.span.stop, at_once):
                span = range(first, min(first + at_once, references.span.stop))
                best.update(references.images.read(span), first)
                settings.on_compared(len(span))
            part.append(tuple(array.cpu() for array in best.result(complete=False)))
    return [tuple(torch.cat(arrays) for arrays in zip(*part, strict=True)) for part in parts]


def embed(embedder: Embedder, images: Images, batch: int, settings: SearchSettings) -> Embedded:
    """The images' embeddings by position; from a cache only if it is of images of this size."""
    dim, device = embedder.dim(images), embedder.device
    cache = settings.cache if settings.cache and settings.cache.dim == dim else None
    return Embedded(images, embedder, dim, device, batch, cache, settings.on_embedded)


def query_block(count: int, dim: int, budget: int) -> int:
    """How many of count queries fit into half of budget; prints a line if not all do."""
    size = 4 * dim  # bytes of one embedding
    rows = max(1, min(count, budget // 2 // (2 * size)))  # the search stores them twice
    if rows < count:
        print(
            f"{count} queries take {as_size(2 * count * size)}, more than half of the memory: "
            f"{-(-count // rows)} blocks, references pass by again for each",
            file=sys.stderr,
        )
    return rows


def check_shapes(queries: Images, references: Images) -> None:
    """Raises ValueError unless both are images of one shape, one or more of each."""
    for images in (queries, references):
        if images.ndim != 4 or not len(images) or images.shape[1:] != queries.shape[1:]:
            shapes = f"{list(images.shape)} beside {list(queries.shape)}"
            raise ValueError(f"images: found {shapes}; give [N, C, H, W] of one shape, N >= 1")
