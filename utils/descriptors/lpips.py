"""LPIPS as a Euclidean distance: each image passes through the network once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Layers of torchvision's `features` whose output is compared, and their channels: each is the
# output of a ReLU (in SqueezeNet 1.1 a Fire module ends with one).
TAPS = {
    "alex": {1: 64, 4: 192, 7: 384, 9: 256, 11: 256},
    "vgg": {3: 64, 8: 128, 15: 256, 22: 512, 29: 512},
    "squeeze": {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512},
}
ARCHITECTURES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
SMALLEST_SIDE = 32  # pixels; below it AlexNet's last layers have no output
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TINY = 1e-10  # a position without any activation stays at zero


class LpipsEmbedding(nn.Module):
    """phi(x) = concat_l sqrt(w_l / (H_l W_l)) f_l(x), so that

        LPIPS(x, y) = sum_l mean_hw sum_c w_lc (f_l(x) - f_l(y))^2 = |phi(x) - phi(y)|^2

    with f_l the output of layer l of a network trained on ImageNet, divided by (its norm over the
    channels + 1e-10), and w_l >= 0 the learnt weight of each channel (the "head").

    network: alex, vgg or squeeze. backbone: state dict in torchvision's names (features.N.weight;
    a classifier is left out). heads: one tensor [1, C_l, 1, 1] or [C_l] a layer.
    Raises ValueError for an unknown network, missing or misshapen weights, negative heads.
    Source: Zhang et al. 2018, arXiv 1801.03924, eq. 1, with the weights v0.1 (w here is the
    square of the paper's w)."""

    def __init__(
        self, network: str, backbone: Mapping[str, Tensor], heads: Sequence[Tensor]
    ) -> None:
        super().__init__()
        if network not in TAPS:
            raise ValueError(f"network: found {network!r}; choose {', '.join(TAPS)}")
        self.network = network
        self.features = _features(network, backbone)
        for layer, head in zip(TAPS[network], _checked_heads(network, heads), strict=True):
            self.register_buffer(f"root_{layer}", head.sqrt().view(1, -1, 1, 1))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """phi [B, D], float32, of images x [B, 1 or 3, H, W] in [-1, 1].

        D depends on network and size: alex 5,760, vgg 124,928 at sides of 32 and below."""
        with full_float32(x.device):
            h = self.prepare(x)
            parts = []
            for layer, module in enumerate(self.features):
                h = module(h)
                if layer in TAPS[self.network]:
                    f = h / (h.square().sum(1, keepdim=True).sqrt() + TINY)  # [B, C_l, H_l, W_l]
                    root = getattr(self, f"root_{layer}") / (h.shape[2] * h.shape[3]) ** 0.5
                    parts.append((root * f).flatten(1))  # [B, C_l H_l W_l]
            return torch.cat(parts, dim=1)

    def prepare(self, x: Tensor) -> Tensor:
        """The network's input: [B, 3, >= 32, >= 32], normalised as in its training."""
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"x: found shape {list(x.shape)}; give [B, 1 or 3, H, W]")
        x = (x.float() * 0.5 + 0.5).expand(-1, 3, -1, -1)
        height, width = x.shape[2:]
        side = min(height, width)
        if side < SMALLEST_SIDE:
            size = (height * SMALLEST_SIDE // side, width * SMALLEST_SIDE // side)
            x = F.interpolate(x, size=size, mode="nearest-exact")
        return (x - self.mean) / self.std


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Multiply in full float32, whatever autocast and tf32 switches are set outside.

    tf32 keeps 11 bits: distances of near-duplicates would be noise. The sums of a product in
    bfloat16 are in float32 too."""
    backends = torch.backends
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # torch 2.9 and later
        places = (backends.cuda.matmul, backends.cudnn.conv)
        places += (backends.mkldnn.matmul, backends.mkldnn.conv)
        switches = [(place, "fp32_precision", "ieee") for place in places]
    else:
        switches = [
            (place, "allow_tf32", False) for place in (backends.cuda.matmul, backends.cudnn)
        ]
    switches.append((backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False))
    before = [getattr(place, name) for place, name, _ in switches]
    try:
        for place, name, exact in switches:
            setattr(place, name, exact)
        with torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        for (place, name, _), value in zip(switches, before, strict=True):
            setattr(place, name, value)


def _features(network: str, backbone: Mapping[str, Tensor]) -> nn.Sequential:
    """torchvision's `features` up to the last layer of TAPS, with the weights of backbone."""
    from torchvision import models  # takes a second to import

    # On the meta device nothing is allocated or initialised: the classifiers are large.
    with torch.device("meta"):
        features = getattr(models, ARCHITECTURES[network])(weights=None).features
    features = features[: max(TAPS[network]) + 1]
    prefix = "features."
    weights = {}
    for name, empty in features.state_dict().items():
        value = backbone.get(prefix + name)
        if not isinstance(value, Tensor) or value.shape != empty.shape:
            shape = list(value.shape) if isinstance(value, Tensor) else "nothing"
            raise ValueError(f"{prefix}{name}: found {shape}; give shape {list(empty.shape)}")
        if not value.isfinite().all():
            raise ValueError(f"{prefix}{name}: found NaN or infinite weights; give finite ones")
        weights[name] = value.detach().float().clone()
    features.load_state_dict(weights, assign=True)
    return features


def _checked_heads(network: str, heads: Sequence[Tensor]) -> list[Tensor]:
    """Heads as vectors [C_l] >= 0. Raises ValueError for other shapes, numbers and values."""
    channels = list(TAPS[network].values())
    shapes = [tuple(head.shape) for head in heads]
    fits = len(shapes) == len(channels) and all(
        shape in ((count,), (1, count, 1, 1)) for shape, count in zip(shapes, channels, strict=True)
    )
    if not fits:
        raise ValueError(f"heads: found shapes {shapes}; give [1, C, 1, 1] with C of {channels}")
    flat = [head.detach().float().flatten() for head in heads]
    if not all((head >= 0).all() and head.isfinite().all() for head in flat):
        raise ValueError("heads: found negative or infinite weights; give those of LPIPS v0.1")
    return flat
