"""Wells against brute force, their kinds on exact energies, clusters against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from scipy.optimize import brentq
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist, pdist, squareform

from models.circle.exact import PatternMixture, circle_energy
from tests.helpers.models import even
from utils.cli.options.toy import ToyDataOptions
from utils.stages.toy.files import ordered_points
from utils.stages.toy.landscapes import (
    GENERALIZED,
    MEMORIZED,
    SPURIOUS,
    along_the_circle,
    bottom_of,
    centres,
    cluster,
    find_wells,
    goes_round,
    kinds_of,
    nearest_cells,
    places,
)

AXIS = np.linspace(-1.8, 1.8, 81)
EIGHT = np.ones((3, 3))  # neighbours of a cell, and itself
SEEDS = pytest.mark.parametrize("seed", range(8))


def field(seed, shape=(7, 9)):
    return np.random.default_rng(seed).normal(size=shape)


def persistence(energy):
    """The barrier of each minimum, by its cell: at every level, the parts of what lies below."""
    padded = np.pad(energy, 1, constant_values=np.inf)
    alive, result = [], {}
    for i, j in np.ndindex(energy.shape):
        if padded[i : i + 3, j : j + 3].min() == energy[i, j]:
            alive.append((i, j))
    for level in np.sort(energy, axis=None):
        parts, _ = label(energy <= level, EIGHT)
        for cell in alive:
            if energy[cell] <= level and cell not in result:
                deeper = energy[(parts == parts[cell])].min()
                if deeper < energy[cell]:
                    result[cell] = level - energy[cell]
    return {cell: result.get(cell, math.inf) for cell in alive}


def neighbours(cell, shape):
    """The cell and those that touch it."""
    rows, columns = (range(max(i - 1, 0), min(i + 2, n)) for i, n in zip(cell, shape))
    return [(i, j) for i in rows for j in columns]


def downhill(energy):
    """The minimum that each cell leads to, from lowest neighbour to lowest neighbour."""
    ends = {}
    for start in np.ndindex(energy.shape):
        cell, last = start, None
        while cell != last:
            last = cell
            cell = min(neighbours(cell, energy.shape), key=lambda other: energy[other])
        ends[start] = cell
    return ends


def same(one, other):
    assert np.array_equal(one.cells, other.cells) and np.array_equal(one.basins, other.basins)
    np.testing.assert_allclose(one.barriers, other.barriers, rtol=1e-9)


def exact(patterns, t, axis=AXIS):
    """Energies of the patterns on the square, their wells, and the kinds of these."""
    known = torch.as_tensor(np.asarray(patterns, float))
    energy = PatternMixture(known).energy(torch.from_numpy(places(axis)), 1 / (2 * t))
    energy = energy.numpy().reshape(len(axis), len(axis))
    wells = find_wells(energy, 1 / (2 * t))
    return energy, wells, kinds_of(wells, energy, axis, known.numpy(), t)


def toy(k):
    return ordered_points(ToyDataOptions())[:k].numpy()


def spots(wells):
    return AXIS[wells.cells[:, ::-1]]


def ring(t, radius=None):
    away = np.hypot(*places(AXIS).T) if radius is None else radius
    return circle_energy(torch.from_numpy(away), 1 / (2 * t)).numpy()


@SEEDS
@pytest.mark.parametrize("shape", [(7, 9), (1, 20), (20, 1), (12, 12)])
def test_barriers_are_the_persistence_of_minima(seed, shape):
    energy = field(seed, shape)
    known = persistence(energy)
    for barrier in (0, 0.3, 0.5, 1.0, 100):
        wells = find_wells(energy, 1, barrier)
        result = dict(zip(map(tuple, wells.cells.tolist()), wells.barriers))
        expected = {cell: height for cell, height in known.items() if height >= barrier}
        assert result.keys() == expected.keys() and len(result) == len(wells.cells)
        np.testing.assert_allclose(
            [result[c] for c in expected], list(expected.values()), rtol=1e-12
        )


@SEEDS
@pytest.mark.parametrize("barrier", [0, 0.5, 1.5])
def test_basins_divide_the_grid(seed, barrier):
    """Each holds its minimum and nothing lower, and whole valleys of those that it took in."""
    energy = field(seed, (12, 13))
    wells = find_wells(energy, 1, barrier)
    assert wells.basins.shape == energy.shape
    assert np.array_equal(np.unique(wells.basins), np.arange(len(wells.cells)))
    for i, cell in enumerate(map(tuple, wells.cells)):
        mine = wells.basins == i
        assert mine[cell] and energy[cell] == energy[mine].min()
    assert math.isinf(wells.barriers[0]) and energy[tuple(wells.cells[0])] == energy.min()
    assert (np.diff(wells.barriers[1:]) <= 0).all() and np.isfinite(wells.barriers[1:]).all()
    ends = downhill(energy)
    for cell, end in ends.items():
        assert wells.basins[cell] == wells.basins[end]
        if barrier == 0:
            assert tuple(wells.cells[wells.basins[cell]]) == end


@SEEDS
@pytest.mark.parametrize("shape", [(1, 40), (12, 13)])
def test_a_ripple_belongs_to_the_well_on_the_other_side_of_its_saddle(seed, shape):
    """Downhill from there, by the lowest neighbour on the deeper side."""
    energy = field(seed, shape)
    wells, known, ends = find_wells(energy, 1, 0.8), persistence(energy), downhill(energy)
    home = {minimum: minimum for minimum in known}
    for minimum, barrier in known.items():
        if barrier < 0.8:
            level = energy[minimum] + barrier
            saddle = np.unravel_index(np.abs(energy - level).argmin(), shape)
            parts, _ = label(energy < energy[saddle], EIGHT)
            around = [c for c in neighbours(saddle, shape) if parts[c]]
            deepest = min(around, key=lambda c: energy[parts == parts[c]].min())
            beyond = [c for c in around if parts[c] == parts[deepest]]
            home[minimum] = ends[min(beyond, key=lambda c: energy[c])]
    for minimum in known:
        end = minimum
        while home[end] != end:
            end = home[end]
        assert tuple(wells.cells[wells.basins[minimum]]) == end


@SEEDS
def test_only_beta_times_energy_counts_and_no_constant(seed):
    energy = field(seed, (12, 12))
    wells = find_wells(energy, 3, 0.9)
    same(find_wells(4 * energy, 3 / 4, 0.9), wells)
    same(find_wells(3 * energy, 1, 0.9), wells)
    same(find_wells(energy + 17.3, 3, 0.9), wells)
    assert len(wells.cells) > len(find_wells(energy, 1, 0.9).cells)
    one, half = find_wells(energy, 1, 0), find_wells(energy, 0.5, 0)
    np.testing.assert_array_equal(half.barriers, one.barriers / 2)


@SEEDS
def test_the_plane_may_be_turned(seed):
    energy = field(seed, (9, 11))
    wells, turned = find_wells(energy, 1), find_wells(energy.T, 1)
    same(turned, type(wells)(wells.cells[:, ::-1], wells.basins.T, wells.barriers))


@SEEDS
def test_ripples_below_the_barrier_vanish(seed):
    """Two wells 4 deep, and ripples of up to 0.3 on them; the ridge stays within the ripples."""
    x, y = places(AXIS).T.reshape(2, 81, 81)
    ripples = np.random.default_rng(seed).uniform(0, 0.3, x.shape)
    energy = 4 * (x**2 - 1) ** 2 + y**2 + ripples
    wells = find_wells(energy, 1)
    assert len(wells.cells) == 2 < len(find_wells(energy, 1, 0).cells)
    assert wells.barriers[1] == pytest.approx(4, abs=0.3)
    sides = wells.basins[wells.cells[:, 0], wells.cells[:, 1]]
    right = np.sign(AXIS[wells.cells[:, 1]])
    assert sorted(right) == [-1, 1]
    away = np.abs(x) > 0.4
    assert (right[wells.basins] == np.sign(x))[away].all() and sides.tolist() == [0, 1]


@SEEDS
def test_ripples_change_barriers_by_their_height_at_most(seed):
    """Cohen-Steiner et al. 2007, "Stability of persistence diagrams"."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((24, 30)) / 12
    waves = [a * np.sin(x * b + y * c + d) for a, b, c, d in rng.normal(0, 2, (6, 4))]
    energy, ripples = sum(waves), rng.uniform(0, 0.2, (24, 30))
    count = len(find_wells(energy + ripples, 1, 0.5).cells)
    least, most = (len(find_wells(energy, 1, barrier).cells) for barrier in (0.7, 0.3))
    assert least <= count <= most < len(find_wells(energy + ripples, 1, 0).cells)


def test_a_barrier_of_half_the_thermal_energy_is_a_well():
    at, below = np.array([[0, 1, 0.5]]), np.array([[0, 1, 0.5000001]])
    assert find_wells(at, 1).barriers.tolist() == [math.inf, 0.5]
    assert find_wells(below, 1).barriers.tolist() == [math.inf]
    assert find_wells(below, 1).basins.tolist() == [[0, 0, 0]]


def test_plateaus_and_equals():
    for flat in (np.zeros((5, 6)), np.full((1, 1), -3.0), np.ones((1, 7))):
        wells = find_wells(flat, 1)
        assert len(wells.cells) == 1 and not wells.basins.any()
    comb = np.ones((5, 5))
    comb[:, ::2], comb[-1] = 0, 0  # teeth that meet in the last row, at their own level
    assert len(find_wells(comb, 1).cells) == 1
    twins = find_wells(np.array([[0.0, 2, 0, 3, 0]]), 1)
    assert twins.cells[0].tolist() == [0, 0]  # of equals, the first
    assert twins.basins.tolist() == [[twins.basins[0, i] for i in (0, 0, 2, 2, 4)]]
    assert sorted(twins.barriers.tolist()) == [2, 3, math.inf]


@pytest.mark.parametrize("cell", [(0, 1), (1, 0), (1, 1), (2, 2)])
def test_corners_touch(cell):
    """A wall with a gap at a corner holds nothing back."""
    energy = np.full((4, 4), 9.0)
    energy[0, 0], energy[1, 1], energy[2, 2], energy[3, 3] = 0, 0.1, 0.2, 0
    energy[cell] = 0.3
    assert len(find_wells(energy, 1).cells) == 1


@pytest.mark.parametrize(
    "energy", [[[0, math.nan]], [[0, math.inf]], [[-math.inf]], [0, 1], [[]], [[[0]]], 0]
)
def test_no_landscape_is_refused(energy):
    with pytest.raises(ValueError, match="energy: found"):
        find_wells(np.array(energy, float), 1)


@pytest.mark.parametrize("start", [0, 0.3, 0.9, math.pi / 2])
@pytest.mark.parametrize("t", [0.05, 0.1, 0.2])
def test_two_wells_have_the_barrier_of_the_closed_form(start, t):
    """E(s) = s^2 + 1 - ln cosh(2 beta s) / beta on the line through both patterns."""
    axis, beta = np.linspace(-1.5, 1.5, 121), 1 / (2 * t)
    _, wells, _ = exact(even(2, start), t, axis)
    s = brentq(lambda s: s - math.tanh(2 * beta * s), 0.1, 2)
    depth = 1 - (s**2 + 1 - math.log(math.cosh(2 * beta * s)) / beta)
    # a grid misses both places by half a diagonal at most; curvature is below 4 beta
    error = beta * 4 * beta * (0.025**2 / 2) / 2
    assert wells.barriers.tolist() == pytest.approx([math.inf, beta * depth], abs=error)
    assert error < 0.03 * beta * depth + 0.02
    result = axis[wells.cells[:, ::-1]]
    assert np.abs(np.sort(result @ even(2, start)[0]) - [-s, s]).max() <= 0.025


@pytest.mark.parametrize("t", [0.05, 0.15])
def test_two_patterns_are_two_memories(t):
    patterns = toy(2)
    _, wells, kinds = exact(patterns, t)
    assert kinds.tolist() == [MEMORIZED] * 2
    assert (cdist(spots(wells), patterns).min(axis=1) < 0.045 / math.sqrt(2)).all()


def test_two_patterns_in_much_noise_are_one_spurious_state():
    """Not generalized: the one well's bottom holds the middle, and both patterns."""
    patterns, t = toy(2), 0.6
    energy, wells, kinds = exact(patterns, t)
    assert kinds.tolist() == [SPURIOUS]
    bottom = bottom_of(wells, energy, t, 0)
    assert bottom[40, 40] and bottom[tuple(nearest_cells(patterns, AXIS).T)].all()


def test_nine_patterns_have_spurious_states_where_none_of_them_is():
    patterns = toy(9)
    _, wells, kinds = exact(patterns, 0.05)
    away = cdist(spots(wells), patterns).min(axis=1)
    assert away[kinds == SPURIOUS].max() > 0.03 > away[kinds == MEMORIZED].max()
    assert set(kinds) == {MEMORIZED, SPURIOUS}


# Measured: 0.0037 and 0.0011 nats^2, and 190 and 75 times as much at K = 9; margins of 2.
@pytest.mark.parametrize(("t", "bound", "ratio"), [(0.05, 0.0075, 95), (0.15, 0.0022, 37)])
def test_a_thousand_patterns_generalize(t, bound, ratio):
    """One ring, and all places along it equally likely; those of nine patterns are not."""
    energy, _, kinds = exact(toy(1000), t)
    assert kinds.tolist() == [GENERALIZED]
    variance = (along_the_circle(energy, AXIS) / (2 * t)).var()
    assert variance < bound
    assert (along_the_circle(exact(toy(9), t)[0], AXIS) / (2 * t)).var() > ratio * variance


def test_in_much_noise_a_thousand_patterns_are_one_spurious_state():
    _, wells, kinds = exact(toy(1000), 0.6)
    assert kinds.tolist() == [SPURIOUS]
    assert np.linalg.norm(spots(wells)) < 0.1


@pytest.mark.parametrize("t", [0.05, 0.15, 0.6])
def test_one_pattern_is_a_memory_at_any_time(t):
    energy, wells, kinds = exact(toy(1), t)
    assert kinds.tolist() == [MEMORIZED] and kinds.dtype == np.int64
    bottom = bottom_of(wells, energy, t, 0).ravel()  # beta |x - y|^2 <= 1/2: a disc of sqrt(t)
    away = np.hypot(*(places(AXIS) - toy(1)).T)
    # the minimum is that of the grid: as far from the pattern as away.min()
    np.testing.assert_array_equal(bottom, away**2 - away.min() ** 2 <= t)


def test_the_bottom_of_one_well_has_nothing_of_another():
    energy, wells, _ = exact(even(3), 0.05)
    bottoms = [bottom_of(wells, energy, 0.05, i) for i in range(3)]
    assert (np.sum(bottoms, axis=0) <= 1).all()
    for i, (bottom, place) in enumerate(zip(bottoms, spots(wells))):
        assert set(wells.basins[bottom]) == {i}
        assert np.hypot(*(places(AXIS)[bottom.ravel()] - place).T).max() < 0.25


@pytest.mark.parametrize("start", [0, 1.0])
@pytest.mark.parametrize(
    ("k", "kinds"),
    [(2, [MEMORIZED] * 2), (3, [MEMORIZED] * 3), (16, [GENERALIZED]), (64, [GENERALIZED])],
)
def test_evenly_spaced_patterns_are_memories_or_a_ring(k, kinds, start):
    assert exact(even(k, start), 0.05)[2].tolist() == kinds


def test_a_well_without_patterns_is_spurious():
    energy, wells, kinds = exact(even(3), 0.05)
    assert kinds.tolist() == [MEMORIZED] * 3
    for patterns in (-even(3), 0.5 * even(3), even(3)[:0].reshape(0, 2)):
        assert kinds_of(wells, energy, AXIS, patterns, 0.05).tolist() == [SPURIOUS] * 3
    mine = wells.basins[tuple(nearest_cells(even(3)[:1], AXIS)[0])]
    result = kinds_of(wells, energy, AXIS, even(3)[:1], 0.05).tolist()
    assert result == [MEMORIZED if i == mine else SPURIOUS for i in range(3)]


@pytest.mark.parametrize(("share", "kind"), [(0.98, MEMORIZED), (1.02, SPURIOUS)])
@pytest.mark.parametrize("direction", [(1, 0), (0, -1), (0.6, 0.8)])
def test_a_memory_lies_within_a_noise_level_of_its_pattern(share, kind, direction):
    t, home = 0.05, AXIS[[60, 15]]
    energy, wells, kinds = exact([home], t)
    assert kinds.tolist() == [MEMORIZED] and spots(wells).tolist() == [home.tolist()]
    moved = home + share * math.sqrt(t) * np.array(direction)
    assert kinds_of(wells, energy, AXIS, moved[None], t).tolist() == [kind]


def test_merged_patterns_are_a_spurious_state():
    pair = AXIS[[[60, 15], [62, 15]]]
    assert exact(pair, 0.05)[2].tolist() == [SPURIOUS]
    assert exact(pair[:1], 0.05)[2].tolist() == [MEMORIZED]


@pytest.mark.parametrize("first", [0, 30, 60])
def test_half_of_the_directions_go_round(first):
    """35 of 72 directions do not, 36 do, and never with the middle."""
    x, y = places(AXIS).T
    turn = np.degrees(np.arctan2(y, x)) % 360 / 5
    inside = np.abs(turn % 1 - 0.5) < 0.45  # away from the border between two directions
    valley = (np.abs(np.hypot(x, y) - 1) < 0.2) & inside
    for count in (0, 1, 35, 36, 72):
        arc = (valley & ((turn - first) % 72 < count)).reshape(81, 81)
        assert goes_round(arc, AXIS) == (count >= 36)
        arc[40, 40] = True
        assert not goes_round(arc, AXIS)


def test_a_disc_does_not_go_round():
    away = np.hypot(*places(AXIS).T).reshape(81, 81)
    assert not goes_round(away < 1, AXIS)
    assert goes_round((away < 1) & (away > 0.1), AXIS)


@pytest.mark.parametrize("axis", [AXIS, np.linspace(-1, 3, 6)])
def test_cells_are_the_inverse_of_places(axis):
    cells = nearest_cells(places(axis), axis)
    assert cells.dtype == np.int64
    assert cells.tolist() == [
        [row, column] for row in range(len(axis)) for column in range(len(axis))
    ]
    assert (axis[cells[:, ::-1]] == places(axis)).all()


@given(st.floats(-9, 9), st.floats(-9, 9))
@settings(deadline=None)
def test_a_point_is_of_the_nearest_cell(x, y):
    """Outside the square, of its edge; the row is y."""
    ((row, column),) = nearest_cells(np.array([[x, y]]), AXIS)
    inside = np.clip([x, y], -1.8, 1.8)
    assert np.abs([AXIS[column], AXIS[row]] - inside).max() <= 0.0225 + 1e-9
    assert 0 <= row <= 80 and 0 <= column <= 80


@pytest.mark.parametrize("t", [0.05, 0.15, 0.4])
def test_the_valley_of_the_ring_is_level(t):
    lowest = ring(t, np.linspace(0, 2, 20_001)).min()
    result = along_the_circle(ring(t).reshape(81, 81), AXIS)
    np.testing.assert_allclose(result, lowest, rtol=0, atol=1e-3)


@pytest.mark.parametrize("start", [0, 1.0, 4.0])
def test_the_valley_of_one_pattern_is_its_distance_from_each_ray(start):
    """sin^2 of the angle between, or 1 where the origin is nearest."""
    result = along_the_circle(exact(even(1, start), 0.1)[0], AXIS, 90)
    angle = 2 * np.pi * np.arange(90) / 90 - start
    expected = np.where(np.cos(angle) > 0, np.sin(angle) ** 2, 1)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-3)


def partition(labels):
    return {frozenset(np.flatnonzero(labels == name).tolist()) for name in np.unique(labels)}


@SEEDS
@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5, 1.5])
def test_clusters_are_those_of_scikit_learn(seed, threshold):
    from sklearn.cluster import DBSCAN, AgglomerativeClustering

    points = np.random.default_rng(seed).normal(size=(120, 2))
    result, kept = cluster(points, 0.05, threshold)
    dense = DBSCAN(eps=threshold, min_samples=1).fit_predict(points)
    tree = AgglomerativeClustering(None, distance_threshold=threshold, linkage="single")
    assert partition(result) == partition(dense) == partition(tree.fit_predict(points))
    sizes = np.bincount(result)
    assert kept == threshold and (np.diff(sizes) <= 0).all() and sizes.min() > 0
    assert result.dtype == np.int64


@SEEDS
def test_the_threshold_lies_in_the_widest_gap(seed):
    """Lengths of the minimum spanning tree are those at which clusters merge."""
    t = 0.05
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(40, 2)) * rng.choice([0.02, 1], (40, 1))
    floor = math.sqrt(t) / 4
    links = np.sort(minimum_spanning_tree(squareform(pdist(points))).data)
    lengths = [floor, *links[links > floor]]
    low, high = max(zip(lengths, lengths[1:]), key=lambda pair: pair[1] / pair[0])
    result, threshold = cluster(points, t, None)
    parted = high / low >= 2
    assert threshold == pytest.approx(math.sqrt(low * high) if parted else lengths[-1])
    assert bool(result.any()) == parted
    assert partition(result) == partition(cluster(points, t, threshold)[0])


@pytest.mark.parametrize("count", range(2, 7))
@SEEDS
def test_without_a_threshold_blobs_are_found(count, seed):
    rng = np.random.default_rng(seed)
    sizes = 30 * (count - np.arange(count))
    home = rng.permutation(np.repeat(np.arange(count), sizes))
    points = even(count, seed)[home] + rng.normal(0, 0.02, (len(home), 2))
    assert cluster(points, 0.05, None)[0].tolist() == home.tolist()  # the largest first


@pytest.mark.parametrize("t", [0.05, 0.15])
@pytest.mark.parametrize("wobble", [0, 0.005])
def test_a_ring_is_one_cluster(t, wobble):
    rng = np.random.default_rng(0)
    points = even(500) + rng.normal(0, wobble, (500, 2))
    result, threshold = cluster(points, t, None)
    assert not result.any() and 0.0126 < threshold < 1
    (middle,) = centres(points, result)
    assert np.hypot(*middle) > 0.9


@pytest.mark.parametrize(("share", "count"), [(0.24, 1), (0.26, 1), (0.49, 1), (0.51, 2)])
@pytest.mark.parametrize("t", [0.05, 0.5])
def test_points_nearer_than_half_of_the_noise_are_one(share, count, t):
    points = np.array([[0, 0], [0, 0], [share * math.sqrt(t), 0]])
    result, threshold = cluster(points, t, None)
    assert result.tolist() == [0, 0, count - 1]
    expected = math.sqrt(0.25 * share) if count == 2 else max(share, 0.25)
    assert threshold == pytest.approx(math.sqrt(t) * expected)


@SEEDS
@pytest.mark.parametrize("n", [200, 500, 2000])
def test_a_ring_of_random_points_is_one_cluster(n, seed):
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, n)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert not cluster(points, 0.05, None)[0].any()


def test_extremes_of_clusters():
    points = np.random.default_rng(0).normal(size=(50, 2))
    assert not cluster(points, 0.05, 1e9)[0].any()
    assert sorted(cluster(points, 0.05, 1e-9)[0]) == list(range(50))
    line = np.array([[0.0, 0], [0.5, 0], [1.0, 0]])
    assert not cluster(line, 0.05, 0.5)[0].any()  # a link as long as the threshold holds
    for threshold in (None, 1.0, 1e-9):
        result, kept = cluster(np.ones((7, 2)), 0.05, threshold)
        assert not result.any() and kept > 0
        assert centres(np.ones((7, 2)), result).tolist() == [[1, 1]]


@SEEDS
def test_centres_are_the_members_nearest_to_the_means(seed):
    rng = np.random.default_rng(seed)
    points, clusters = rng.normal(size=(60, 2)), rng.permutation(np.arange(60) % 4)
    for i, result in enumerate(centres(points, clusters)):
        members = points[clusters == i]
        assert result.tolist() in members.tolist()
        away = cdist(members, members.mean(axis=0)[None])
        assert np.hypot(*(result - members.mean(axis=0))) == pytest.approx(away.min())
