"""What the report shows of samples, classes and training, as plain values.

A part is None, or empty, if its stage has not run. Raises UserError for files that cannot be
read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.options.choices import CLASSES, SPURIOUS
from utils.evidence.image_quality import MEASURES, measure_text
from utils.figures.data_uris import figure_uri, file_uri, tile_uri
from utils.figures.images import sample_sheet_figure
from utils.figures.style import three_digits
from utils.files.k_files import k_named
from utils.files.training_log import read_stats
from utils.inputs.samples import OURS, load_synthetics
from utils.stages.classify.figures import quality_figure, repeats_figure, transition_figure
from utils.stages.classify.files import Identified, Judged, load_all, load_identified
from utils.stages.classify.summary import (
    cutoff_cells,
    other_criterion,
    other_text,
    published_cutoffs,
    repeats_table,
    value_and_control,
)
from utils.stages.classify.transition import in_words, transition
from utils.stages.distances.files import Distances
from utils.stages.train.figures import loss_figure

MARKUP = 160  # bytes of HTML around each tile
# Samples of a class, and neighbours of either kind of each; the page has the first pair that fits.
LAYOUTS = ((6, 2), (4, 2), (3, 2), (2, 2), (2, 1), (1, 1))
ROWS, NEIGHBOURS = LAYOUTS[0]
FIRST = 12  # images of a synthetic set that are shown


@dataclass(frozen=True)
class Picture:
    """A figure of the page; alt: its text alternative."""

    uri: str
    title: str
    alt: str


@dataclass(frozen=True)
class Table:
    head: list[str]
    rows: list[list[str]]

    def in_words(self, column: int) -> str:
        """One column as a text alternative: `Median critical time (quartiles): K = 2, ...`"""
        values = [f"K = {row[0]}, {row[1]}: {row[column]}" for row in self.rows]
        name = self.head[column]
        return f"{name[0].upper()}{name[1:]}: {'; '.join(values)}."


@dataclass(frozen=True)
class Section:
    """The part of one stage; args: of one file, or of one file of each class."""

    pictures: list[Picture]
    table: Table
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tile:
    """One image."""

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
class SyntheticSet:
    """The first images [n, C, H, W] of a synthetic set, n up to FIRST, and its args."""

    images: np.ndarray
    args: dict[str, Any]


@dataclass
class Panel:
    """One K: the number of samples of each class and some of them, or, if they have not been
    classified, some of all samples."""

    k: int
    caption: str = ""
    classes: dict[str, list[Shown]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    unjudged: list[Tile] = field(default_factory=list)

    def keep(self, rows: int, neighbours: int) -> None:
        """Keep at most so many samples of a class, each with so many neighbours."""
        self.unjudged = self.unjudged[: 2 * rows]
        self.classes = {
            name: [
                Shown(one.sample, one.training[:neighbours], one.synthetic[:neighbours])
                for one in samples[:rows]
            ]
            for name, samples in self.classes.items()
        }


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def with_control(row: Mapping[str, Any], name: str) -> str:
    """`73.9 to 83.8; real images 1.0`: interval and control of a share, in percent."""
    low, high = 100 * row[f"{name}_low"], 100 * row[f"{name}_high"]
    real = row[f"{name}_control"]
    return f"{low:.1f} to {high:.1f}" + ("" if real is None else f"; real images {100 * real:.1f}")


def shares_in_words(row: Mapping[str, Any]) -> str:
    """`K = 64: 79.3 % memorized (73.9 to 83.8; real images 1.0), ...`"""
    parts = [
        f"{percent(row[f'{name}_share'])} {name} ({with_control(row, name)})" for name in CLASSES
    ]
    return f"K = {row['K']}: {', '.join(parts)}"


def headline(judged: Sequence[Judged]) -> list[str]:
    """Sentences with the main numbers of the sweep."""
    lines, rows = in_words(transition(judged)).splitlines(), [one.row for one in judged]
    ends = [rows[0], rows[-1]][: len(rows)]
    sentences = [f"{line[0].upper()}{line[1:]}." for line in lines]
    return [*sentences, *(f"At {shares_in_words(row)}." for row in ends)]


def transition_picture(rows: Sequence[Mapping[str, Any]]) -> Picture | None:
    """The shares over K; None for a single K."""
    if len(rows) < 2:
        return None
    alt = "Shares of the three classes over the training-set size. "
    alt += ". ".join(shares_in_words(row) for row in rows) + "."
    return Picture(figure_uri(transition_figure(rows)), "The transition", alt)


def repeats_picture(root: Path, judged: Sequence[Judged]) -> Picture | None:
    """The shares of several trainings of each K (--repeats); None where there is one."""
    folder = root / "repeats"
    names = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    others = [run for name in names if (run := load_all(folder / name / "identified"))]
    if not others or not judged:
        return None
    runs = [list(judged), *others]
    return Picture(
        figure_uri(repeats_figure(runs)), "Several trainings of each K", repeats_table(runs)
    )


def states_picture(root: Path, rows: Sequence[Mapping[str, Any]]) -> Picture | None:
    """The picture of spurious states that run_classify.py drew, of the K with the largest share of
    spurious samples that has one."""
    for row in sorted(rows, key=lambda row: -row[f"{SPURIOUS}_share"]):
        path = root / "identified" / "figures" / f"states-{row['K']}.png"
        if row["repeated"] and path.exists():
            title = (
                f"Spurious states of K = {row['K']}, a row each: samples of one state, with their "
                "distances to the nearest other sample; and the training images nearest to the "
                "first, with their distances to it"
            )
            alt = (
                f"{title}. {row['states']} states; the largest has {row['largest_state']} samples."
            )
            return Picture(file_uri(path), title, alt)
    return None


def classes_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Shares with intervals and controls, and the thresholds of each K."""

    def limit(row: Mapping[str, Any], name: str) -> str:
        return "-" if row[name] is None else f"{row[name]:.4g}"

    body = [
        [
            *(str(row["K"]), str(row["N"])),
            *(f"{percent(row[f'{n}_share'])} ({with_control(row, n)})" for n in CLASSES),
            *(limit(row, "delta_m"), error_in_words(row), limit(row, "delta_s")),
        ]
        for row in rows
    ]
    return Table(["K", "samples", *CLASSES, "δₘ", "error rate of δₘ", "δₛ"], body)


def error_in_words(row: Mapping[str, Any]) -> str:
    """`0.6 to 1.6 % (rank 17 of 1733)`: of real images called memorized, or a dash."""
    if row["rank"] is None:
        return "-"
    low, high = 100 * row["error_low"], 100 * row["error_high"]
    return f"{low:.2g} to {high:.2g} % (rank {row['rank']} of {row['held_out']})"


def states_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Shares by the other criterion, real images in brackets; distinct spurious states."""
    other = other_criterion(rows[0])
    head = ["K", *(f"{name} by {other}" for name in CLASSES)]
    head += ["distinct states", "samples of the largest", "samples in states of 3 or more"]
    body = [
        [
            str(row["K"]),
            *(other_text(row, other, name) for name in CLASSES),
            *(str(row["states"]), str(row["largest_state"]), percent(row["repeated"])),
        ]
        for row in rows
    ]
    return Table(head, body)


def quality_picture(rows: Sequence[Mapping[str, Any]]) -> Picture | None:
    """Quality against the memorized share; None where it was measured at fewer than two K."""
    rows = [row for row in rows if row["frechet"] is not None]
    if len(rows) < 2:
        return None
    alt = "Frechet distance, in brackets of real images. "
    alt += ", ".join(
        f"K = {row['K']}: {value_and_control(row['frechet'], row['frechet_control'])}"
        for row in rows
    )
    title = "Quality against the memorized share, and over K"
    return Picture(figure_uri(quality_figure(rows)), title, f"{alt}.")


def quality_table(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """Every measure with its interval and the value of real images; None without any."""
    rows = [row for row in rows if row["frechet"] is not None]
    if not rows:
        return None
    body = [
        [str(row["K"]), f"{row['quality_n']:.0f}", *(measure_text(row, n) for n in MEASURES)]
        for row in rows
    ]
    return Table(["K", "n", *MEASURES.values()], body)


def cutoffs_table(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """Shares within published cut-offs, real images in brackets; None of other metrics."""
    names = published_cutoffs(rows)
    return Table(["K", *names], cutoff_cells(rows, names)) if names else None


def load_sets(root: Path) -> dict[int, SyntheticSet]:
    """The synthetic sets by K."""

    def first_images(path: Path) -> SyntheticSet:
        samples = load_synthetics(path, OURS)
        # a copy: a view would keep the whole array in memory
        return SyntheticSet(samples.samples[:FIRST].copy(), samples.args)

    return {k: first_images(path) for k, path in k_named(root / "synthetics").items()}


def panels(
    root: Path,
    rows: Sequence[Mapping[str, Any]],
    sets: Mapping[int, SyntheticSet],
    dists: Mapping[int, Distances],
) -> list[Panel]:
    """A panel for each K: ROWS samples of each class, each with NEIGHBOURS of either kind."""
    row_of = {row["K"]: row for row in rows}
    every: list[Panel] = []
    for k in sorted({*row_of, *sets}):
        if k in row_of:
            panel = Panel(k, shares_in_words(row_of[k]))
            for name, stored in load_classes(root, k).items():
                panel.counts[name] = row_of[k][name]
                panel.classes[name] = list(shown_samples(k, name, stored, dists.get(k)))
        else:
            images = enumerate(sets[k].images)
            tiles = [Tile(tile_uri(image), f"sample {i} of K = {k}") for i, image in images]
            panel = Panel(k, f"K = {k}: not judged yet", unjudged=tiles)
        every.append(panel)
    return every


def fit(every: Sequence[Panel], room: int) -> None:
    """Keep as many samples and neighbours as fit into `room` bytes, at least one of each."""
    for rows, neighbours in LAYOUTS:
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
    """The most typical samples of a class beside their neighbours, with distances if `dists` are
    of the same set and metric."""
    same = dists and stored.args.get("distances") == dists.args.get("distances")
    arrays = dists.arrays if same and stored.indices.max() < len(dists.arrays["data-dists"]) else {}
    for i in range(min(ROWS, max(stored.sizes[0], 1), len(stored.samples))):
        index = int(stored.indices[i])
        what = f"{name} sample {index} of K = {k}"
        near = {
            side: arrays[f"{side}-dists"][index] if arrays else () for side in ("data", "synth")
        }
        yield Shown(
            Tile(tile_uri(stored.samples[i]), what),
            neighbour_tiles("training", what, stored.train_nns[i], near["data"]),
            neighbour_tiles("synthetic", what, stored.synth_nns[i], near["synth"]),
        )


def neighbour_tiles(kind: str, what: str, images: np.ndarray, dists: Sequence[float]) -> list[Tile]:
    """The images nearest to a sample, with their distances as far as these are known."""
    tiles = []
    for j, image in enumerate(images[:NEIGHBOURS]):
        alt = f"{kind} image {j + 1} nearest to {what}"
        distance = three_digits(dists[j]) if j < len(dists) else ""
        if distance:
            alt += f", at distance {distance}"
        tiles.append(Tile(tile_uri(image), alt, distance))
    return tiles


def sheet_picture(sets: Mapping[int, SyntheticSet]) -> Picture:
    """A row of samples for each K."""
    images = {k: one.images for k, one in sets.items()}
    sizes = ", ".join(map(str, images))
    alt = f"The first samples of each training-set size, a row each, from above: K = {sizes}."
    grey = next(iter(images.values())).shape[1] == 1
    uri = figure_uri(sample_sheet_figure(images, FIRST), lossless=grey)
    return Picture(uri, "Samples of each K", alt)


def losses_section(root: Path) -> Section | None:
    """Training curves, and the last step and speed of each training."""
    folder = root / "training"
    names = [path.name for path in folder.glob("*")] if folder.is_dir() else []
    sizes = sorted(int(name) for name in names if name.isascii() and name.isdecimal())
    stats = {k: rows for k in sizes if (rows := read_stats(folder / str(k)))}
    if not stats:
        return None
    body, words = [], []
    for k, rows in stats.items():
        last = rows[-1]
        held_out, speeds = last.get("valid_loss"), [row.get("images_per_second") for row in rows]
        speeds = [speed for speed in speeds if speed]
        body.append(
            [
                *(str(k), str(last["step"]), f"{last['loss']:.4g}"),
                "" if held_out is None else f"{held_out:.4g}",
                f"{np.median(speeds):.0f}" if speeds else "",
            ]
        )
        words.append(f"K = {k}: {last['loss']:.3g} after {last['step']} steps")
    head = ["K", "steps", "loss", "loss on held-out images", "images a second (median)"]
    alt = f"Training and held-out loss over the steps. Last losses: {'; '.join(words)}."
    return Section([Picture(figure_uri(loss_figure(stats)), "Training", alt)], Table(head, body))
