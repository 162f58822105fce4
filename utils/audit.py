"""Which samples are copies of training images, from Python.

    from utils.audit import audit

    result = audit(samples, train, held_out)     # arrays, tensors, paths, or iterables of images
    print(result.copies["share"], result.control["share"])

The command is run_audit.py; the work is in `utils/stages/audit/`."""

from __future__ import annotations

from typing import Any

from utils.cli.options.samples import AuditOptions
from utils.descriptors.embedders import load_metric
from utils.jobs.devices import pick_device, pick_dtype
from utils.jobs.memory import search_budget
from utils.metrics.nearest import SearchSettings
from utils.stages.audit.inputs import open_sets
from utils.stages.audit.measure import Examination
from utils.stages.audit.result import Audit
from utils.stages.audit.words import as_text

__all__ = ["Audit", "as_text", "audit"]


def audit(
    samples: Any,
    train: Any,
    held_out: Any = None,
    metric: str = "l2",
    *,
    device: str = "auto",
    memory_bytes: int | None = None,
    **options: Any,
) -> Audit:
    """The same answer as run_audit.py gives.

    samples, train, held_out: what `--samples` takes, or arrays and tensors ([N, C, H, W],
    [N, H, W, C] or [N, H, W]; uint8, 16 bits, or floats in [0, 1], [-1, 1] or [0, 255]), or an
    iterable of such images or of Pillow's. metric: what `--metric` takes. options: fields of
    `AuditOptions`, as flips=True, shifts=2, image_size=64, samples_range="0,1".

    Raises UserError where a set is missing, damaged or unclear, or a metric is unknown."""
    settings = AuditOptions(metric=metric, **options)
    where = pick_device(device)
    budget = search_budget(memory_bytes, where)
    sets = open_sets({"samples": samples, "train": train, "held_out": held_out}, settings, budget)
    embedder = load_metric(settings.metric_name, settings.weights_path, where)
    examination = Examination(sets, settings, embedder)
    batch = settings.eval_batch_size
    search = SearchSettings(
        batch, batch, search_budget(memory_bytes, where), product=pick_dtype("auto", where)
    )
    near = {
        name: one.run(embedder, range(len(one.queries)), search)
        for name, one in examination.searches.items()
    }
    return examination.answer(near, search)[0]
