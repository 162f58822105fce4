"""Peak memory of a search whose data are larger than `--memory`.

    python -m benchmarks.peak_memory

Each case runs in a separate process, on images made before; the peak is that of the kernel
(ru_maxrss) and includes Python, torch, images and mapped files."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.digit_images import digit_images
from benchmarks.ratio import print_result
from utils.cli.options.checks import parse_memory
from utils.cli.options.run import CacheOptions
from utils.data.datasets import to_float
from utils.descriptors.embedders import load_metric
from utils.jobs.memory import search_budget
from utils.metrics.cache import open_cache
from utils.metrics.nearest import SearchSettings, nearest_images

CASES = {  # network: samples, references, --memory
    "alex": (10_000, 50_000, "4G"),
    "vgg": (2_000, 20_000, "6G"),
}
SIDE, THREADS = 32, 2


def main() -> None:
    torch.set_num_threads(THREADS)
    for network, (samples, references, memory) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            images = digit_images(samples + references, SIDE, channels=3)
            np.save(Path(folder) / "images.npy", images.numpy())
            command = [sys.executable, "-m", "benchmarks.peak_memory", network, folder]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        peaks = json.loads(done.stdout.splitlines()[-1])
        sizes = {"network": network, "samples": samples, "references": references, "side": SIDE}
        print_result("peak memory", **peaks, memory=memory, **sizes)


def one_case(network: str, folder: Path) -> None:
    """Search with an empty cache, then with a full one; print peak and times as JSON."""
    torch.set_num_threads(THREADS)
    samples, _, memory = CASES[network]
    images = torch.from_numpy(np.load(folder / "images.npy"))
    queries, references = to_float(images[:samples]), images[samples:]
    embedder = load_metric(network, None, "cpu")
    cache = open_cache(embedder, CacheOptions(), folder / "dists", references, len(images))
    settings = SearchSettings(
        memory_bytes=search_budget(parse_memory(memory), embedder.device), cache=cache
    )
    times = []
    for _ in range(2):
        start = time.perf_counter()
        nearest_images(embedder, queries, references, 5, settings)
        times.append(round(time.perf_counter() - start, 1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    peaks = {"peak_gib": round(peak, 2), "seconds": times[0], "seconds_with_full_cache": times[1]}
    print(json.dumps(peaks | {"embedded": cache.embedded if cache else None}))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        one_case(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
