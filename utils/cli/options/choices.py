"""The names that options may take: data sets, samplers, metrics, classes.

Nothing heavy is imported here, so that `--help` answers at once. The code behind the names is in
`datasets.OPENERS`, `samplers.SAMPLERS` and `embedders.load_metric` (docs/extending.md)."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class Sampler(NamedTuple):
    """calls: default number of network calls for an image (--steps); None: one a timestep."""

    calls: int | None
    description: str


DATA_NAMES = {  # channels of the images; None: 1 or 3, as --in-channels says
    "digits": 1,
    "mnist": 1,
    "fashionmnist": 1,
    "cifar10": 3,
    "photos": 3,
    "celeba": 3,
    "celebahq": 3,
    "lsun-church": 3,
    "folder": None,
    "images": None,
}
PICTURE_CHANNELS = (1, 3)  # images with others are latents: not pictures, and of any range
ANY_IMAGES = "images"  # the data set whose --data-path is a file or a folder, as of run_audit.py
SHIPPED = ("digits", "photos")  # with a package that is installed: they need no --data-path
MACHINE_NAMES = {  # denoisers in closed form of the K training images (docs/machines.md)
    "exact": "the posterior mean of the training images",
    "wiener": "the best linear one",
    "local": "each pixel from the patch around it",
    "equivariant": "each pixel from the patches at all positions",
    "pca-local": "each pixel from those that a linear filter weighs most",
}
EXACT = "exact"
PATCH_MACHINES = ("local", "equivariant", "pca-local")  # they take --patch-sides
PREDICTION_NAMES = {
    "epsilon": "the noise",
    "sample": "x_0",
    "v": "sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0",
}
SCHEDULE_NAMES = ("linear", "scaled-linear", "cosine", "sigmoid")
OTHER_SCHEDULE = "other"  # of a model made elsewhere: its alpha_bar is stored
SAMPLER_NAMES = {
    "ddpm": Sampler(None, "ancestral"),
    "ddim": Sampler(50, "deterministic"),
    "dpmpp": Sampler(20, "the same in fewer steps"),
}
METRIC_NAMES = {  # `metric` in files; their `network` is the name itself, or empty for l2
    "l2": "l2",
    "alex": "lpips",
    "vgg": "lpips",
    "squeeze": "lpips",
    "sscd": "descriptor",
    "dinov2": "descriptor",
    "clip": "descriptor",
    "inception": "descriptor",
}
DESCRIPTOR = "descriptor"  # networks of one vector an image, most of them of norm 1
METRIC_FORMS = {"timm": "NAME", "onnx": "FILE", "torchscript": "FILE"}  # descriptors, as timm:NAME
# As the literature measures Frechet distances; all other descriptors are divided by their norm.
NOT_NORMALISED = ("dinov2", "inception")
NOT_L2 = tuple(name for name, of in METRIC_NAMES.items() if of not in ("l2", DESCRIPTOR))
# Cosine similarities from which samples of published studies count as copies.
CUTOFFS = {"sscd-0.5": 0.5, "sscd-0.6": 0.6, "sscd-0.7": 0.7}


def either(names: Collection[str]) -> str:
    """Names as a sentence lists them: `either(["l2", "alex", "vgg"]) == "l2, alex or vgg"`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def metric_family(metric: str) -> str | None:
    """`metric` in files, of a name of a metric; None for an unknown name."""
    form, _, rest = metric.partition(":")
    return DESCRIPTOR if form in METRIC_FORMS and rest else METRIC_NAMES.get(metric)


def is_normalised(metric: str) -> bool:
    """Whether embeddings have norm 1, so that their cosine similarity is 1 - d^2 / 2."""
    return metric_family(metric) == DESCRIPTOR and metric not in NOT_NORMALISED


def metric_names() -> str:
    """The names as a help lists them."""
    return either([*METRIC_NAMES, *(f"{form}:{of}" for form, of in METRIC_FORMS.items())])


SECOND = "second"  # folder below the root for the models of the second subsets, and their sets

MEMORIZED, SPURIOUS, GENERALIZED = CLASSES = ("memorized", "spurious", "generalized")

CRITERIA = {  # of the three classes
    "delta": "--delta-m and --delta-s",
    "calibrated": "thresholds of each K from its held-out images",
    "ratio": "d_1 < d_2 / 3, s_1 < d_1 / 3",
    "pooled": "one pair of thresholds for all K",
}
