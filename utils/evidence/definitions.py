"""What each test of generalization is, in words: title, definition, source, when it misleads."""

from __future__ import annotations

from typing import NamedTuple

MEMORY, GENERALIZATION, UNDECIDED = "memory", "generalization", "undecided"


class Test(NamedTuple):
    """What a test is. unit: of its value. memory_side: of `neutral`, on which values speak of
    memory: -1 below, 1 above, 0 neither (the test can only show generalization)."""

    title: str
    unit: str
    definition: str
    source: str
    misleads: str
    neutral: float
    memory_side: int

    __test__ = False  # for pytest: no test of the code


TESTS = {
    "two-models": Test(
        "Two models agree",
        "share of seeds",
        "Share of seeds from which two models, trained on disjoint sets of K images, draw images "
        "nearer to each other than either is to its own nearest training image.",
        "Kadkhodaie et al. 2024, arXiv 2310.02557",
        "It can only show generalization: models that draw new but different images agree as "
        "little as two memorizers, so values below one half are undecided. Networks that have "
        "learnt too little draw the same blurred images, and agree.",
        0.5,
        0,
    ),
    "memorizer": Test(
        "Away from the memorizer",
        "0: memorizer, 1: truth",
        "On noised held-out images, at the times before the data collapse: the squared error of "
        "the model against the exact memorizer, as a part of the sum of that and its error against "
        "the clean image. 0 is the memorizer, 1 the truth; mean over images. Undecided where no "
        "time lies before the collapse, or where training images are held several times.",
        "Gu et al. 2023, arXiv 2310.02664; Biroli et al. 2024, arXiv 2402.18491",
        "A network that has learnt nothing is far from both, and lies near one half; where noise "
        "is weak every denoiser that returns what it is given looks right.",
        0.5,
        -1,
    ),
    "denoising-gap": Test(
        "Denoising gap",
        "part of the held-out loss",
        "How far the denoising loss of training images lies below that of held-out images, as a "
        "part of it: 1 minus the ratio of their geometric means over images and times. Welch's "
        "interval, of logarithms. Undecided for fewer than 3 training images.",
        "Welch 1947, Biometrika 34, 28; in diffusion models: Bonnaire et al. 2025, arXiv "
        "2505.17638",
        "With enough images any difference is significant: a gap of 1 % need not show in a sample. "
        "A handful of training images may be easier than most by chance.",
        0.0,
        1,
    ),
    "c-t": Test(
        "C_T of data copying",
        "mean z",
        "Mann-Whitney z of the samples' distances to the nearest training image of their cell "
        "against those of held-out images, averaged over the cells of the space of images by the "
        "share of held-out images in them. Cells with too few samples are left out.",
        "Meehan et al. 2020, arXiv 2004.05675, eq. 4, and the authors' code",
        "|C_T| grows with the number of samples N, as sqrt(N): compare values at equal N only. "
        "Poor samples lie far from all images, and hide copies made beside them; distances in "
        "pixels see a shifted copy as new.",
        0.0,
        -1,
    ),
    "authenticity": Test(
        "Authenticity",
        "share, less that of held-out images",
        "Share of samples that lie farther from their nearest training image than that image from "
        "its own nearest training image, minus the same share of held-out images.",
        "Alaa et al. 2022, arXiv 2102.08921, section 2; compared with held-out images by us",
        "At small K training images lie far apart, and a new image between them looks like a copy; "
        "only the comparison with held-out images sees that. Not defined for K = 1.",
        0.0,
        -1,
    ),
    "ratio": Test(
        "Ratio test",
        "share, less that of held-out images",
        "Share of samples with d_1 / d_2 < 1/3, the Euclidean distances to their nearest training "
        "image and to the nearest different one, which is no duplicate of it, minus the same share "
        "of held-out images.",
        "Yoon et al. 2023 (ICML workshop on structured probabilistic inference); Carlini et al. "
        "2023, arXiv 2301.13188; duplicates passed over by us",
        "It misses near copies whose distance is above a third of the next one. Not defined for "
        "K = 1.",
        0.0,
        1,
    ),
}


EXPLANATION = ("definition", "source", "misleads")  # of a test, stored beside its numbers
