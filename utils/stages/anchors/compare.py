"""Reproduced, not reproduced, or not comparable and why: each published value beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.cli.options.training import image_shape
from utils.stages.anchors.measured import FINAL, MAXIMUM, Ours, Sweep, ours_of
from utils.stages.anchors.published import SHARE, Anchor

REPRODUCED, NOT_REPRODUCED, NOT_COMPARABLE = VERDICTS = (
    *("reproduced", "not reproduced", "not comparable"),
)
WIDEST = 0.1  # interval of a share; published ones of neighbouring K differ by 0.07 to 0.31
OPTIMIZER = "adam"  # of every training here
SAID = {"data": "data set", "width": "width", "image": "images"}


@dataclass(frozen=True)
class Compared:
    """A published value, ours (None where there is none), the verdict and its reasons."""

    anchor: Anchor
    ours: Ours | None
    verdict: str
    reasons: tuple[str, ...]


def compare(anchors: Iterable[Anchor], sweep: Sweep) -> list[Compared]:
    """Every published value beside ours."""
    return [_compare(anchor, ours_of(anchor, sweep)) for anchor in anchors]


def _compare(anchor: Anchor, ours: Ours | str) -> Compared:
    """Reproduced if the published value, plus or minus its tolerance, meets our interval, and
    everything that the source says of it holds for ours too."""
    if isinstance(ours, str):
        return Compared(anchor, None, NOT_COMPARABLE, (ours,))
    reasons = [*other_conditions(anchor, ours), *other_measurement(anchor, ours)]
    if ours.low is None or ours.high is None:
        return Compared(anchor, ours, NOT_COMPARABLE, (*reasons, "ours has no interval"))
    meets = ours.low - anchor.tolerance <= anchor.value <= ours.high + anchor.tolerance
    if anchor["quantity"] == SHARE and ours.high - ours.low > WIDEST:
        width = 100 * (ours.high - ours.low)
        reasons.append(f"our interval is {width:.0f} points wide, more than {100 * WIDEST:.0f}")
    if ours.rising and not meets and ours.value < anchor.value:
        reasons.append("our share is largest at the last step and may still rise")
    if reasons:
        return Compared(anchor, ours, NOT_COMPARABLE, tuple(reasons))
    return Compared(anchor, ours, REPRODUCED if meets else NOT_REPRODUCED, ())


def other_conditions(anchor: Anchor, ours: Ours) -> list[str]:
    """What differs in data, network and training, of any of the models behind our value."""
    reasons: dict[str, None] = {}  # ordered, each once
    for args in ours.args:
        own = {
            "data": args["data"]["data_name"],
            "image": list(image_shape(args["model"])),
            "width": args["model"]["dim"],
        }
        for key, value in own.items():
            if anchor[key] is not None and anchor[key] != value:
                theirs, mine = (_shown(x) for x in (anchor[key], value))
                reasons[f"{SAID[key]} {mine}, theirs {theirs}"] = None
        for reason in (*_training(anchor, args), *_unlike(args)):
            reasons[reason] = None
    return list(reasons)


def _training(anchor: Anchor, args: Mapping[str, Any]) -> Iterable[str]:
    train, classes = args["train"], args["model"]["num_classes"]
    if anchor["digits"] is not None:
        yield f"all images of the data set, theirs the digits {_shown(anchor['digits'], ' and ')}"
    if anchor["classes"] is not None and anchor["classes"] != classes:
        yield f"{_labels(classes)}, theirs {_labels(anchor['classes'])}"
    if anchor["optimizer"] not in (None, OPTIMIZER):
        yield f"optimizer {OPTIMIZER}, theirs {anchor['optimizer']}"
    if anchor["steps"] is not None and anchor["steps"] != train["iterations"]:
        yield f"{train['iterations']:,} steps, theirs {anchor['steps']:,}"


def _unlike(args: Mapping[str, Any]) -> Iterable[str]:
    """What no source does."""
    drawn = [args.get(name, {}) for name in ("generate", "generalization")]
    if any(section.get("exact") for section in drawn):
        yield "the exact model, no trained network"
    for name in dict.fromkeys(section.get("machine") for section in drawn):
        if name is not None:
            yield f"the machine {name}, no trained network"
    if args["train"]["random_flip"]:
        yield "mirrored training images"
    if args["train"]["duplicates"] > 1:
        yield "repeated training images"


def other_measurement(anchor: Anchor, ours: Ours) -> Iterable[str]:
    """What differs in metric, criterion and selection."""
    if anchor["metric"] is not None and anchor["metric"] != ours.metric:
        yield f"metric {ours.metric}, theirs {anchor['metric']}"
    if anchor["criterion"] != ours.criterion:
        yield f"criterion: {ours.criterion}; theirs: {anchor['criterion']}"
    if anchor["selection"] is not None and anchor["selection"] != ours.selection:
        yield {
            (MAXIMUM, FINAL): "the final model, not the maximum over training",
            (FINAL, MAXIMUM): "the maximum over training, not the final model",
        }.get((anchor["selection"], ours.selection or ""), f"selection: {anchor['selection']}")


def _labels(classes: int) -> str:
    return f"{classes} class labels" if classes else "no class labels"


def _shown(value: Any, join: str = " x ") -> str:
    return join.join(map(str, value)) if isinstance(value, list) else str(value)


def table(compared: Iterable[Compared], root: Path) -> str:
    """Aligned columns for a terminal: published value, ours with its interval, verdict, and the
    numbers of its reasons, which are listed below."""
    compared = list(compared)
    reasons = list(dict.fromkeys(reason for one in compared for reason in one.reasons))
    numbers = {reason: str(i) for i, reason in enumerate(reasons, 1)}
    rows = [("source", "quantity", "of", "K", "published", "ours", "verdict", "why")]
    rows += [(*_cells(one), ",".join(numbers[x] for x in one.reasons)) for one in compared]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    counts = [f"{sum(x.verdict == v for x in compared)} {v}" for v in VERDICTS]
    note = "\nours: 95 % intervals; of tau_mem the span between two checkpoints"
    note += "\n±: error of reading a value off a figure, or of its rounding: so far they may differ"
    why = [f"{i:>3}  {reason}" for reason, i in numbers.items()]
    return "\n".join([f"{root}: {', '.join(counts)}\n", *lines, note, "", *why]).rstrip()


def _cells(one: Compared) -> tuple[str, ...]:
    anchor, ours, cell = one.anchor, one.ours, "-"
    published = number(anchor, anchor.value)
    if anchor.tolerance:
        published += f" ± {number(anchor, anchor.tolerance)}"
    if ours is not None:
        low, high = (number(anchor, x) for x in (ours.low, ours.high))
        cell = f"{number(anchor, ours.value)} ({low} to {high})"
    name = anchor["source"].partition(",")[0]
    k = "" if anchor.k is None else str(anchor.k)
    return name, anchor["quantity"], _subject(anchor), k, published, cell, one.verdict


def _subject(anchor: Anchor) -> str:
    """Data set, width and labels: `cifar10, width 128, labels`."""
    parts = [anchor["data"]]
    if anchor["width"] is not None:
        parts.append(f"width {anchor['width']}")
    return ", ".join([*parts, *(["labels"] if anchor["classes"] else [])])


def number(anchor: Anchor, value: float | None) -> str:
    """A value as its quantity is shown: a share in percent, a K as a whole number."""
    if value is None:
        return "?"
    if anchor["quantity"] == SHARE:
        return f"{100 * value:.1f}%"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def as_json(compared: Iterable[Compared], root: Path) -> dict[str, Any]:
    """The same as plain values, with all conditions of the published ones."""
    return {"root": str(root), "values": [_plain(one) for one in compared]}


def _plain(one: Compared) -> dict[str, Any]:
    anchor, ours, measured = one.anchor, one.ours, None
    if ours is not None:
        names = ("value", "low", "high", "bounds", "criterion", "selection", "metric", "samples")
        measured = {name: getattr(ours, name) for name in names}
    numbers = {"K": anchor.k, "published": anchor.value, "tolerance": anchor.tolerance}
    result = {"name": anchor.name, **numbers, "ours": measured, "verdict": one.verdict}
    return {**result, "reasons": list(one.reasons), "conditions": dict(anchor.conditions)}
