"""The work of run_audit.py: which samples are copies of training images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.cli.errors import CheckFailed
from utils.cli.launcher import launched
from utils.cli.options.checks import parse_memory, required
from utils.cli.options.samples import SOURCES, AuditOptions
from utils.cli.options.sections import AuditStage
from utils.descriptors.embedders import Embedder, load_metric
from utils.figures.save import save_figure
from utils.files.atomic import check_writable
from utils.files.provenance import check_same, to_plain
from utils.jobs.claims import take_turns
from utils.jobs.devices import pick_dtype, prepare
from utils.jobs.memory import search_budget
from utils.jobs.shares import Share
from utils.metrics.cache import open_cache
from utils.metrics.nearest import SearchSettings
from utils.stages.audit.figures import distances_figure, pairs_figure
from utils.stages.audit.files import load_audit, save_audit
from utils.stages.audit.inputs import Sets, open_sets
from utils.stages.audit.measure import Examination, Shown
from utils.stages.audit.neighbours import Parts
from utils.stages.audit.page import write_page
from utils.stages.audit.result import Audit
from utils.stages.audit.words import as_text, percent

# What does not change the answer, or is stored as the content of the images.
NOT_STORED = (
    *("result_path", "shard", "fail_above", "skip_damaged", "image_size"),
    *SOURCES,
    *(f"{name}_{what}" for name in SOURCES for what in ("range", "layout")),
)


def run(options: AuditStage) -> None:
    """Write the audit, or this job's part of it. Raises CheckFailed as --fail-above says."""
    settings = options.audit
    folder = Path(required(settings, "result_path"))
    for name in ("samples", "train"):
        required(settings, name)
    device = prepare(options.run)
    if options.run.dry_run:
        print(f"audit: {'redo' if options.run.overwrite else 'write'} {folder / 'audit.json'}")
        return
    check_writable(folder)
    embedder = load_metric(settings.metric_name, settings.weights_path, device)
    budget = search_budget(parse_memory(settings.memory), device)
    given = {name: getattr(settings, name) for name in SOURCES}
    sets = open_sets(given, settings, budget)
    for name, images in sets.named().items():
        print(f"{name.replace('_', '-')}: {images.describe()}", flush=True)
    args = {"audit": args_of(settings, sets, embedder)}
    path = folder / "audit.json"

    def is_done() -> bool:
        if options.run.overwrite or not path.exists():
            return False
        return check_same(path, load_audit(path)[1], args, ("audit",))

    if is_done():
        print(f"{path} is finished")
    else:
        examination = Examination(sets, settings, embedder)
        searches = list(examination.searches.values())
        search = search_settings(options, sets, embedder)
        launch = launched()
        share = Share.parse(settings.shard, "--shard").split(launch.rank, launch.world)
        parts = Parts(folder / "parts", share, f"{embedder.name} {embedder.fingerprint}")
        parts.compute(searches, embedder, search, is_done)
        if launch.world > 1:
            parts.wait_for_ranks(searches, launch)
        missing = 0 if is_done() else parts.missing(searches)
        if missing:
            waiting = f"{missing} of {share.count} parts are not there yet"
            print(f"shard {share} written; {waiting}: the job of the last one ends the audit")
            return
        for _ in take_turns([path], lambda one: one, lambda _: is_done()):
            audit, shown = examination.answer(parts.merged(searches), search)
            write(folder, audit, shown, args)
            parts.remove()
    audit, _ = load_audit(path)
    print(as_text(audit))
    print(folder / "report.html")
    check_share(audit, settings.fail_above)


def args_of(settings: AuditOptions, sets: Sets, embedder: Embedder) -> dict[str, Any]:
    """What the answer depends on: options, pixels and the weights of the metric's network."""
    section = {**to_plain(settings), **settings.stored_metric()}
    section = {name: x for name, x in section.items() if name not in NOT_STORED}
    for name, images in sets.named().items():
        section[name] = images.fingerprint
    return {**section, "side": sets.samples.form.size, "weights": embedder.fingerprint}


def search_settings(options: AuditStage, sets: Sets, embedder: Embedder) -> SearchSettings:
    """How neighbours are searched for, in the memory that the images have left."""
    settings, device = options.audit, embedder.device
    count = sum(map(len, sets.named().values()))
    plain = not (settings.flips or settings.shifts)
    like, beside = sets.samples[:1], Path(settings.result_path) / "embeddings"
    cache = open_cache(embedder, options.cache, beside, like, count) if plain else None
    return SearchSettings(
        settings.eval_batch_size,
        settings.eval_batch_size,
        memory_bytes=search_budget(parse_memory(settings.memory), device),
        cache=cache,
        product=pick_dtype(options.run.precision, device),
    )


def write(folder: Path, audit: Audit, shown: Shown, args: Mapping[str, Any]) -> None:
    """Pictures, page and tables; audit.json is the last."""
    metric = audit.metric
    pairs = pairs_figure(shown.samples, shown.train, shown.captions, shown.framed, metric)
    histogram = distances_figure(shown.distances, shown.copies, shown.held_out, metric)
    pictures = {"The worst pairs": pairs, "Distances to the nearest training image": histogram}
    write_page(folder, audit, pictures, args["audit"])
    for name, figure in (("pairs", pairs), ("distances", histogram)):
        save_figure(figure, folder / "figures" / f"{name}.png")
    save_audit(folder, audit, args)


def check_share(audit: Audit, fail_above: float | None) -> None:
    """Raises CheckFailed where the lower end of the copied share lies above fail_above."""
    if fail_above is not None and audit.copies["low"] > fail_above:
        low = percent(audit.copies["low"])
        raise CheckFailed(f"at least {low} of the samples are copies, --fail-above {fail_above:g}")
