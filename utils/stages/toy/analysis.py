"""The landscape of a trained network of the circle, and basins of attraction in it."""

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
from utils.stages.toy.training import FIRST_TIME, samples_at

REACH, SIDE = 1.8, 81  # half the side of the square that is shown, and the points of a side
SETTLE_STEPS = 10
BASIN_TIMES = 32
PATTERN, SPURIOUS_STATE, CIRCLE_POINT = range(3)  # groups of Basins


def square() -> np.ndarray:
    """The axis of the square on which landscapes are computed, [SIDE], centred at 0."""
    return np.linspace(-REACH, REACH, SIDE)


def landscape_of(
    score: Score, patterns: Tensor, options: ToyPlotsOptions, args: dict[str, Any]
) -> Landscape:
    """The landscape of a score at time options.t, and the exact one of its patterns [K, 2].

    Densities and samples are those of the flow that starts from the exact noised data at t = 1.
    Raises ValueError if scores are not finite."""
    exact, t, axis = PatternMixture(patterns), options.t, square()
    beta = 1 / (2 * t)

    def to_device(points: np.ndarray) -> Tensor:
        return torch.from_numpy(points).to(patterns.device)

    def log_prior(x: Tensor) -> Tensor:
        return exact.log_density(x, 1.0)

    def energy_at(points: np.ndarray) -> np.ndarray:
        batches = to_device(points).split(options.batch_size)
        log_p = torch.cat([log_density(score, log_prior, batch, t) for batch in batches])
        return energy_of(log_p, t).cpu().numpy()

    def settle_from(points: np.ndarray) -> np.ndarray:
        return settle(score, to_device(points), t, SETTLE_STEPS).cpu().numpy()

    grid = places(axis)
    known = patterns.cpu().numpy()
    energy = energy_at(grid).reshape(SIDE, SIDE)
    wells = find_wells(energy, beta)
    well_kinds = kinds_of(wells, energy, axis, known, t)
    well_places = settle_from(axis[wells.cells[:, ::-1]])

    samples = samples_at(score, exact, t, options.samples, options.seed)
    settled = settle_from(samples)
    chosen_threshold = None if options.dynamic_threshold else options.distance_threshold
    clusters, threshold = cluster(settled, t, chosen_threshold)
    centre_places = centres(settled, clusters)

    def well_at(points: np.ndarray) -> np.ndarray:
        return wells.basins[tuple(nearest_cells(points, axis).T)]

    # one call for wells and centres: another batch may round differently
    well_and_centre_energies = energy_at(np.concatenate([well_places, centre_places]))
    well_energies, centre_energies = np.split(well_and_centre_energies, [len(well_places)])
    return Landscape(
        axis=axis,
        energy=energy,
        score=score(to_device(grid), t).reshape(SIDE, SIDE, 2).cpu().numpy(),
        exact_energy=exact.energy(to_device(grid), beta).reshape(SIDE, SIDE).cpu().numpy(),
        basins=wells.basins,
        wells=well_places,
        well_energies=well_energies,
        well_kinds=well_kinds,
        patterns=known,
        samples=samples,
        sample_wells=well_at(samples),
        settled=settled,
        clusters=clusters,
        threshold=np.array(threshold),
        centres=centre_places,
        centre_energies=centre_energies,
        centre_kinds=well_kinds[well_at(centre_places)],
        args=args,
    )


def basins_of(
    score: Score,
    patterns: Tensor,
    spurious: np.ndarray,
    options: ToyBasinOptions,
    args: dict[str, Any],
) -> Basins:
    """How much noise patterns, spurious states [n, 2] and points of the circle can recover from.

    A trial noises the point to a time, moves it back along the flow to the time at which the
    point is a state, and lets it settle there. It is recovered if it ends within delta of the
    point. Patterns and points of the circle are states at FIRST_TIME; a spurious state is one at
    options.t only, the time of its landscape."""
    first_patterns = patterns[: options.points].cpu().numpy()
    angle = 2 * np.pi * np.arange(options.points) / options.points
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.concatenate([first_patterns, spurious.reshape(-1, 2), circle])
    sizes = [len(first_patterns), len(spurious), len(circle)]
    groups = np.repeat([PATTERN, SPURIOUS_STATE, CIRCLE_POINT], sizes)
    state_times = np.where(groups == SPURIOUS_STATE, options.t, FIRST_TIME)
    levels = np.linspace(np.sqrt(state_times), 1, BASIN_TIMES + 1, axis=1)[:, 1:]
    times = levels**2  # [n, T']
    trials = [
        _run_trials(score, point, state_time, row, options, patterns.device)
        for point, state_time, row in zip(points, state_times, times, strict=True)
    ]
    recovery, distances = (np.array(part) for part in zip(*trials, strict=True))  # [n, T'] each
    needed = Rule((1,), options.p_trials, options.p).need
    # recovered at this time and at all earlier ones
    recovered = np.logical_and.accumulate(recovery * options.p_trials >= needed - 0.5, axis=1)
    last = recovered.sum(axis=1) - 1  # -1: never
    rows = np.arange(len(points))
    return Basins(
        points=points,
        groups=groups,
        times=times,
        recovery=recovery,
        critical_time=np.where(last >= 0, times[rows, last], 0.0),
        censored=recovered[:, -1],
        radius=np.where(last >= 0, distances[rows, last], 0.0),
        delta=np.array(options.delta),
        args=args,
    )


def _run_trials(
    score: Score,
    point: np.ndarray,
    state_time: float,
    times: np.ndarray,
    options: ToyBasinOptions,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """The share of trials recovered, and the noised copies' mean distance, at each time [T']."""
    trials = options.p_trials
    # the noise depends on the point, not on its place in a list
    seed = mix(options.seed, "toy trials", *(float(value).hex() for value in point))
    noise = torch.randn(
        len(times), trials, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    start = torch.from_numpy(times).repeat_interleave(trials)  # [T' n]
    # a spurious state has the noise of its time already; a pattern has none
    added = start - state_time if state_time > FIRST_TIME else start
    centre = torch.from_numpy(point)
    copies = centre + added.sqrt()[:, None] * noise.reshape(-1, 2)
    end = torch.full_like(start, state_time)
    batches = [part.to(device).split(options.batch_size) for part in (copies, start, end)]
    back = torch.cat([flow(score, *batch) for batch in zip(*batches, strict=True)])
    settled = settle(score, back, state_time, SETTLE_STEPS).cpu()
    recovered = (settled - centre).norm(dim=1) <= options.delta
    share = recovered.reshape(-1, trials).double().mean(dim=1).numpy()
    return share, (copies - centre).norm(dim=1).reshape(-1, trials).mean(dim=1).numpy()


def network_score(checkpoint: ToyCheckpoint, device: torch.device) -> NetworkScore:
    """The network of a checkpoint. Raises UserError if its scores are not finite."""
    score = NetworkScore(checkpoint.model, device)
    probe = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64, device=device)
    if not all(part.isfinite().all() for part in with_divergence(score, probe, math.sqrt(0.5))):
        raise UserError(f"K = {checkpoint.k}", "scores that are not finite", "train it again")
    return score
