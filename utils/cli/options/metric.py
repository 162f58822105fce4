"""The metric of distances between images, for every stage that measures them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.cli.options.checks import one_of
from utils.cli.options.choices import METRIC_NAMES, NOT_L2


@dataclass
class MetricOptions:
    """L2, or LPIPS with one of its networks."""

    use_lpips: bool = False  # LPIPS; without it the Euclidean distance (L2)
    network: str = "alex"  # of LPIPS: alex, vgg or squeeze
    lpips_weights: Path | None = None  # folder of the backbone files, if not in the usual caches

    def __post_init__(self) -> None:
        one_of(self, "network", NOT_L2)

    @property
    def metric(self) -> str:
        """A name in METRIC_NAMES."""
        return self.network if self.use_lpips else "l2"

    def metric_args(self) -> dict[str, str]:
        """The metric as `args` of files store it."""
        return {
            "metric": METRIC_NAMES[self.metric],
            "network": self.network if self.use_lpips else "",
        }
