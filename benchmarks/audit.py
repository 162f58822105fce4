"""The audit of large sets, against a plain loop of torch.cdist over blocks: time, memory.

    python -m benchmarks.audit small     # 50,000 x 50,000 images of 32 x 32 x 3, by L2
    python -m benchmarks.audit lpips     # the same by alex; the plain loop takes pixels
    python -m benchmarks.audit million   # 1,000 x 1,000,000 of 64 x 64 x 3, by L2: 12 GB of disk
    python -m benchmarks.audit large     # 10,000 x 1,000,000, over an hour

run_audit.py is a process of its own, from the first import to the page. With near-duplicates it
searches three times (samples among training images, and both sets among themselves); `ratio` is
that of the plain loop, which searches once, to an audit without them.
Images are made: smooth colours with noise."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.ratio import print_result
from utils.evidence.duplicates import MOST_NEAR

CASES = {  # samples, training images, side, flags of run_audit.py
    "small": (50_000, 50_000, 32, ()),
    "lpips": (50_000, 50_000, 32, ("--use-lpips", "--no-cache")),
    "million": (1_000, 1_000_000, 64, ("--memory", "6G")),
    "large": (10_000, 1_000_000, 64, ("--memory", "6G")),
}
MADE = 10_000  # images made at once
ROWS, COLUMNS = 1_000, 5_000  # of a block of the plain loop
K = 5


def main() -> None:
    name, *rest = sys.argv[1:] or ["small"]
    if name == "make":
        make(Path(rest[0]), *map(int, rest[1:]))
        return
    if name == "plain":
        plain(*map(Path, rest))
        return
    n, k, side, flags = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        samples, train = (Path(folder) / f"{what}.npy" for what in ("samples", "train"))
        # In a process of its own: a child's peak of memory begins with that of its parent.
        for path, count, seed in ((train, k, "0"), (samples, n, "1")):
            values = map(str, (path, count, side, seed))
            subprocess.run([sys.executable, "-m", "benchmarks.audit", "make", *values], check=True)
        result = Path(folder) / "audit"
        given = ["--samples", samples, "--train", train, "--result-path", result]
        command = [sys.executable, "run_audit.py", *given, *flags]
        audit = measured(command)
        exact = [*command, "--overwrite", "--duplicates", "exact"]
        alone = measured(exact) if k <= MOST_NEAR else audit
        found = Path(folder) / "plain.npy"
        loop = measured([sys.executable, "-m", "benchmarks.audit", "plain", samples, train, found])
        if "--use-lpips" not in flags:
            check(result / "neighbours.csv", np.load(found))
    print_result(
        f"audit: {name}",
        samples=n,
        training_images=k,
        side=side,
        flags=" ".join(flags),
        ratio=round(loop["seconds"] / alone["seconds"], 2),
        images_per_second=round((n + k) / audit["seconds"]),
        audit=audit,
        without_near_duplicates=alone,
        plain=loop,
    )


def make(path: Path, count: int, side: int, seed: int) -> None:
    """Images uint8 [count, side, side, 3]: 8 x 8 random colours, enlarged, with noise."""
    draw = np.random.default_rng(seed)
    shape = (count, side, side, 3)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    for start in range(0, count, MADE):
        size = (min(MADE, count - start), 8, 8, 3)
        colours = draw.integers(20, 236, size, np.uint8)
        large = colours.repeat(side // 8, 1).repeat(side // 8, 2)
        images[start : start + MADE] = large + draw.integers(0, 20, large.shape, np.uint8)
    images.flush()


def measured(command: list) -> dict[str, float]:
    """Seconds, and the peak of the memory in GiB, of a command in a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"exit status {status}: {' '.join(map(str, command))}")
    seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 1), "peak_gib": round(usage.ru_maxrss / 2**20, 2)}


def plain(samples: Path, train: Path, result: Path) -> None:
    """The K nearest training images of each sample, as a short script would find them."""
    queries, references = (np.load(path, mmap_mode="r") for path in (samples, train))

    def block(images: np.ndarray, start: int, size: int) -> torch.Tensor:
        part = torch.from_numpy(np.ascontiguousarray(images[start : start + size]))
        return part.flatten(1).float() / 127.5 - 1

    nearest = []
    for i in range(0, len(queries), ROWS * 10):
        some = block(queries, i, ROWS * 10)
        best = torch.full((len(some), K), torch.inf)
        for j in range(0, len(references), COLUMNS):
            others = block(references, j, COLUMNS)
            for row in range(0, len(some), ROWS):
                apart = torch.cdist(some[row : row + ROWS], others)
                both = torch.cat([best[row : row + ROWS], apart], dim=1)
                best[row : row + ROWS] = both.topk(K, largest=False).values
        nearest.append(best)
    np.save(result, torch.cat(nearest).numpy())


def check(table: Path, expected: np.ndarray) -> None:
    """The distances of neighbours.csv are those of the plain loop."""
    import csv

    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            found = [float(row[f"distance_{j + 1}"]) for j in range(K)]
            np.testing.assert_allclose(found, expected[int(row["sample"])], rtol=1e-3)


if __name__ == "__main__":
    main()
