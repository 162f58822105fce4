"""Images as vectors between which a metric is a plain distance: pixels, LPIPS, descriptors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.cli.options.choices import DESCRIPTOR, PICTURE_CHANNELS, is_normalised, metric_family
from utils.cli.options.metric import MetricOptions
from utils.cli.progress import print_once
from utils.data.datasets import to_float
from utils.descriptors.lpips_weights import load_embedding
from utils.descriptors.networks import load_network, normalised
from utils.files.provenance import digest


@dataclass(frozen=True)
class Embedder:
    """A metric as an embedding: phi [B, D] float32 on device, of images [B, C, H, W] in [-1, 1].

    The metric is |phi(x) - phi(y)|^2 if `squared` (LPIPS), else |phi(x) - phi(y)|.
    Raises UserError where a network gives NaN or infinite features."""

    name: str  # see MetricOptions.metric_name
    squared: bool
    device: torch.device
    phi: Callable[[Tensor], Tensor]
    fingerprint: str  # of the network's weights; empty where there is no network

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if self.fingerprint and images.shape[1] not in PICTURE_CHANNELS:
            remedy = "choose --metric l2: networks take grey and colour"
            raise UserError(
                f"--metric {self.name}", f"images of {images.shape[1]} channels", remedy
            )
        # An image must give the same bits in every batch: a cache mixes batches. A single image
        # takes other kernels, and threads that cannot share images evenly split one of them.
        multiple = max(2, torch.get_num_threads())
        padding = images[:1].expand(-len(images) % multiple, -1, -1, -1)
        batch = torch.cat([images, padding]).to(self.device)
        phi = self.phi(as_float(batch))[: len(images)]
        # Pixels that are finite stay so; a network's features may not, and a cache would keep them.
        if self.fingerprint and not phi.isfinite().all():
            remedy = "use images in [-1, 1], and other weights of the network"
            raise UserError(f"--metric {self.name}", "NaN or infinite features", remedy)
        return phi

    def dim(self, images: Tensor) -> int:
        """D for images like these."""
        return self(images[:1]).shape[1]


def as_float(images: Tensor) -> Tensor:
    """Images in [-1, 1] as float32: uint8 through `to_float`, others are there already."""
    return to_float(images) if images.dtype == torch.uint8 else images.float()


def l2(images: Tensor) -> Tensor:
    """The pixels themselves."""
    return images.flatten(1)


WITHOUT_NETWORK = {  # phi of metrics |phi(x) - phi(y)|
    "l2": l2,
}


def load_metric(metric: str, weights: Path | None, device: torch.device | str) -> Embedder:
    """The embedder of a metric without a network, of LPIPS, or of a descriptor.

    weights: file or folder of the network; None for the usual caches. Prints what a descriptor
    does with images. Raises UserError where the network's weights are not available."""
    device = torch.device(device)
    if metric in WITHOUT_NETWORK:
        return Embedder(metric, False, device, WITHOUT_NETWORK[metric], "")
    if metric_family(metric) == DESCRIPTOR:
        network = load_network(metric, weights, device)
        phi = normalised(network) if is_normalised(metric) else network
        norm = "divided by its norm" if is_normalised(metric) else "not divided by its norm"
        print_once(f"{metric}: {norm}; images {network.input}; {network.source}")
        return Embedder(metric, False, device, phi, network.fingerprint)
    network = load_embedding(metric, weights, device)
    fingerprint = digest(*(tensor.cpu().numpy() for tensor in network.state_dict().values()))
    return Embedder(metric, True, device, network, fingerprint)


@dataclass(frozen=True)
class ChosenMetric:
    """The metric that a stage's options name; its network is loaded when it is needed."""

    options: MetricOptions
    device: torch.device

    @cached_property
    def embedder(self) -> Embedder:
        return load_metric(self.options.metric_name, self.options.weights_path, self.device)

    def identified(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The metric as args store it, with the digest of a descriptor's weights: files of another
        network are then not taken for the same. LPIPS has one set of weights."""
        if metric_family(self.options.metric_name) != DESCRIPTOR:
            return dict(stored)
        file = self.options.weights_path
        known = {"weights": self.embedder.fingerprint, "metric_weights": file and str(file)}
        return {**stored, **known}
