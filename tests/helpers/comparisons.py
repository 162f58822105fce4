"""Results of run_machines.py by hand, for tests of files and figures."""

import numpy as np

from tests.helpers.models import uniform
from utils.cli.options.choices import CLASSES
from utils.stages.machines.files import SAMPLES, SETS, Entry, SeedEntry, Stored

NAMES = ("exact", "wiener", "local")


def interval(value, reach=0.05):
    return (value, value - reach, min(1.0, value + reach))


def stored_of(
    k,
    names=NAMES,
    times=(2, 10),
    groups=SETS,
    r2=None,
    best="local",
    tied=(),
    images=20,
):
    """One K. The last machine has r^2 0.9 and the weight 3/4, the first one the rest; r2: of all
    machines instead."""
    quality = {name: r2 or interval(0.9 if name == names[-1] else 0.2) for name in names}
    weights = dict.fromkeys(names, (0.0, 0.0, 0.0))
    weights[names[0]] = (0.25, 0.2, 0.3)
    weights[names[-1]] = (1.0, 1.0, 1.0) if len(names) == 1 else (0.75, 0.7, 0.8)
    entries = [
        Entry(group, t, images, quality, best, list(tied), weights, r2 or interval(0.9))
        for group in groups
        for t in times
    ]
    seeds = [SeedEntry(SAMPLES, name, 5, interval(0.5)) for name in names]
    options = {"images": images, "checkpoint": str(k), "result_path": "machines"}
    args = {"data": {}, "train": {"train_size": k}, "model": {}, "machines": options}
    sides = {"local": {t: 3 if t < 5 else 5 for t in times}} if "local" in names else {}
    return Stored(list(names), sides, entries, seeds, args)


def seeds_of(count, names=NAMES, known=True):
    """The arrays of samples of `count` seeds; known: whether classes are."""
    images = np.float32(uniform(1 + len(names), count, 1, 4, 4).numpy())
    classes = np.arange(count) % len(CLASSES) if known else np.full(count, -1)
    arrays = {"seed-network": images[0], "seed-machines": images[1:], "seed-classes": classes}
    return arrays | {"seed-r2": np.zeros((count, len(names)))}
