"""What a sweep has beside each published value: a number, its interval, and how it was obtained."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.options.metric import stored_name
from utils.evidence.findings import Finding
from utils.files.atomic import reason
from utils.files.provenance import resolve_named
from utils.inputs.training_args import schedule_of
from utils.metrics.intervals import TAIL, wilson_interval
from utils.stages.anchors.published import BEGINS, ENDS, EXPONENT, SHARE, STEPS, VARIANCE, Anchor
from utils.stages.classify.files import read_summary, summaries
from utils.stages.generalization.course import tau_mem
from utils.stages.generalization.files import Stored
from utils.stages.generalization.overview import stored_alike

LAMBDA = "largest eigenvalue of the covariance of the images"
T_S = "t_S = 1/2 ln Lambda"
RATIO, MAXIMUM, FINAL = "d_1 / d_2 < 1/3", "maximum over training", "final model"
INTERVAL, CHECKPOINTS = "95 % interval", "between two checkpoints"
CROSSINGS = {ENDS: "memorized_half", BEGINS: "generalized_half"}  # columns of summary.csv
PIXELS = 4  # ratio of the variances of pixels in -1 to 1, as ours are, and in 0 to 1
REMEDY = "run run_classify.py again"
Args = Mapping[str, Any]


@dataclass(frozen=True)
class Ours:
    """Our value; low and high (`bounds` says of what kind), None where it has none; how it was
    obtained. args: of all models behind it. rising: the last step of a training has the maximum."""

    value: float
    low: float | None
    high: float | None
    criterion: str
    args: Sequence[Args]
    selection: str | None = None
    metric: str | None = None
    bounds: str = INTERVAL
    samples: int | None = None
    rising: bool = False


@dataclass(frozen=True)
class Sweep:
    """Results by K: rows of run_classify.py with args, tests of final models, courses (by step)."""

    rows: Mapping[int, tuple[Mapping[str, Any], Args]]
    crossings: Mapping[str, tuple[float, float, float]]
    tests: Mapping[int, Stored]
    courses: Mapping[int, Mapping[int, Stored]]

    @property
    def sizes(self) -> list[int]:
        return sorted({*self.rows, *self.tests, *self.courses})


def read_sweep(root: Path) -> Sweep:
    """The results below the --root of run_pipeline.py, with courses in generalization/K/STEP.json.

    Raises UserError where there are none, or a file is damaged."""
    remedy = "give the --root of run_pipeline.py, with folders such as identified/ in it"
    try:
        if not root.is_dir():
            problem = "a file" if root.exists() else "no such folder"
            raise UserError(f"--root {root}", problem, remedy)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise UserError(f"--root {root}", reason(error), remedy) from error
    identified, generalization = root / "identified", root / "generalization"
    with redirect_stdout(io.StringIO()):  # notes on files that are left out; stdout may be JSON
        rows = {}
        for path in summaries(identified):
            summary = read_summary(path)
            args = resolve_named(summary["args"], path)
            rows[args["train"]["train_size"]] = summary["row"], args
        tests = stored_alike(generalization, lambda stored: stored.step is None)
        courses: dict[int, Mapping[int, Stored]] = {}
        for folder in sorted(path for path in generalization.glob("*") if path.is_dir()):
            if course := stored_alike(folder, lambda stored: stored.step is not None):
                k = course[max(course)].args["train"]["train_size"]
                if k in courses:
                    raise UserError(folder, f"a second course of K = {k}", "keep one of them")
                courses[k] = course
    if not (rows or tests or courses):
        raise UserError(f"--root {root}", "no results", remedy)
    return Sweep(rows, read_crossings(identified / "summary.csv") if rows else {}, tests, courses)


def read_crossings(path: Path) -> dict[str, tuple[float, float, float]]:
    """Half points (value, low, high) by column of summary.csv; none of a single K."""
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text())))
        cells = {
            n: [lines[0][f"{n}{e}"] for e in ("", "_low", "_high")] for n in CROSSINGS.values()
        }
        points = {name: tuple(map(float, texts)) for name, texts in cells.items() if any(texts)}
    except OSError as error:
        raise UserError(path, reason(error), REMEDY) from error
    except (ValueError, KeyError, IndexError, TypeError, csv.Error) as error:
        raise UserError(path, "no summary of run_classify.py", REMEDY) from error
    if not all(0 <= low <= value <= high for value, low, high in points.values()):
        raise UserError(path, "half points outside their intervals", REMEDY)
    return points


def ours_of(anchor: Anchor, sweep: Sweep) -> Ours | str:
    """Our value beside a published one, or why there is none."""
    quantity = anchor["quantity"]
    if quantity == SHARE:
        return share(sweep, anchor.k or 0)
    if quantity in CROSSINGS:
        return half_point(sweep, CROSSINGS[quantity])
    if quantity in (STEPS, EXPONENT):
        return memorization_steps(sweep, exponent=quantity == EXPONENT)
    return speciation(sweep, variance=quantity == VARIANCE)


def share(sweep: Sweep, k: int) -> Ours | str:
    """The share memorized by the ratio rule: its maximum over a training, else that of the final
    model, with Wilson's interval."""
    if k in sweep.courses:
        course = {s: one for s, one in sweep.courses[k].items() if "ratio" in one.findings}
        if course:
            ratios = {s: one.findings["ratio"] for s, one in course.items()}
            return maximum(ratios, course[max(course)].args)
    if k in sweep.rows:
        row, args = sweep.rows[k]
        value = row["ratio_memorized"]
        if value is None:
            return "no share by the ratio rule, which compares two neighbours"
        low, high = wilson_interval(round(value * row["N"]), row["N"])
        return Ours(value, low, high, RATIO, [args], FINAL, row["metric"], samples=row["N"])
    return f"no such K: found {', '.join(map(str, sweep.sizes))}"


def maximum(ratios: Mapping[int, Finding], args: Args) -> Ours:
    """The largest share of all steps S. Of each step Wilson's interval at 1 - 5 % / S (Bonferroni):
    all of them hold together in 95 % of cases, and then

        max_s low_s <= max_s p_s <= max_s high_s,

    although the maximum was chosen after looking. Source: Dunn 1961, J. Am. Stat. Assoc. 56, 52."""
    confidence = 1 - 2 * TAIL / len(ratios)
    shares = {s: one.details["samples"] for s, one in ratios.items()}
    bounds = [
        wilson_interval(round(shares[s] * one.n), one.n, confidence) for s, one in ratios.items()
    ]
    low, high = (max(ends) for ends in zip(*bounds, strict=True))
    steps = sorted(ratios)
    value = max(shares.values())
    rising = value > max((shares[s] for s in steps[:-1]), default=-1)
    selection = MAXIMUM if len(steps) > 1 else FINAL
    metric, n = stored_name(args["generalization"]), min(one.n for one in ratios.values())
    return Ours(value, low, high, RATIO, [args], selection, metric, samples=n, rising=rising)


def half_point(sweep: Sweep, column: str) -> Ours | str:
    """The K at which half the samples are of a class: a column of summary.csv."""
    if column not in sweep.crossings:
        return "no half point: it needs two K or more"
    value, low, high = sweep.crossings[column]
    if value in (0, math.inf):
        side = f"above {sweep.sizes[-1]}" if value else f"below {sweep.sizes[0]}"
        return f"half of the samples are {column.removesuffix('_half')} at a K {side}"
    rows = [row for row, _ in sweep.rows.values()]
    criterion = f"half of the samples {column.removesuffix('_half')} by {rows[0]['criterion']}"
    args = [args for _, args in sweep.rows.values()]
    # an end beyond the sweep is unknown
    ends = (low or None, None if high == math.inf else high)
    return Ours(value, *ends, criterion, args, FINAL, rows[0]["metric"])


def speciation(sweep: Sweep, variance: bool) -> Ours | str:
    """t_S = -1/2 ln alpha_bar of the stored step, or Lambda = 1 / alpha_bar, of the largest K; for
    pixels in 0 to 1, as those of Biroli et al. (the variances of ours, in -1 to 1, are 4 times)."""
    if not sweep.tests:
        return "no speciation time: run run_generalization.py"
    stored = sweep.tests[max(sweep.tests)]
    steps, alpha_bar = stored.times["speciation"], schedule_of(stored.args).alpha_bar
    if steps[0] < 0:
        return "no speciation time: the largest variance is below 1"

    def converted(step: float | None) -> float | None:
        if step is None:
            return None
        largest = 1 / float(alpha_bar[int(step)] if step >= 0 else 1.0) / PIXELS
        return largest if variance else math.log(largest) / 2

    value, low, high = map(converted, steps)
    return Ours(value or 0.0, low, high, LAMBDA if variance else T_S, [stored.args])


def memorization_steps(sweep: Sweep, exponent: bool) -> Ours | str:
    """tau_mem / n of the course of the largest K, or the exponent of tau_mem in n,

        ln(tau_b / tau_a) / ln(n_b / n_a),   a, b the smallest and the largest K.

    tau_mem is the first step from which on the ratio test says memory; it lies after the checkpoint
    before, which gives the bounds."""
    spans = {}  # the checkpoint before, and tau_mem
    for k, course in sweep.courses.items():
        if (tau := tau_mem(course)) is not None:
            spans[k] = max((s for s in course if s < tau), default=0), tau
    needed = 1 + exponent
    if len(spans) < needed:
        return f"{len(spans)} courses over training with a tau_mem: {needed} needed"
    a, b = min(spans), max(spans)
    args = [next(iter(sweep.courses[k].values())).args for k in ((a, b) if exponent else (b,))]
    (low_a, tau_a), (low_b, tau_b) = spans[a], spans[b]
    value, low, high = tau_b / b, low_b / b, tau_b / b
    if exponent:
        scale = math.log(b / a)
        value = math.log(tau_b / tau_a) / scale
        low = math.log(low_b / tau_a) / scale if low_b else None
        high = math.log(tau_b / low_a) / scale if low_a else None
    metric = stored_name(args[0]["generalization"])
    criterion = "first step from which on the ratio test says memory"
    return Ours(value, low, high, criterion, args, "first rise over training", metric, CHECKPOINTS)
