"""A sweep as one self-contained page, report.html, with figures, samples and numbers.

    python -m utils.report results/digits
    python -m utils.report --root results/digits --result-path digits.html

Reads the results below --root that run_pipeline.py, or single stages, wrote: synthetics/, dists/,
identified/, times/, energies/, curvature/, generalization/, machines/, training/, models/, as far
as they exist. Writes --root/report.html. run_pipeline.py ends with it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.main import run_stage
from utils.cli.options.choices import SECOND
from utils.cli.options.sections import ReportStage
from utils.figures.page import render
from utils.files.atomic import write_text
from utils.files.k_files import k_named
from utils.files.provenance import differing
from utils.files.tensors import load_torch
from utils.stages.classify.files import load_all
from utils.stages.classify.summary import thresholds_text
from utils.stages.distances.files import load_dists
from utils.stages.report import images as parts
from utils.stages.report.commands import MEASURED_IN, Commands
from utils.stages.report.measures import (
    MEASURES,
    generalization_section,
    machines_section,
    measured_section,
)
from utils.stages.report.what_if import what_if

TEMPLATE = Path(__file__).with_name("template") / "report.html"
MOST_BYTES = 4_900_000  # of a page, so that it can be mailed and opened on a phone
PACKAGES = ("torch", "numpy", "matplotlib")
UNKNOWN = "# these files do not say with which options they were made"


def run(options: ReportStage) -> Path:
    """Write the page; returns its path. Raises UserError if the folder holds no results."""
    root = Path(options.report.root)
    target = Path(options.report.result_path or root / "report.html")
    page = contents(root)
    other_bytes = len(render(TEMPLATE, {**page, "panels": [parts.Panel(0)]}).encode())
    parts.fit(page["panels"], MOST_BYTES - other_bytes)
    html = render(TEMPLATE, page)
    write_text(target, html)
    print(f"{target}: {len(html.encode()) / 1e6:.1f} MB")
    return target


def contents(root: Path) -> dict[str, Any]:
    """The values of the template. Raises UserError if there is nothing to show."""
    judged = load_all(root / "identified")
    rows = [one.row for one in judged]
    class_args = {one.row["K"]: one.args for one in judged}
    sets = parts.load_sets(root)
    dists = {k: load_dists(path) for k, path in k_named(root / "dists").items()}
    panels = parts.panels(root, rows, sets, dists)
    sections = {name: measured_section(root, name) for name in MEASURES}
    sections["generalization"] = generalization_section(root)
    sections["machines"] = machines_section(root)
    sections["losses"] = parts.losses_section(root)
    if not panels and not any(sections.values()):
        remedy = "give the --root of run_pipeline.py, with folders such as synthetics/ in it"
        raise UserError(f"--root {root}", "no results", remedy)
    set_args = {k: found.args for k, found in sets.items()}
    dist_args = {k: found.args for k, found in dists.items()}
    args_by_k = {**set_args, **dist_args, **class_args}
    for section in filter(None, (sections[name] for name in MEASURES)):
        args_by_k |= {args["train"]["train_size"]: args for args in section.args.values()}
    return {
        "title": title(args_by_k, rows),
        "headline": parts.headline(judged) if judged else [],
        "facts": facts(args_by_k, rows),
        "transition": parts.transition_picture(rows) if rows else None,
        "spurious_states": parts.states_picture(root, rows),
        "repeats": parts.repeats_picture(root, judged),
        "classes": parts.classes_table(rows) if rows else None,
        "states": parts.states_table(rows) if rows else None,
        "quality": parts.quality_picture(rows) if rows else None,
        "qualities": parts.quality_table(rows) if rows else None,
        "cutoffs": parts.cutoffs_table(rows) if rows else None,
        "sheet": parts.sheet_picture(sets) if sets else None,
        "panels": panels,
        "what_if": what_if(judged),
        **sections,
        "commands": commands(root, set_args, dist_args, class_args, sections),
        "options": changed_options(args_by_k),
        "machine": machine(root),
        "newest": newest(root),
    }


def title(args_by_k: Mapping[int, Mapping], rows: list[Mapping[str, Any]]) -> str:
    """`digits: from memorization to generalization, K = 2 to 1500`."""
    sizes = sorted(args_by_k) or [row["K"] for row in rows] or ["?"]
    names = sorted({args["data"]["data_name"] for args in args_by_k.values()})
    k = f"K = {sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"K = {sizes[0]}"
    return f"{' and '.join(names) or 'A sweep'}: from memorization to generalization, {k}"


def facts(args_by_k: Mapping[int, Mapping], rows: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Short facts for the top of the page, each with its name."""
    names = sorted({args["data"]["data_name"] for args in args_by_k.values()})
    lines = [("data set", name) for name in names]
    if rows:
        counts = sorted({row["N"] for row in rows})
        ends = dict.fromkeys((counts[0], counts[-1]))  # one number if they are equal
        lines.append(("samples of each K", " to ".join(map(str, ends))))
        lines.append(("judged by", thresholds_text(rows)))
    sampling = next((a["generate"] for a in args_by_k.values() if "generate" in a), None)
    if isinstance(sampling, Mapping) and "sampler" in sampling:
        calls = f"{sampling['sampler']}, {sampling.get('steps')} calls an image"
        lines.append(("drawn by", calls))
    return lines


def commands(
    root: Path,
    set_args: Mapping[int, Mapping],
    dist_args: Mapping[int, Mapping],
    class_args: Mapping[int, Mapping],
    sections: Mapping[str, parts.Section | None],
) -> dict[str, str]:
    """The command of each stage that has run, by the stage's name, in the order of the stages."""
    first, second = Commands(root), Commands(root / SECOND)
    makers: dict[str, Callable[[], str]] = {}
    if set_args:
        if not any_closed_form(set_args):
            makers["train"] = partial(first.training, set_args)
        makers["generate"] = partial(first.sampling, set_args)
    if dist_args:
        makers["distances"] = partial(first.distances, next(iter(dist_args.values())))
    if class_args:
        args, largest = next(iter(class_args.values())), max(dist_args or class_args)
        makers["classify"] = partial(first.classify, args, largest)
    for stage, folder in MEASURED_IN.items():
        if section := sections[folder]:
            makers[stage] = partial(first.measure, stage, section.args)
    if section := sections["generalization"]:
        second_args = {k: found.args for k, found in parts.load_sets(root / SECOND).items()}
        if second_args:
            if not any_closed_form(second_args):
                makers["second train"] = partial(second.training, second_args)
            makers["second generate"] = partial(second.sampling, second_args)
        makers["generalization"] = partial(first.generalization, section.args)
    if section := sections["machines"]:
        makers["machines"] = partial(first.machines, section.args)
    return {name: command_or_unknown(maker) for name, maker in makers.items()}


def any_closed_form(args_by_k: Mapping[int, Mapping]) -> bool:
    """Whether samples were drawn from a closed form, not from trained models."""
    drawn = [args.get("generate", {}) for args in args_by_k.values()]
    return any(section.get("exact") or section.get("machine") for section in drawn)


def command_or_unknown(maker: Callable[[], str]) -> str:
    """A command, or UNKNOWN: files of the original toolkit or edited files may lack options."""
    try:
        return maker()
    except (KeyError, TypeError, AttributeError):
        return UNKNOWN


def changed_options(args_by_k: Mapping[int, Mapping]) -> list[tuple[str, str]]:
    """The options that differ from their defaults, a line for each section, of the largest K."""
    args = args_by_k[max(args_by_k)] if args_by_k else {}
    lines = []
    for name, values in args.items():
        if isinstance(values, Mapping):
            changed = [f"{key}={value}" for key, value in differing(name, values).items()]
            lines.append((name, ", ".join(changed) or "defaults"))
    return lines


def machine(root: Path) -> list[tuple[str, str]]:
    """What the largest model was trained on, and with what this page was made."""
    lines = []
    models = k_named(root / "models", ".pt")
    if models:
        k = max(models)
        content = load_torch(models[k])
        rng = content.get("rng") if isinstance(content, Mapping) else None
        if isinstance(rng, Mapping) and rng:
            where = ", ".join(f"{name} {value}" for name, value in rng.items())
            lines.append((f"K = {k} was trained on", where))
    versions = [f"{package} {version(package)}" for package in PACKAGES]
    made_with = ", ".join([f"Python {platform.python_version()}", *versions])
    return [*lines, ("this page was made with", made_with)]


def newest(root: Path) -> str:
    """The date of the newest result, as 2026-11-24; empty if there is none."""
    folders = ("models", "synthetics", "dists", "identified", *MEASURES)
    folders = (*folders, "generalization", "machines")
    endings = (".pt", ".npz", ".json")
    paths = [path for folder in folders for path in (root / folder).rglob("*")]
    times = [path.stat().st_mtime for path in paths if path.suffix in endings]
    return datetime.fromtimestamp(max(times), timezone.utc).date().isoformat() if times else ""


def main(arguments: list[str]) -> None:
    """`python -m utils.report`: the folder may come first, without --root."""
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--root", *arguments]
    run_stage(run, ReportStage, __doc__ or "", arguments, "python -m utils.report")
