"""The metric of distances between images, for every stage that measures them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.options.checks import one_of, with_help
from utils.cli.options.choices import (
    DESCRIPTOR,
    METRIC_FORMS,
    METRIC_NAMES,
    NOT_L2,
    metric_family,
    metric_names,
)


@dataclass
class MetricOptions:
    """Distances of pixels (L2), of LPIPS, or between descriptors."""

    metric: str | None = with_help(None, f"{metric_names()} (docs/descriptors.md); default l2")
    metric_weights: Path | None = None  # file or folder of the network, if not in the usual caches
    use_lpips: bool = False  # the same as --metric with the name of --network
    network: str = "alex"  # of LPIPS: alex, vgg or squeeze
    lpips_weights: Path | None = None  # folder of the backbone files, if not in the usual caches

    def __post_init__(self) -> None:
        one_of(self, "network", NOT_L2)
        if self.metric is not None:
            check_metric(self.metric)
        if self.use_lpips and self.metric not in (None, self.network):
            remedy = f"choose --metric {self.network}, or leave --use-lpips out"
            raise UserError("--metric", f"{self.metric}, and --use-lpips", remedy)

    @property
    def metric_name(self) -> str:
        """A name in METRIC_NAMES, or timm:NAME; of a file without its folder: onnx:NAME.onnx."""
        if self.metric is None:
            return self.network if self.use_lpips else "l2"
        file = file_of(self.metric)
        return f"{self.metric.partition(':')[0]}:{file.name}" if file else self.metric

    @property
    def weights_path(self) -> Path | None:
        """The file or folder with the weights of the network; None for the usual caches."""
        file = file_of(self.metric) if self.metric else None
        return file or self.metric_weights or self.lpips_weights

    def metric_args(self) -> dict[str, str]:
        """The metric as `args` of distances and critical times store it."""
        name = self.metric_name
        return {"metric": metric_family(name) or "", "network": "" if name == "l2" else name}

    def stored_metric(self) -> dict[str, Any]:
        """The metric as the other stages store it: alike, however it was named."""
        name = self.metric_name
        if metric_family(name) == DESCRIPTOR:
            return {"metric": name, "use_lpips": False, "network": "alex"}
        return {
            "metric": None,
            "use_lpips": name != "l2",
            "network": self.network if name == "l2" else name,
        }


def check_metric(metric: str) -> None:
    """Raises UserError for a name that is no metric."""
    if metric_family(metric) is None:
        raise UserError("--metric", metric, f"choose {metric_names()}")
    file = file_of(metric)
    if file is not None and not file.is_file():
        raise UserError("--metric", f"{metric}: no file", "give the file of the network")


def file_of(metric: str) -> Path | None:
    """The file in onnx:FILE and torchscript:FILE; None of other metrics."""
    form, _, rest = metric.partition(":")
    return Path(rest).expanduser() if METRIC_FORMS.get(form) == "FILE" and rest else None


def stored_name(settings: dict[str, Any]) -> str:
    """The name of a metric in a section of args, in either form. The inverse of `metric_args` and
    `stored_metric`."""
    metric, network = settings.get("metric"), settings.get("network") or "l2"
    if metric is None:
        return network if settings.get("use_lpips") else "l2"
    return network if metric in METRIC_NAMES.values() else metric
