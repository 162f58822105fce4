"""Images as vectors, and the nearest ones by them: shared by distances and classification."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.neighbours import NearestNeighbours
from utils.datasets import to_float
from utils.errors import UserError
from utils.lpips_weights import load_embedding, network_fingerprint

SUFFIXES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
Progress = Callable[[int], object]  # told how many images were embedded just now


@dataclass(frozen=True)
class Embedder:
    """A metric as an embedding: phi [B, D] float32 on device, of images [B, C, H, W] in [-1, 1].

    The metric is |phi(x) - phi(y)|^2 where `squared` (LPIPS), else |phi(x) - phi(y)| (L2)."""

    name: str  # l2, alex, vgg or squeeze
    squared: bool
    device: torch.device
    phi: Callable[[Tensor], Tensor]
    fingerprint: str  # what a result file says of the metric

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device)
        return self.phi(to_float(images) if images.dtype == torch.uint8 else images.float())

    def dim(self, images: Tensor) -> int:
        """D for images like these."""
        return self(images[:1]).shape[1]


def load_metric(metric: str, weights_dir: Path | None, device: torch.device | str) -> Embedder:
    """The embedder of l2 (the pixels themselves), or of LPIPS with alex, vgg or squeeze.

    Raises UserError where the network's weights are not to be had."""
    device = torch.device(device)
    if metric == "l2":
        return Embedder("l2", False, device, lambda images: images.flatten(1), "l2")
    network = load_embedding(metric, weights_dir, device)
    return Embedder(metric, True, device, network, network_fingerprint(metric))


def nearest(
    embedder: Embedder,
    queries: Tensor,
    references: Tensor,
    k: int,
    *,
    exclude_self: bool = False,
    query_batch: int = 256,
    reference_batch: int = 256,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest references of each query: distances float32 [N, k'], indices int64 [N, k'].

    Ascending, equal distances by index, in the embedder's metric; k' = min(k, references).
    exclude_self: references are the queries, and none is its own neighbour: k' = min(k, N - 1).
    queries [N, C, H, W], references [K, C, H, W]: float in [-1, 1] or uint8, on the CPU.
    Each image is embedded once, unless the queries' embeddings exceed half of memory_bytes
    (default: half of what is free): then the references are embedded again for each block of
    queries. Raises ValueError for other shapes, NaN and infinite values."""
    searches = [(None if exclude_self else references, exclude_self, k)]
    if exclude_self and len(references) != len(queries):
        found = f"{len(references)} for {len(queries)} queries"
        raise ValueError(f"references: found {found}; with exclude_self give the queries")
    batches = (query_batch, reference_batch)
    return _search(embedder, queries, searches, batches, memory_bytes, progress)[0]


def nearest_images(
    embedder: Embedder,
    samples: Tensor,
    train: Tensor,
    k: int,
    *,
    sample_batch: int = 256,
    train_batch: int = 256,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """`nearest` of the samples among train and among themselves, each image embedded once.

    The arrays of dists/K.npz: data-dists, data-indices, synth-dists, synth-indices."""
    searches = [(train, False, k), (None, True, k)]
    batches = (sample_batch, train_batch)
    data, synth = _search(embedder, samples, searches, batches, memory_bytes, progress)
    keys = ("data-dists", "data-indices", "synth-dists", "synth-indices")
    return dict(zip(keys, (*data, *synth), strict=True))


def _search(
    embedder: Embedder,
    queries: Tensor,
    searches: list[tuple[Tensor | None, bool, int]],
    batches: tuple[int, int],
    memory_bytes: int | None,
    progress: Progress | None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Distances and indices for each search (references, or None for the queries themselves)."""
    for images in (queries, *(found for found, _, _ in searches if found is not None)):
        if images.ndim != 4 or not len(images) or images.shape[1:] != queries.shape[1:]:
            found = f"{list(images.shape)} beside {list(queries.shape)}"
            raise ValueError(f"images: found {found}; give [N, C, H, W] of one shape, N >= 1")
    told = progress or (lambda _: None)
    budget = memory_bytes or free_memory(embedder.device) // 2
    dim = embedder.dim(queries)
    rows = query_block(embedder.name, len(queries), dim, budget)
    parts: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in searches]
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        phi = torch.empty(len(block), dim, device=embedder.device)  # filled in place: held once
        done = 0
        for found in _embed(embedder, block, batches[0], told):
            phi[done : done + len(found)] = found
            done += len(found)
        for part, (references, exclude_self, k) in zip(parts, searches, strict=True):
            search = NearestNeighbours(
                phi,
                min(k, len(queries if references is None else references)),
                exclude_self=exclude_self,
                first_query=start,
                block_bytes=max(1, min(budget // 4, 2**28)),
            )
            first = 0
            if references is None and len(block) == len(queries):
                search.update(phi, 0)  # embedded already
            else:
                images = queries if references is None else references
                for found in _embed(embedder, images, batches[1], told):
                    search.update(found, first)
                    first += len(found)
            squares, indices = search.result()
            dists = squares if embedder.squared else squares.sqrt()
            part.append((dists.cpu().numpy(), indices.cpu().numpy()))
    return [tuple(np.concatenate(arrays) for arrays in zip(*part, strict=True)) for part in parts]


def query_block(name: str, count: int, dim: int, budget: int) -> int:
    """How many of count embeddings half of budget holds; says so where that is not all."""
    size = 4 * dim  # bytes of one embedding
    rows = min(count, max(1, budget // 2 // size))
    if rows < count:
        print(
            f"{name}: {count} embeddings take {count * size / 2**30:.1f}G, more than half of the "
            f"memory: {-(-count // rows)} blocks, references embedded again for each",
            file=sys.stderr,
        )
    return rows


def _embed(embedder: Embedder, images: Tensor, batch: int, told: Progress) -> Iterator[Tensor]:
    """Yield phi [b, D], b <= batch."""
    for part in images.split(batch):
        yield embedder(part)
        told(len(part))


def parse_memory(text: str) -> int:
    """Bytes: `parse_memory("4G") == 4 * 2**30`, `parse_memory("500M") == 500 * 2**20`."""
    match = re.fullmatch(
        r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(?:i?B)?\s*", str(text), re.IGNORECASE
    )
    size = int(float(match[1]) * SUFFIXES[match[2].upper()]) if match else 0
    if not 2**20 <= size < 2**63:
        raise UserError("--memory", text, "give a size of 1M or more, as 4G or 500M")
    return size


def free_memory(device: torch.device) -> int:
    """Bytes that are free: on a CUDA device its own memory, else the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:  # what Linux would give, its file cache included
        text = Path("/proc/meminfo").read_text()
        return int(re.search(r"MemAvailable:\s+(\d+) kB", text)[1]) * 1024
    except (OSError, TypeError):  # other systems do not tell: half of all
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
