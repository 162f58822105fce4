"""Energy landscapes in the plane: wells, their classes, and clusters of settled samples.

A well is a minimum that a barrier of at least BARRIER nats in beta E = -log p + const, half of the
thermal energy, separates from every deeper minimum. Shallower minima belong to one of the wells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from utils.cli.options.choices import CLASSES

BARRIER = 0.5  # nats
MEMORIZED, SPURIOUS, GENERALIZED = range(len(CLASSES))
# A ring's bottom must cover this share of the directions from the centre, counted in sectors.
RING_SHARE, SECTORS = 0.5, 72
SMALLEST_GAP = 0.25  # in noise levels sqrt(t): settled points nearer than this are one cluster
GAP_RATIO = 2.0  # clusters are separate if the next merge distance is this many times larger


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

    The landscape is flooded from below. Where two lakes meet, the lake with the higher minimum is
    full. Its barrier is beta (saddle - minimum), the persistence of the minimum. The eight cells
    around a cell are its neighbours. If the barrier is too low, the lake belongs to the well on
    the other side of its saddle.
    Source: Edelsbrunner et al. 2002, "Topological persistence and simplification".
    Raises ValueError for energies that are not finite."""
    from scipy.ndimage import maximum_filter, minimum_filter

    if energy.ndim != 2 or not energy.size or not np.isfinite(energy).all():
        raise ValueError(f"energy: found {energy.shape}, finite or not; give finite [G, H]")
    # Cells are numbered by height, 0 the lowest: equal heights need no special case.
    cells = np.argsort(beta * energy, axis=None, kind="stable")
    height = (beta * energy).ravel()[cells]
    rank = np.argsort(cells).reshape(energy.shape)
    # Each cell drains into its lowest neighbour, a minimum into itself.
    minimum_of = _ends(minimum_filter(rank, 3, mode="nearest").ravel()[cells])
    lake = minimum_of[rank]
    meets = maximum_filter(lake, 3, mode="nearest") != minimum_filter(lake, 3, mode="nearest")
    joined_lake = np.arange(len(cells))  # of each minimum: the lowest minimum of its joined lake
    belongs_to = np.arange(len(cells))  # of each minimum: another one, if its barrier is too low
    barriers = np.full(len(cells), math.inf)
    for cell in np.sort(rank[meets]):
        row, column = divmod(int(cells[cell]), energy.shape[1])
        around = rank[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].ravel()
        flooded = np.sort(around[around < cell])
        # the lowest neighbour in each lake; reversed, so that the lowest is kept
        lowest = {joined_lake[minimum_of[other]]: other for other in flooded[::-1]}
        deepest, *full = sorted(lowest) or [cell]
        for minimum in full:
            barriers[minimum] = height[cell] - height[minimum]
            joined_lake[joined_lake == minimum] = deepest
            if barriers[minimum] < barrier:
                belongs_to[minimum] = minimum_of[lowest[deepest]]
    minima = np.unique(minimum_of)
    wells = minima[belongs_to[minima] == minima]
    wells = wells[np.argsort(barriers[wells], kind="stable")[::-1]]
    number = np.empty_like(cells)
    number[wells] = np.arange(len(wells))
    well_cells = np.stack(np.unravel_index(cells[wells], energy.shape), axis=1)
    return Wells(well_cells, number[_ends(belongs_to)[lake]], barriers[wells])


def _ends(links: np.ndarray) -> np.ndarray:
    """Where each chain i, links[i], links[links[i]], ... ends; the last one links to itself."""
    while (links[links] != links).any():
        links = links[links]
    return links


def kinds_of(
    wells: Wells, energy: np.ndarray, axis: np.ndarray, patterns: np.ndarray, t: float
) -> np.ndarray:
    """The class of each well, int64 [n], an index of CLASSES.

    The bottom of a well is the set of its cells up to BARRIER nats above its minimum.
    Generalized: the bottom covers at least half of the directions and not the centre.
    Else memorized: the basin has exactly one pattern, within sqrt(t) of the minimum.
    Else spurious: several patterns have merged into the well, or it has none."""
    well_of_pattern = wells.basins[tuple(nearest_cells(patterns, axis).T)]
    kinds = np.full(len(wells.cells), SPURIOUS)
    for i, cell in enumerate(wells.cells):
        inside, minimum = patterns[well_of_pattern == i], axis[cell[::-1]]
        if goes_round(bottom_of(wells, energy, t, i), axis):
            kinds[i] = GENERALIZED
        elif len(inside) == 1 and np.hypot(*(inside[0] - minimum)) <= math.sqrt(t):
            kinds[i] = MEMORIZED
    return kinds


def bottom_of(wells: Wells, energy: np.ndarray, t: float, i: int) -> np.ndarray:
    """The cells of well i up to BARRIER nats above its minimum, bool [G, G]."""
    return (wells.basins == i) & (energy - energy[tuple(wells.cells[i])] <= 2 * t * BARRIER)


def goes_round(bottom: np.ndarray, axis: np.ndarray) -> bool:
    """Whether cells bool [G, G] cover at least half of all directions, but not the centre."""
    rows, columns = np.nonzero(bottom)
    turn = np.arctan2(axis[rows], axis[columns]) / (2 * np.pi) + 0.5  # 0 to 1
    covered = np.unique((turn * SECTORS).astype(int) % SECTORS)
    centre = tuple(nearest_cells(np.zeros((1, 2)), axis)[0])
    return len(covered) >= RING_SHARE * SECTORS and not bottom[centre]


def nearest_cells(points: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Row (of y) and column (of x) of the cell nearest to each point [n, 2]: int64 [n, 2].

    Points outside the square belong to a cell at its edge."""
    step = axis[1] - axis[0]
    cells = np.rint((points[:, ::-1] - axis[0]) / step).astype(np.int64)
    return cells.clip(0, len(axis) - 1)


def places(axis: np.ndarray) -> np.ndarray:
    """The cells of a square as points [G G, 2], row by row: x varies fastest."""
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def cluster(points: np.ndarray, t: float, threshold: float | None) -> tuple[np.ndarray, float]:
    """The cluster of each point [n, 2], int64 [n] from 0, the largest first, and the threshold.

    Hierarchical clustering with single linkage (scipy). Two points are in one cluster if a chain
    of points with links no longer than the threshold connects them, so a ring is one cluster.
    If threshold is None it is chosen: the geometric mean of the two successive merge distances
    with the largest ratio, among those above sqrt(t) / 4. If that ratio is below GAP_RATIO, all
    points are one cluster."""
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(points, method="single")
    if threshold is None:
        smallest, merges = SMALLEST_GAP * math.sqrt(t), tree[:, 2]
        distances = np.array([smallest, *merges[merges > smallest]])
        ratios = np.append(distances[1:] / distances[:-1], 1.0)
        gap = int(ratios.argmax())
        if ratios[gap] >= GAP_RATIO:
            threshold = float(np.sqrt(distances[gap] * distances[gap + 1]))
        else:
            threshold = float(distances[-1])
    labels = fcluster(tree, threshold, criterion="distance")
    names, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(names))
    return rank[index], threshold


def centres(points: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The member of each cluster that is nearest to its mean, [clusters, 2].

    A member, because the mean of a ring is its empty centre."""
    nearest = []
    for i in range(clusters.max() + 1):
        members = points[clusters == i]
        distances = np.linalg.norm(members - members.mean(axis=0), axis=1)
        nearest.append(members[distances.argmin()])
    return np.array(nearest)


def along_the_circle(energy: np.ndarray, axis: np.ndarray, angles: int = 360) -> np.ndarray:
    """Energies along the valley of a ring, [angles]: the lowest on each ray from the origin."""
    from scipy.interpolate import RegularGridInterpolator

    energy_at = RegularGridInterpolator((axis, axis), energy, method="cubic")
    angle = np.linspace(0, 2 * np.pi, angles, endpoint=False)
    radius = np.linspace(0, axis[-1], 201)
    y, x = radius * np.sin(angle)[:, None], radius * np.cos(angle)[:, None]
    return energy_at(np.stack([y, x], axis=-1)).min(axis=1)
