"""The nearest images in bounded memory: one embedding an image, blocks against blocks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.jobs.memory import as_size, search_budget
from utils.metrics.cache import Embedded, EmbeddingCache
from utils.metrics.embedders import Embedder
from utils.metrics.exact_search import NearestNeighbours

BLOCK_BYTES = 2**28  # no block needs more to keep a processor busy


@dataclass(frozen=True)
class SearchSettings:
    """What a search may use; none of it changes what is found.

    batch, reference_batch: images embedded at once. memory_bytes: for embeddings and blocks
    (default: half of what is free). product: the number format of the product that proposes
    neighbours. embedded: told how many images were embedded just now; compared: told how many
    references were compared with a block of queries."""

    batch: int = 256
    reference_batch: int = 256
    memory_bytes: int | None = None
    cache: EmbeddingCache | None = None
    product: torch.dtype = torch.float32
    embedded: Callable[[int], object] = lambda _: None
    compared: Callable[[int], object] = lambda _: None


@dataclass(frozen=True)
class References:
    """Images that are searched: those of span, k of them wanted. exclude_self: they are the
    queries, and none is its own neighbour."""

    images: Embedded
    span: range
    k: int
    exclude_self: bool = False


def nearest(
    embedder: Embedder,
    queries: Tensor,
    references: Tensor,
    k: int,
    *,
    exclude_self: bool = False,
    settings: SearchSettings | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest references of each query: distances float32 [N, k'], indices int64 [N, k'].

    Ascending, equal distances by index, in the embedder's metric; k' = min(k, references).
    exclude_self: references are the queries, and none is its own neighbour: k' = min(k, N - 1).
    queries [N, C, H, W], references [K, C, H, W]: float in [-1, 1] or uint8, on the CPU.
    Each image is embedded once where there is a cache, or where the queries' embeddings fit into
    half of the memory; else the references are embedded again for each block of queries.
    Raises ValueError for other shapes, NaN and infinite values."""
    settings = settings or SearchSettings()
    if exclude_self and len(references) != len(queries):
        found = f"{len(references)} for {len(queries)} queries"
        raise ValueError(f"references: found {found}; with exclude_self give the queries")
    check_shapes(queries, references)
    asked = embed(embedder, queries, settings.batch, settings)
    others = (
        asked if exclude_self else embed(embedder, references, settings.reference_batch, settings)
    )
    most = min(k, len(references) - exclude_self)
    whole = References(others, range(len(references)), most, exclude_self)
    squares, indices = search(asked, range(len(queries)), [whole], settings)[0]
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

    columns count train first and then the samples, 0 .. K + N - 1. Gives data-squares,
    data-indices, synth-squares, synth-indices [rows, k']: squared distances of phi, infinite where
    the part has fewer than k' = min(k, K) and min(k, N - 1) neighbours."""
    settings = settings or SearchSettings()
    check_shapes(samples, train)
    cut = len(train)
    asked = embed(embedder, samples, settings.batch, settings)
    known = embed(embedder, train, settings.reference_batch, settings)
    first = range(min(columns.start, cut), min(columns.stop, cut))
    second = range(max(columns.start - cut, 0), max(columns.stop - cut, 0))
    searches = [
        References(known, first, min(k, len(train))),
        References(asked, second, min(k, len(samples) - 1), exclude_self=True),
    ]
    found = search(asked, rows, searches, settings)
    arrays = {}
    for kind, (squares, indices) in zip(("data", "synth"), found, strict=True):
        arrays |= {f"{kind}-squares": squares.numpy(), f"{kind}-indices": indices.numpy()}
    return arrays


def as_distances(embedder: Embedder, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of dists/K.npz from those of `nearest_in` for all rows and columns."""
    found = {}
    for kind in ("data", "synth"):
        found[f"{kind}-dists"] = to_metric(embedder, arrays[f"{kind}-squares"])
        found[f"{kind}-indices"] = arrays[f"{kind}-indices"]
    return found


def to_metric(embedder: Embedder, squares: np.ndarray) -> np.ndarray:
    """Squared distances of phi as distances of the metric."""
    return squares if embedder.squared else np.sqrt(squares)


def search(
    queries: Embedded, rows: range, searches: list[References], settings: SearchSettings
) -> list[tuple[Tensor, Tensor]]:
    """Squared distances [rows, k] and indices for each of searches, on the CPU.

    As many queries as half of the memory holds are searched for at once; the references pass by
    in blocks. Infinite where there are fewer than k neighbours."""
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
                settings.compared(len(span))
            part.append(tuple(found.cpu() for found in best.result(complete=False)))
    return [tuple(torch.cat(found) for found in zip(*part, strict=True)) for part in parts]


def embed(embedder: Embedder, images: Tensor, batch: int, settings: SearchSettings) -> Embedded:
    """The images as embeddings by position; a cache of images of another size is of no use."""
    dim, device = embedder.dim(images), embedder.device
    cache = settings.cache if settings.cache and settings.cache.dim == dim else None
    return Embedded(images, embedder, dim, device, batch, cache, settings.embedded)


def query_block(count: int, dim: int, budget: int) -> int:
    """How many queries of count half of budget holds; says so where that is not all."""
    size = 4 * dim  # bytes of one embedding
    rows = max(1, min(count, budget // 2 // (2 * size)))  # the search holds them twice
    if rows < count:
        print(
            f"{count} queries take {as_size(2 * count * size)}, more than half of the memory: "
            f"{-(-count // rows)} blocks, references pass by again for each",
            file=sys.stderr,
        )
    return rows


def check_shapes(queries: Tensor, references: Tensor) -> None:
    """Raises ValueError unless both are images of one shape, one or more of each."""
    for images in (queries, references):
        if images.ndim != 4 or not len(images) or images.shape[1:] != queries.shape[1:]:
            found = f"{list(images.shape)} beside {list(queries.shape)}"
            raise ValueError(f"images: found {found}; give [N, C, H, W] of one shape, N >= 1")
