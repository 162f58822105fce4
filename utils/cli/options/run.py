"""Options of how to run: device, precision, shares of the work, the cache of embeddings.

Nothing heavy is imported here, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.cli.errors import UserError
from utils.cli.options.checks import one_of, parse_share, within


@dataclass
class RunOptions:
    """How to run; nothing here changes what is computed beyond rounding."""

    device: str = "auto"  # auto (the best one here), cpu, cuda, cuda:N or mps
    precision: str = "auto"  # auto, float32 or bfloat16 (auto: where hardware multiplies it)
    deterministic: bool = False  # CUDA: bit-equal reruns, slower (a CPU always is)
    dry_run: bool = False  # print the plan, write nothing
    overwrite: bool = False  # redo finished files

    def __post_init__(self) -> None:
        one_of(self, "precision", ("auto", "float32", "bfloat16"))
        kind, _, index = str(self.device).partition(":")
        if kind not in ("auto", "cpu", "cuda", "mps") or (
            index and not (index.isdecimal() and kind == "cuda")
        ):
            raise UserError("--device", self.device, "choose auto, cpu, cuda, cuda:N or mps")


@dataclass
class SliceOptions:
    """Which of the K-named files, sorted by K."""

    start_idx: int = 0  # first file of the slice
    final_idx: int = -1  # end of the slice, exclusive; -1 is the end
    # job i of n (0 .. n - 1): its share of that slice; all shares take about as long
    part: str | None = None

    def __post_init__(self) -> None:
        parse_share(self.part, "--part")
        within(self, "start_idx", 0)
        within(self, "final_idx", -1)
        if 0 <= self.final_idx < self.start_idx:
            remedy = f"choose {self.start_idx} (--start-idx) or more, or -1 for the end"
            raise UserError("--final-idx", self.final_idx, remedy)


@dataclass
class CacheOptions:
    """LPIPS embeddings on disk: each image passes through the network once, for all K and jobs."""

    cache_path: Path | None = None  # folder of the embeddings; default: beside --result-path
    no_cache: bool = False  # keep no embeddings; images pass through the network again
