"""What the report shows, as plain values: read from a sweep's folder, whatever stages are there.

Each part is None, or empty, where its stage has not run. Files that are there and cannot be read
are refused as everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.options.choices import CLASSES
from utils.figures.images import sample_sheet_figure
from utils.figures.style import distance_label, three_digits
from utils.files.k_files import k_named
from utils.files.training_log import read_stats
from utils.inputs.samples import load_synthetics
from utils.stages.classify.figures import transition_figure
from utils.stages.classify.files import Identified, load_identified
from utils.stages.classify.summary import read_summary, summaries
from utils.stages.classify.transition import in_words, transition
from utils.stages.classify.verdicts import nearest_column
from utils.stages.distances.files import Distances
from utils.stages.report.data_uris import figure_uri, tile_uri
from utils.stages.report.what_if import Axis, cells, make_axis
from utils.stages.train.figures import loss_figure

MARKUP = 160  # bytes of a page around each tile
# Samples of a class, and neighbours of either kind beside each: the first pair that fits.
SHOWN = ((6, 2), (4, 2), (3, 2), (2, 2), (2, 1), (1, 1))
ROWS, NEIGHBOURS = SHOWN[0]
FIRST = 12  # images of a set that stand for it


@dataclass(frozen=True)
class Picture:
    """A figure in the page; alt: what it shows, in words."""

    uri: str
    title: str
    alt: str


@dataclass(frozen=True)
class Table:
    head: list[str]
    rows: list[list[str]]

    def in_words(self, column: int) -> str:
        """One column as a text alternative: `Median critical time (quartiles): K = 2, ...`"""
        told = [f"K = {row[0]}, {row[1]}: {row[column]}" for row in self.rows]
        name = self.head[column]
        return f"{name[0].upper()}{name[1:]}: {'; '.join(told)}."


@dataclass(frozen=True)
class Tile:
    uri: str
    alt: str
    distance: str = ""


@dataclass(frozen=True)
class Shown:
    """One sample beside its neighbours."""

    sample: Tile
    training: list[Tile]
    synthetic: list[Tile]


@dataclass(frozen=True)
class Drawn:
    """A synthetic set: its first images [n, C, H, W], n up to FIRST, and its args."""

    images: np.ndarray
    args: dict[str, Any]


@dataclass
class Panel:
    """What is shown of one K: by class how many there are, and some of them; some of all where
    nothing has been judged."""

    k: int
    told: str = ""
    classes: dict[str, list[Shown]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    unjudged: list[Tile] = field(default_factory=list)

    def keep(self, rows: int, neighbours: int) -> None:
        """Show no more than so many samples of a class, each with so many neighbours."""
        self.unjudged = self.unjudged[: 2 * rows]
        self.classes = {
            name: [
                Shown(one.sample, one.training[:neighbours], one.synthetic[:neighbours])
                for one in shown[:rows]
            ]
            for name, shown in self.classes.items()
        }


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def shares_in_words(row: Mapping[str, Any]) -> str:
    """`K = 64: 79.3 % memorized (73.9 to 83.8), ...`"""
    parts = [
        f"{percent(row[f'{name}_share'])} {name} "
        f"({100 * row[f'{name}_low']:.1f} to {100 * row[f'{name}_high']:.1f})"
        for name in CLASSES
    ]
    return f"K = {row['K']}: {', '.join(parts)}"


def load_rows(root: Path) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
    """The rows of summary.csv, and the args of each K."""
    found = [read_summary(path) for path in summaries(root / "identified")]
    rows = [one["row"] for one in found]
    return rows, {one["row"]["K"]: one["args"] for one in found}


def headline(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences with the numbers of the sweep."""
    told = [f"{line[0].upper()}{line[1:]}." for line in in_words(transition(rows)).splitlines()]
    ends = [rows[0], rows[-1]][: len(rows)]
    return [*told, *(f"At {shares_in_words(row)}." for row in ends)]


def transition_picture(rows: Sequence[Mapping[str, Any]]) -> Picture:
    alt = "Shares of the three classes over the training-set size. "
    alt += ". ".join(shares_in_words(row) for row in rows) + "."
    return Picture(figure_uri(transition_figure(rows)), "The transition", alt)


def classes_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    head = ["K", "samples", *CLASSES]
    cell = "{} ({:.1f} to {:.1f})".format
    body = [
        [str(row["K"]), str(row["N"])]
        + [
            cell(percent(row[f"{n}_share"]), 100 * row[f"{n}_low"], 100 * row[f"{n}_high"])
            for n in CLASSES
        ]
        for row in rows
    ]
    return Table(head, body)


def load_drawn(root: Path) -> dict[int, Drawn]:
    """The first images of each set; copies, for a part of an array would keep all of it."""
    sets = {k: load_synthetics(path) for k, path in k_named(root / "synthetics").items()}
    return {k: Drawn(found.samples[:FIRST].copy(), found.args) for k, found in sets.items()}


def panels(
    root: Path,
    rows: Sequence[Mapping[str, Any]],
    drawn: Mapping[int, Drawn],
    dists: Mapping[int, Distances],
) -> list[Panel]:
    """A panel for each K: ROWS samples of each class, each with NEIGHBOURS of either kind."""
    by_k = {row["K"]: row for row in rows}
    every: list[Panel] = []
    for k in sorted({*by_k, *drawn}):
        panel = Panel(k, shares_in_words(by_k[k]) if k in by_k else f"K = {k}: not judged yet")
        if k in by_k:
            for name, stored in load_classes(root, k).items():
                panel.counts[name] = by_k[k][name]
                panel.classes[name] = list(shown_samples(k, name, stored, dists.get(k)))
        else:
            panel.unjudged = [
                Tile(tile_uri(image), f"sample {i} of K = {k}")
                for i, image in enumerate(drawn[k].images)
            ]
        every.append(panel)
    return every


def fit(every: Sequence[Panel], room: int) -> None:
    """Keep as many samples and neighbours as `room` bytes hold, and at least one of each."""
    for rows, neighbours in SHOWN:
        for panel in every:
            panel.keep(rows, neighbours)
        if sum(map(bytes_of, every)) <= room:
            break


def bytes_of(panel: Panel) -> int:
    shown = [one for samples in panel.classes.values() for one in samples]
    tiles = [t for one in shown for t in (one.sample, *one.training, *one.synthetic)]
    return sum(len(tile.uri) + len(tile.alt) + MARKUP for tile in (*tiles, *panel.unjudged))


def load_classes(root: Path, k: int) -> dict[str, Identified]:
    """The stored samples of each class that has some."""
    files = {name: root / "identified" / name / f"{k}.npz" for name in CLASSES}
    return {name: load_identified(path) for name, path in files.items() if path.exists()}


def shown_samples(
    k: int, name: str, stored: Identified, dists: Distances | None
) -> Iterator[Shown]:
    """The most typical samples of a class beside their neighbours; distances are told where these
    are of the same set and metric."""
    same = dists and stored.args.get("distances") == dists.args.get("distances")
    near = dists.arrays if same and stored.indices.max() < len(dists.arrays["data-dists"]) else {}
    for i in range(min(ROWS, max(stored.sizes[0], 1), len(stored.samples))):
        index = int(stored.indices[i])
        what = f"{name} sample {index} of K = {k}"
        rows = {side: near[f"{side}-dists"][index] if near else () for side in ("data", "synth")}
        yield Shown(
            Tile(tile_uri(stored.samples[i]), what),
            neighbour_tiles(
                f"training image {{}} nearest to {what}", stored.train_nns[i], rows["data"]
            ),
            neighbour_tiles(
                f"synthetic image {{}} nearest to {what}", stored.synth_nns[i], rows["synth"]
            ),
        )


def neighbour_tiles(alt: str, images: np.ndarray, dists: Sequence[float]) -> list[Tile]:
    """The nearest images, with their distances as far as these are known."""
    told = [three_digits(d) for d in dists[: len(images)]] + [""] * len(images)
    return [
        Tile(tile_uri(image), alt.format(j + 1) + (f", at distance {d}" if d else ""), d)
        for j, (image, d) in enumerate(zip(images[:NEIGHBOURS], told, strict=False))
    ]


def sheet_picture(drawn: Mapping[int, Drawn]) -> Picture:
    """A row of samples for each K."""
    images = {k: found.images for k, found in drawn.items()}
    sizes = ", ".join(map(str, images))
    alt = f"The first samples of each training-set size, a row each, from above: K = {sizes}."
    grey = next(iter(images.values())).shape[1] == 1
    uri = figure_uri(sample_sheet_figure(images, FIRST), lossless=grey)
    return Picture(uri, "Samples of each K", alt)


def what_if(
    rows: Sequence[Mapping[str, Any]], dists: Mapping[int, Distances]
) -> dict[str, Any] | None:
    """What the page needs to count and draw for any two thresholds; None without distances."""
    by_k = {row["K"]: row for row in rows if row["K"] in dists}
    if not by_k:
        return None
    first = next(iter(by_k.values()))
    ratio = first["criterion"] == "ratio"
    limits = 1 / 3 if ratio else first["delta_m"], first["delta_s"]
    # One pair of sliders can only begin with one pair of thresholds, and one unit.
    same = ("criterion", "metric", "delta_m", "delta_s")
    found = {
        k: dists[k]
        for k, row in by_k.items()
        if [row[name] for name in same] == [first[name] for name in same]
        and dists[k].metric_name == row["metric"]
        and dists[k].arrays["data-dists"].shape[1] > ratio  # it compares two neighbours
    }
    if not found or None in limits:
        return None
    x = {k: judged_by(d, first["criterion"]) for k, d in found.items()}
    y = {k: nearest_column(d.arrays["synth-dists"]) for k, d in found.items()}
    axes = (
        make_axis(list(x.values()), limits[0], strict=ratio),
        make_axis(list(y.values()), limits[1]),
    )
    unit = distance_label(first["metric"])
    labels = (
        "d₁ / d₂, of the two nearest training images"
        if ratio
        else f"Distance to the nearest training image, {unit}",
        f"Distance to the nearest other sample, {unit}",
    )
    return {
        "sizes": list(found),
        "names": list(CLASSES),
        "axes": [
            _axis(axis, label, symbol)
            for axis, label, symbol in zip(axes, labels, ("δₘ", "δₛ"), strict=True)
        ],
        "cells": [cells(*axes, x[k], y[k]) for k in found],
        "samples": [len(x[k]) for k in found],
    }


def _axis(axis: Axis, label: str, symbol: str) -> dict[str, Any]:
    edges = [float(f"{edge:.6g}") for edge in axis.edges]
    return {"edges": edges, "at": axis.at, "label": label, "symbol": symbol}


def judged_by(dists: Distances, criterion: str) -> np.ndarray:
    """What memorization is judged by [N]: the distance to the nearest training image, d_1 / d_2."""
    near = dists.arrays["data-dists"]
    if criterion != "ratio":
        return nearest_column(near)
    d_1, d_2 = near[:, 0].astype(np.float64), near[:, 1].astype(np.float64)
    return np.divide(d_1, d_2, out=np.zeros(len(d_1)), where=d_1 > 0)


def losses_part(root: Path) -> tuple[Picture, Table] | None:
    """The training curves, and what each training took."""
    folder = root / "training"
    names = [path.name for path in folder.glob("*")] if folder.is_dir() else []
    sizes = sorted(int(name) for name in names if name.isascii() and name.isdecimal())
    stats = {k: rows for k in sizes if (rows := read_stats(folder / str(k)))}
    if not stats:
        return None
    body, words = [], []
    for k, rows in stats.items():
        last = rows[-1]
        held_out = last.get("valid_loss")
        rate = [r["images_per_second"] for r in rows if r.get("images_per_second")]
        body.append(
            [
                *(str(k), str(last["step"]), f"{last['loss']:.4g}"),
                "" if held_out is None else f"{held_out:.4g}",
                f"{np.median(rate):.0f}" if rate else "",
            ]
        )
        words.append(f"K = {k}: {last['loss']:.3g} after {last['step']} steps")
    head = ["K", "steps", "loss", "loss on held-out images", "images a second (median)"]
    alt = f"Training and held-out loss over the steps. Last losses: {'; '.join(words)}."
    return Picture(figure_uri(loss_figure(stats)), "Training", alt), Table(head, body)
