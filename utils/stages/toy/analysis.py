"""What a trained network of the circle knows: its landscape, and the basins in it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.circle.exact import PatternMixture, energy_of
from models.circle.probability_flow import Score, flow, log_density, settle, with_divergence
from models.circle.score_net import NetworkScore
from models.noise import mix
from utils.cli.errors import UserError
from utils.cli.options.toy import ToyBasinOptions, ToyPlotsOptions
from utils.stages.critical_times.search import Rule
from utils.stages.toy.files import Basins, Landscape, ToyCheckpoint
from utils.stages.toy.landscapes import (
    centres,
    cluster,
    find_wells,
    kinds_of,
    nearest_cells,
    places,
)
from utils.stages.toy.training import FIRST_TIME

REACH, SIDE = 1.8, 81  # half the side of the square that is shown, and its points
SETTLE_STEPS = 10
BASIN_TIMES = 32
PATTERN, SPURIOUS_STATE, CIRCLE_POINT = range(3)  # groups of Basins


def square() -> np.ndarray:
    """The axis of the square on which landscapes are computed, [SIDE], 0 in its middle."""
    return np.linspace(-REACH, REACH, SIDE)


def landscape_of(
    score: Score, patterns: Tensor, options: ToyPlotsOptions, args: dict[str, Any]
) -> Landscape:
    """The landscape of a score at time options.t, beside that of its patterns [K, 2].

    The flow starts from the exact noised data at t = 1, for densities and for samples.
    Raises ValueError where scores are not finite."""
    exact, t, axis = PatternMixture(patterns), options.t, square()
    home, known = patterns.device, patterns.cpu().numpy()

    def energies(points: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(points).to(home).split(options.batch_size)
        prior = lambda x: exact.log_density(x, 1.0)  # noqa: E731
        found = [log_density(score, prior, part, t) for part in parts]
        return energy_of(torch.cat(found), t).cpu().numpy()

    def settled(points: np.ndarray) -> np.ndarray:
        return settle(score, torch.from_numpy(points).to(home), t, SETTLE_STEPS).cpu().numpy()

    spots = torch.from_numpy(places(axis)).to(home)
    energy = energies(places(axis)).reshape(SIDE, SIDE)
    wells = find_wells(energy, 1 / (2 * t))
    kinds = kinds_of(wells, energy, axis, known, t)
    samples = samples_at(score, exact, t, options)
    resting = settled(samples)
    threshold = None if options.dynamic_threshold else options.distance_threshold
    clusters, threshold = cluster(resting, t, threshold)
    middles, bottoms = centres(resting, clusters), settled(axis[wells.cells[:, ::-1]])
    heights = energies(np.concatenate([bottoms, middles]))
    cells = nearest_cells(middles, axis)
    return Landscape(
        axis=axis,
        energy=energy,
        score=score(spots, t).reshape(SIDE, SIDE, 2).cpu().numpy(),
        exact_energy=exact.energy(spots, 1 / (2 * t)).reshape(SIDE, SIDE).cpu().numpy(),
        basins=wells.basins,
        wells=bottoms,
        well_energies=heights[: len(bottoms)],
        well_kinds=kinds,
        patterns=known,
        samples=samples,
        sample_wells=wells.basins[tuple(nearest_cells(samples, axis).T)],
        settled=resting,
        clusters=clusters,
        threshold=np.array(threshold),
        centres=middles,
        centre_energies=heights[len(bottoms) :],
        centre_kinds=kinds[wells.basins[tuple(cells.T)]],
        args=args,
    )


def samples_at(
    score: Score, exact: PatternMixture, t: float, options: ToyPlotsOptions
) -> np.ndarray:
    """Samples [N, 2] of a score at time t: exact noised data at t = 1, carried there."""
    x = exact.sample(options.samples, 1.0, mix(options.seed, "toy samples"))
    times = torch.ones(len(x)).to(x), torch.full((len(x),), t).to(x)
    return flow(score, x, *times).cpu().numpy() if t < 1 else x.cpu().numpy()


def basins_of(
    score: Score,
    patterns: Tensor,
    spurious: np.ndarray,
    options: ToyBasinOptions,
    args: dict[str, Any],
) -> Basins:
    """How much noise patterns, spurious states [n, 2] and points of the circle survive.

    A trial noises the point to a time, carries it back along the flow to the time at which the
    point is a state, and lets it settle there; it is recovered within delta of the point. A
    pattern and a point of the circle are states at FIRST_TIME, a spurious state at options.t,
    the time of its landscape: there alone it exists."""
    chosen = patterns[: options.points].cpu().numpy()
    angle = 2 * np.pi * np.arange(options.points) / options.points
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.concatenate([chosen, spurious.reshape(-1, 2), circle])
    groups = np.repeat(
        [PATTERN, SPURIOUS_STATE, CIRCLE_POINT], [len(chosen), len(spurious), len(circle)]
    )
    floors = np.where(groups == SPURIOUS_STATE, options.t, FIRST_TIME)
    levels = np.linspace(np.sqrt(floors), 1, BASIN_TIMES + 1, axis=1)[:, 1:]
    times = levels**2  # [n, T']
    found = [
        _survival(score, point, floor, row, options, patterns.device)
        for point, floor, row in zip(points, floors, times, strict=True)
    ]
    recovery, distances = (np.array(part) for part in zip(*found, strict=True))  # [n, T'] each
    need = Rule((1,), options.p_trials, options.p).need
    lives = np.logical_and.accumulate(recovery * options.p_trials >= need - 0.5, axis=1)
    last = lives.sum(axis=1) - 1  # -1: never
    rows = np.arange(len(points))
    return Basins(
        points=points,
        groups=groups,
        times=times,
        recovery=recovery,
        critical_time=np.where(last >= 0, times[rows, last], 0.0),
        censored=lives[:, -1],
        radius=np.where(last >= 0, distances[rows, last], 0.0),
        delta=np.array(options.delta),
        args=args,
    )


def _survival(
    score: Score,
    point: np.ndarray,
    floor: float,
    times: np.ndarray,
    options: ToyBasinOptions,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """The share of trials recovered, and the noised copies' mean distance, at each time [T']."""
    trials = options.p_trials
    # a point's noise depends on the point, not on its place in a list
    seed = mix(options.seed, "toy trials", *(float(value).hex() for value in point))
    noise = torch.randn(
        len(times), trials, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    start = torch.from_numpy(times).repeat_interleave(trials)  # [T' n]
    # a state of p_floor already has the noise of that time; a pattern has none
    added = start - floor if floor > FIRST_TIME else start
    home = torch.from_numpy(point)
    copies = home + added.sqrt()[:, None] * noise.reshape(-1, 2)
    end = torch.full_like(start, floor)
    tables = [part.to(device) for part in (copies, start, end)]
    parts = [part.split(options.batch_size) for part in tables]
    back = torch.cat([flow(score, *part) for part in zip(*parts, strict=True)])
    rest = settle(score, back, floor, SETTLE_STEPS).cpu()
    recovered = (rest - home).norm(dim=1) <= options.delta
    share = recovered.reshape(-1, trials).double().mean(dim=1).numpy()
    return share, (copies - home).norm(dim=1).reshape(-1, trials).mean(dim=1).numpy()


def network_score(checkpoint: ToyCheckpoint, device: torch.device) -> NetworkScore:
    """The network of a checkpoint; refused where its scores are not finite."""
    score = NetworkScore(checkpoint.model, device)
    probe = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64, device=device)
    if not all(part.isfinite().all() for part in with_divergence(score, probe, math.sqrt(0.5))):
        raise UserError(f"K = {checkpoint.k}", "scores that are not finite", "train it again")
    return score
