"""A sweep as one page, report.html, that carries everything inside: figures, samples, numbers.

    python -m utils.report results/digits
    python -m utils.report --root results/digits --result-path digits.html

Reads what run_pipeline.py, or the stages one by one, wrote below --root (synthetics/, dists/,
identified/, times/, energies/, curvature/,
generalization/, training/, models/), whatever is there, and writes
--root/report.html. run_pipeline.py ends with it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.main import run_stage
from utils.cli.options.choices import SECOND
from utils.cli.options.sections import ReportStage
from utils.figures.style import LOOKS
from utils.files.atomic import write_text
from utils.files.k_files import k_named
from utils.files.provenance import differing
from utils.files.tensors import load_torch
from utils.stages.classify.summary import thresholds_text
from utils.stages.distances.files import load_dists
from utils.stages.report import images as parts
from utils.stages.report import measures as measures
from utils.stages.report.commands import Commands

PAGE = Path(__file__).with_name("template")
MOST_BYTES = 4_900_000  # of a page: mail takes it, and a phone opens it
PACKAGES = ("torch", "numpy", "matplotlib")
UNKNOWN = "# these files do not say with which options they were made"


def run(options: ReportStage) -> Path:
    """Write the page; returns its path. Raises UserError where the folder holds no results."""
    root = Path(options.report.root)
    target = Path(options.report.result_path or root / "report.html")
    found = contents(root)
    beside = len(render({**found, "panels": [parts.Panel(0)]}).encode())
    parts.fit(found["panels"], MOST_BYTES - beside)
    page = render(found)
    write_text(target, page)
    print(f"{target}: {len(page.encode()) / 1e6:.1f} MB")
    return target


def contents(root: Path) -> dict[str, Any]:
    """What the template is filled with. Raises UserError where there is nothing to show."""
    rows, judged = parts.load_rows(root)
    drawn = parts.load_drawn(root)
    dists = {k: load_dists(path) for k, path in k_named(root / "dists").items()}
    panels = parts.panels(root, rows, drawn, dists)
    times, energies = measures.times_part(root), measures.energies_part(root)
    curvature, generalization = measures.curvature_part(root), measures.generalization_part(root)
    losses = parts.losses_part(root)
    if not (panels or times or energies or curvature or generalization or losses):
        remedy = "give the --root of run_pipeline.py, with folders such as synthetics/ in it"
        raise UserError(f"--root {root}", "no results", remedy)
    sets = {k: found.args for k, found in drawn.items()}
    measured = {k: found.args for k, found in dists.items()}
    every = {**sets, **measured, **judged}
    for part in (times, energies, curvature):
        every |= {own["train"]["train_size"]: own for own in (part[2] if part else {}).values()}
    return {
        "title": title(every, rows),
        "headline": parts.headline(rows) if rows else [],
        "facts": facts(every, rows),
        "transition": parts.transition_picture(rows) if rows else None,
        "classes": parts.classes_table(rows) if rows else None,
        "sheet": parts.sheet_picture(drawn) if drawn else None,
        "panels": panels,
        "what_if": parts.what_if(rows, dists),
        "times": times,
        "energies": energies,
        "curvature": curvature,
        "generalization": generalization,
        "losses": losses,
        "commands": {
            **commands(root, sets, measured, judged),
            **measured_commands(root, times, energies, curvature),
            **(generalization_commands(root, generalization[3]) if generalization else {}),
        },
        "options": told_options(every),
        "machine": machine(root),
        "newest": newest(root),
    }


def title(every: Mapping[int, Mapping], rows: list[Mapping[str, Any]]) -> str:
    """`digits: from memorization to generalization, K = 2 to 1500`."""
    sizes = sorted(every) or [row["K"] for row in rows]
    names = sorted({own["data"]["data_name"] for own in every.values()})
    told = f"K = {sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"K = {(sizes or ['?'])[0]}"
    return f"{' and '.join(names) or 'A sweep'}: from memorization to generalization, {told}"


def facts(every: Mapping[int, Mapping], rows: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """A few words for the top of the page, each with its name."""
    told = [("data set", name) for name in sorted({a["data"]["data_name"] for a in every.values()})]
    if rows:
        counts = sorted({row["N"] for row in rows})
        told.append(
            ("samples of each K", " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))))
        )
        told.append(("judged by", thresholds_text(rows[0])))
    drawn = next((a["generate"] for a in every.values() if "generate" in a), None)
    if isinstance(drawn, Mapping) and "sampler" in drawn:
        told.append(("drawn by", f"{drawn['sampler']}, {drawn.get('steps')} calls an image"))
    return told


def commands(
    root: Path,
    drawn: Mapping[int, Mapping],
    measured: Mapping[int, Mapping],
    judged: Mapping[int, Mapping],
) -> dict[str, str]:
    """The command of each stage up to the classes that has run, by the stage's name."""
    ours = Commands(root)
    found: dict[str, Callable[[], str]] = {}
    if drawn:
        if not any(own.get("generate", {}).get("exact") for own in drawn.values()):
            found["train"] = lambda: ours.training(drawn)
        found["generate"] = lambda: ours.sampling(drawn)
    if measured:
        found["distances"] = lambda: ours.distances(next(iter(measured.values())))
    if judged:
        largest = max(measured or judged)
        found["classify"] = lambda: ours.classes(next(iter(judged.values())), largest)
    return {name: told_or_unknown(command) for name, command in found.items()}


def measured_commands(root: Path, times: Any, energies: Any, curvature: Any) -> dict[str, str]:
    """The command of each stage that examines samples under models, by the stage's name."""
    ours = Commands(root)
    found: dict[str, Callable[[], str]] = {}
    if times:
        found["critical_times"] = lambda: ours.critical_times(times[2])
    if energies:
        found["energy"] = lambda: ours.energies(energies[2])
    if curvature:
        found["curvature"] = lambda: ours.curvature(curvature[2])
    return {name: told_or_unknown(command) for name, command in found.items()}


def generalization_commands(root: Path, args: Mapping[str, Any]) -> dict[str, str]:
    """The tests, and the training and sampling of the models of the other subsets before them."""
    found: dict[str, Callable[[], str]] = {}
    twins = {k: own.args for k, own in parts.load_drawn(root / SECOND).items()}
    if twins:
        others = Commands(root / SECOND)
        if not any(own.get("generate", {}).get("exact") for own in twins.values()):
            found["second train"] = lambda: others.training(twins)
        found["second generate"] = lambda: others.sampling(twins)
    found["generalization"] = lambda: Commands(root).generalization(args)
    return {name: told_or_unknown(command) for name, command in found.items()}


def told_or_unknown(command: Callable[[], str]) -> str:
    """A command; files of the original toolkit, and files that somebody made, lack options."""
    try:
        return command()
    except (KeyError, TypeError, AttributeError):
        return UNKNOWN


def told_options(every: Mapping[int, Mapping]) -> list[tuple[str, str]]:
    """Options that are not at their default, a line for each section, of the largest K."""
    if not every:
        return []
    args = every[max(every)]
    lines = []
    for name, values in args.items():
        if isinstance(values, Mapping):
            told = [f"{key}={value}" for key, value in differing(name, values).items()]
            lines.append((name, ", ".join(told) or "defaults"))
    return lines


def machine(root: Path) -> list[tuple[str, str]]:
    """What the largest model was trained on, and with what this page was made."""
    lines = []
    models = [p for k, p in sorted(k_named(root / "models", ".pt").items())]
    if models:
        content = load_torch(models[-1])
        where = content.get("rng") if isinstance(content, Mapping) else None
        if isinstance(where, Mapping) and where:
            told = ", ".join(f"{name} {value}" for name, value in where.items())
            lines.append((f"K = {models[-1].stem} was trained on", told))
    made = [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES)]
    return [*lines, ("this page was made with", ", ".join(made))]


def newest(root: Path) -> str:
    """The day of the newest result, as 2026-11-24."""
    from datetime import datetime, timezone

    folders = ("models", "synthetics", "dists", "identified", "times", "energies")
    folders += ("curvature", "generalization")
    ends = (".pt", ".npz", ".json")
    made = [p.stat().st_mtime for f in folders for p in (root / f).rglob("*") if p.suffix in ends]
    return datetime.fromtimestamp(max(made), timezone.utc).date().isoformat() if made else ""


def render(page: Mapping[str, Any]) -> str:
    """The page as HTML; whatever comes from files and options is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    looks = {name: look.colour for name, look in LOOKS.items()}
    return environment.get_template("report.html").render(**page, looks=looks)


def main(arguments: list[str]) -> None:
    # the folder alone is enough to type
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--root", *arguments]
    run_stage(run, ReportStage, __doc__ or "", arguments, "python -m utils.report")
