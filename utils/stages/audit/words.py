"""The answer of an audit in words: a few lines, or two sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.cli.options.choices import CUTOFFS
from utils.evidence.image_quality import MEASURES, measure_text
from utils.stages.audit.result import Audit

SHOWN = ("frechet", "precision", "recall", "coverage")  # measures of quality on the terminal
MOST_NAMED = 5  # copied training images that the terminal lists


def percent(share: float) -> str:
    """Two digits: `0.37 %`, `3.5 %`, `98 %`, and `0 %`, `100 %` for the ends alone."""
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    shown = f"{value:.2g}" if value < 99.5 else f"{value:.4g}"
    return f"{float(shown):g} %"


def share_text(share: Mapping[str, Any], noun: str) -> str:
    """`12 of 200 samples (6 %, 95 % interval 3.5 to 10 %)`."""
    low, high = percent(share["low"]).removesuffix(" %"), percent(share["high"])
    part = f"{percent(share['share'])}, 95 % interval {low} to {high}"
    return f"{share['count']} of {share['total']} {noun} ({part})"


def by_text(share: Mapping[str, Any]) -> str:
    """`equal 3, ratio 12, p-value 10`."""
    return ", ".join(f"{name} {count}" for name, count in share["by"].items())


def headline(audit: Audit) -> str:
    """The answer, and the control, in two sentences."""
    copies, control = audit.copies, audit.control
    text = f"{share_text(copies, 'samples')} are copies of training images."
    if control is None:
        return f"{text} Without held-out images there is no control."
    expected = control["share"] * copies["total"]
    return (
        f"{text} Control: {share_text(control, 'held-out images')} are called so, which is "
        f"{expected:.1f} of {copies['total']}."
    )


def duplicates_text(counts: Mapping[str, Any]) -> str:
    """`2 groups of equal images (5 images), 3 with near-equal ones (8 images)`."""
    text = f"{counts['exact_groups']} groups of equal images ({counts['exact_images']} images)"
    if counts["near_groups"] is None:
        return text
    return f"{text}, {counts['near_groups']} with near-equal ones ({counts['near_images']} images)"


def states_text(counts: Mapping[str, Any], total: int) -> str:
    return f"{counts['distinct']} distinct among {total}; the largest group has {counts['largest']}"


def finding_text(one: Mapping[str, Any]) -> str:
    """`C_T of data copying -3.2 (-5.2 to -1.3): memory`."""
    low, value, high = (f"{one[name]:.2g}" for name in ("low", "value", "high"))
    return f"{one['title']} {value} ({low} to {high}): {one['verdict']}"


def cutoffs_text(audit: Audit) -> str:
    """`sscd-0.5 12 % (held-out images 0.4 %), ...`"""
    parts = []
    for name in (name for name in CUTOFFS if name in audit.cutoffs):
        control = audit.cutoffs[f"{name}_control"]
        real = "" if control is None else f" (held-out images {percent(control)})"
        parts.append(f"{name} {percent(audit.cutoffs[name])}{real}")
    return ", ".join(parts)


def quality_text(audit: Audit) -> str:
    """`by l2, 200 images of each set: Frechet distance 1.2 (1 to 1.4), real 0.3; ...`"""
    shown = "; ".join(f"{MEASURES[name]} {measure_text(audit.quality, name)}" for name in SHOWN)
    return f"by {audit.metric}, {audit.quality['quality_n']:.0f} images of each set: {shown}"


def copied_text(audit: Audit) -> str:
    shown = [f"{one['train']} {one['copies']} times" for one in audit.copied[:MOST_NAMED]]
    more = len(audit.copied) - len(shown)
    return ", ".join(shown) + (f" and {more} others" if more > 0 else "") if shown else "none"


def lines(audit: Audit) -> list[tuple[str, str]]:
    """The lines of the terminal after those of the inputs: a name and what is said."""
    result = [
        ("copies", headline(audit)),
        ("found by", by_text(audit.copies)),
        ("most copied", copied_text(audit)),
        ("duplicates", f"training images: {duplicates_text(audit.duplicates)}"),
        ("samples", states_text(audit.states, audit.copies["total"])),
    ]
    if audit.cutoffs:
        result.append(("cut-offs", cutoffs_text(audit)))
    if audit.quality:
        result.append(("quality", quality_text(audit)))
    if audit.findings:
        result.append(("tests", "; ".join(map(finding_text, audit.findings.values()))))
    if audit.needs_held_out:
        result.append(("--held-out", f"needed for {', '.join(audit.needs_held_out)}"))
    return [*result, *(("warning", text) for text in audit.warnings)]


def as_text(audit: Audit) -> str:
    return "\n".join(f"{name + ':':<13}{text}" for name, text in lines(audit))
