"""`utils.metrics.exact_search` against faiss and scikit-learn, on LPIPS embeddings.

    python -m benchmarks.exact_search

All three get the same float32 vectors: alex embeddings of digits (`digit_images`). faiss is
timed without building its index, scikit-learn with `fit`, which only stores the references.
One JSON line for each baseline, product type and number of threads. Needs faiss-cpu."""

from __future__ import annotations

from collections.abc import Callable

import faiss
import torch
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.digit_images import digit_images
from benchmarks.ratio import compare
from utils.descriptors.embedders import load_metric
from utils.metrics.exact_search import nearest_neighbours

QUERIES, REFERENCES, SIDE, K = 1000, 4000, 28, 5
EMBEDDED_AT_ONCE = 250


def embeddings() -> Tensor:
    """phi [QUERIES + REFERENCES, D] float32."""
    embedder = load_metric("alex", None, "cpu")
    images = digit_images(QUERIES + REFERENCES, SIDE)
    return torch.cat([embedder(part) for part in images.split(EMBEDDED_AT_ONCE)])


def by_faiss(a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    index = faiss.IndexFlatL2(b.shape[1])
    index.add(b.numpy())
    return lambda: torch.from_numpy(index.search(a.numpy(), K)[0])


def by_sklearn(a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    search = NearestNeighbors(n_neighbors=K, algorithm="brute")

    def squares() -> Tensor:
        dists = search.fit(b.numpy()).kneighbors(a.numpy())[0]
        return torch.from_numpy(dists).float().square()

    return squares


def main() -> None:
    vectors = embeddings()
    a, b = vectors[:QUERIES], vectors[QUERIES:]
    baselines = {"faiss": by_faiss(a, b), "sklearn": by_sklearn(a, b)}
    sizes = {"queries": QUERIES, "references": REFERENCES, "dim": a.shape[1], "k": K}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)
        with threadpool_limits(threads):
            for name, baseline in baselines.items():
                for product in (torch.float32, torch.bfloat16):

                    def ours(product: torch.dtype = product) -> Tensor:
                        return nearest_neighbours(a, b, K, product=product)[0]

                    kind = str(product).removeprefix("torch.")
                    compare(f"exact-search-{name}", baseline, ours, product=kind, **sizes)


if __name__ == "__main__":
    main()
