"""Energy landscapes in the plane: wells, what they are, and where samples come to rest.

A well is a minimum that a barrier of BARRIER nats keeps apart from every deeper one, in
beta E = -log p + const: half of the thermal energy. Shallower ripples belong to one well."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from utils.cli.options.choices import CLASSES

BARRIER = 0.5  # nats
MEMORIZED, SPURIOUS, GENERALIZED = range(len(CLASSES))
HALF_WAY_ROUND, ANGLES = 0.5, 72  # share of directions that a ring's bottom fills, of so many
CHAIN = 0.25  # noise levels sqrt(t): settled points nearer than this are never told apart
FAR_APART = 2.0  # how many times as long the next merge must be to be a gap between clusters
NEIGHBOURS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


@dataclass(frozen=True)
class Wells:
    """cells int64 [n, 2]: row and column of each minimum, the lowest first and then by barrier;
    basins int64 [G, G]: the well that each cell belongs to; barriers [n] in nats, falling,
    infinite for the lowest."""

    cells: np.ndarray
    basins: np.ndarray
    barriers: np.ndarray


def find_wells(energy: np.ndarray, beta: float, barrier: float = BARRIER) -> Wells:
    """The wells of energies [G, H]: minima whose barrier is `barrier` nats or more.

    The landscape is flooded from below. Where two lakes meet, the one with the higher minimum
    has filled its well: its barrier is beta (saddle - minimum), the persistence of the minimum.
    Source: Edelsbrunner et al. 2002, "Topological persistence and simplification".
    Raises ValueError for energies that are not finite."""
    if energy.ndim != 2 or not energy.size or not np.isfinite(energy).all():
        raise ValueError(f"energy: found {energy.shape}, finite or not; give finite [G, H]")
    height = beta * energy
    minimum: list[tuple[int, int]] = []  # of each lake, in the order in which they rise
    joined: list[int] = []  # the deeper lake that this one has flowed into, or itself
    absorbed: list[int] = []  # the well that this one is only a ripple of, or itself
    barriers: list[float] = []
    lake = np.full(energy.shape, -1)
    for place in np.argsort(height, axis=None, kind="stable"):
        cell = divmod(int(place), energy.shape[1])
        around = _labelled(lake, cell)
        if not around:
            lake[cell] = len(minimum)
            joined.append(len(minimum))
            absorbed.append(len(minimum))
            barriers.append(math.inf)
            minimum.append(cell)
            continue
        # neighbours by height: the lowest gives the cell its lake
        around.sort(key=lambda other: height[other])
        lake[cell] = lake[around[0]]
        meeting = {_root(joined, int(lake[other])): other for other in reversed(around)}
        deepest, *others = sorted(meeting, key=lambda i: (height[minimum[i]], i))
        for other in others:
            barriers[other] = height[cell] - height[minimum[other]]
            joined[other] = deepest
            if barriers[other] < barrier:
                absorbed[other] = int(lake[meeting[deepest]])
    kept = sorted((i for i, to in enumerate(absorbed) if i == to), key=lambda i: barriers[i])[::-1]
    number = {i: n for n, i in enumerate(kept)}
    final = np.array([number[_root(absorbed, i)] for i in range(len(minimum))])
    cells = np.array([minimum[i] for i in kept])
    return Wells(cells, final[lake], np.array([barriers[i] for i in kept]))


def _labelled(lake: np.ndarray, cell: tuple[int, int]) -> list[tuple[int, int]]:
    rows, columns = lake.shape
    around = [(cell[0] + i, cell[1] + j) for i, j in NEIGHBOURS]
    return [(i, j) for i, j in around if 0 <= i < rows and 0 <= j < columns and lake[i, j] >= 0]


def _root(links: list[int], i: int) -> int:
    while links[i] != i:
        links[i] = links[links[i]]
        i = links[i]
    return i


def kinds_of(
    wells: Wells, energy: np.ndarray, axis: np.ndarray, patterns: np.ndarray, t: float
) -> np.ndarray:
    """What each well is, int64 [n], an index of CLASSES.

    Its bottom are the places up to BARRIER nats above its minimum. Generalized: the bottom goes
    round at least half of the circle, and leaves out its middle. Else memorized: it holds one
    pattern, within sqrt(t) of its minimum. Else spurious: patterns merged into it, or none is
    there."""
    home = wells.basins[tuple(nearest_cells(patterns, axis).T)]
    kinds = np.full(len(wells.cells), SPURIOUS)
    for i, cell in enumerate(wells.cells):
        held, place = patterns[home == i], axis[cell[::-1]]
        bottom = bottom_of(wells, energy, t, i)
        if goes_round(bottom, axis):
            kinds[i] = GENERALIZED
        elif len(held) == 1 and np.hypot(*(held[0] - place)) <= math.sqrt(t):
            kinds[i] = MEMORIZED
    return kinds


def bottom_of(wells: Wells, energy: np.ndarray, t: float, i: int) -> np.ndarray:
    """The places of well i up to BARRIER nats above its minimum, bool [G, G]."""
    return (wells.basins == i) & (energy - energy[tuple(wells.cells[i])] <= 2 * t * BARRIER)


def goes_round(bottom: np.ndarray, axis: np.ndarray) -> bool:
    """Whether places bool [G, G] lie in at least half of all directions, but not in the middle."""
    rows, columns = np.nonzero(bottom)
    turn = np.arctan2(axis[rows], axis[columns]) / (2 * np.pi) + 0.5  # 0 to 1
    filled = np.unique((turn * ANGLES).astype(int) % ANGLES)
    middle = tuple(nearest_cells(np.zeros((1, 2)), axis)[0])
    return len(filled) >= HALF_WAY_ROUND * ANGLES and not bottom[middle]


def nearest_cells(points: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Row (of y) and column (of x) of the cell nearest to each point [n, 2]: int64 [n, 2].

    Points outside the square belong to its edge."""
    step = axis[1] - axis[0]
    cells = np.rint((points[:, ::-1] - axis[0]) / step).astype(np.int64)
    return cells.clip(0, len(axis) - 1)


def places(axis: np.ndarray) -> np.ndarray:
    """The places of a square as points [G G, 2], row by row: x runs fastest."""
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def cluster(points: np.ndarray, t: float, threshold: float | None) -> tuple[np.ndarray, float]:
    """The cluster of each point [n, 2], int64 [n] from 0, the largest first, and the threshold.

    Hierarchical clustering with single linkage (scipy): two points are of one cluster where a
    chain of points leads from one to the other, no link of it longer than the threshold, so a
    ring is one cluster. Without a threshold it is found: the middle (geometric) of the widest gap
    between successive lengths at which clusters merge, sought above sqrt(t) / 4; where no length
    is twice the one before it, all are one cluster."""
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(points, method="single")
    if threshold is None:
        floor = CHAIN * math.sqrt(t)
        lengths = np.array([floor, *tree[:, 2][tree[:, 2] > floor]])
        ratios = np.append(lengths[1:] / lengths[:-1], 1.0)
        gap = int(ratios.argmax())
        parted = ratios[gap] >= FAR_APART
        threshold = float(np.sqrt(lengths[gap] * lengths[gap + 1]) if parted else lengths[-1])
    found = fcluster(tree, threshold, criterion="distance")
    names, sizes = np.unique(found, return_counts=True)
    rank = np.empty(names.max() + 1, np.int64)
    rank[names[np.argsort(-sizes, kind="stable")]] = np.arange(len(names))
    return rank[found], threshold


def centres(points: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The member of each cluster that is nearest to its mean, [clusters, 2].

    A member, since the mean of a ring lies in its empty middle."""
    found = []
    for i in range(clusters.max() + 1):
        members = points[clusters == i]
        away = np.linalg.norm(members - members.mean(axis=0), axis=1)
        found.append(members[away.argmin()])
    return np.array(found)


def along_the_circle(energy: np.ndarray, axis: np.ndarray, angles: int = 360) -> np.ndarray:
    """Energies along the valley of a ring, [angles]: the least one on each ray from the origin."""
    from scipy.interpolate import RegularGridInterpolator

    read = RegularGridInterpolator((axis, axis), energy, method="cubic")
    angle = np.linspace(0, 2 * np.pi, angles, endpoint=False)
    radius = np.linspace(0, axis[-1], 201)
    y, x = radius * np.sin(angle)[:, None], radius * np.cos(angle)[:, None]
    return read(np.stack([y, x], axis=-1)).min(axis=1)
