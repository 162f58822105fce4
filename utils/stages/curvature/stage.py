"""The work of run_curvature.py: how the energy -log p_t bends around samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.exact import ExactDenoiser
from models.noise import SeededNoise, image_key, mix
from utils.cli.errors import UserError
from utils.cli.options.checks import required
from utils.cli.options.sections import CurvatureOptions, CurvatureStage
from utils.cli.progress import progress
from utils.files.atomic import check_writable
from utils.files.k_files import k_files
from utils.files.provenance import digest, is_finished
from utils.inputs.denoisers import check_times
from utils.inputs.subjects import Subject, own_args, plan_subjects
from utils.inputs.unchanged import first_read
from utils.jobs.devices import prepare
from utils.jobs.k_jobs import Job, print_plan, work_through
from utils.stages.critical_times.files import Times, load_times
from utils.stages.curvature.files import KEYS, UNKNOWN, Curvature, dim_of, save_curvature
from utils.stages.curvature.hessian import (
    Curvatures,
    Field,
    end_curvatures,
    full_curvatures,
    normal_bundle,
    points_at,
)
from utils.stages.curvature.overview import show_curvature

STAGES = ("data", "train", "model", "curvature")
FULL_UP_TO = 256  # D up to which `--spectrum auto` takes every eigenvalue
NORMAL_POINTS = 4  # scores of the normal-bundle count for each of D dimensions
BASIS_BYTES = 2**28  # of one point's Krylov basis and its images, at most
GROUP_BYTES = 2**31  # of all points that are examined together


@dataclass(frozen=True)
class Plan:
    """How the samples of one K are examined, and what is known of them already.

    mode: full or lanczos. normal_points: scores of the normal-bundle count, 0 for none.
    critical_time int64 [n], censored bool [n]."""

    given: CurvatureOptions
    subject: Subject
    mode: str
    normal_points: int
    critical_time: np.ndarray
    censored: np.ndarray

    @property
    def args(self) -> dict[str, Any]:
        """What curvature/CLASS/K.npz will carry."""
        own = own_args(self.given, self.subject)
        own |= {"spectrum": self.mode, "normal_points": self.normal_points}
        known = (self.critical_time != UNKNOWN).any()
        own["times"] = digest(self.critical_time, self.censored) if known else ""
        return {**self.subject.args, "curvature": own}

    @property
    def dim(self) -> int:
        return dim_of(self.subject.args)

    @property
    def most(self) -> int:
        """Vectors of a Krylov basis, at most."""
        return largest_basis(self.dim)

    @property
    def group(self) -> int:
        """Points (a sample at a time) that are examined together, so that calls are full."""
        rows, size = self.dim, 8 * self.dim**2
        if self.mode == "lanczos":
            rows, size = self.given.eigenvalues, 16 * self.dim * self.most
        return max(1, min(self.given.batch_size // rows, GROUP_BYTES // size))


def largest_basis(dim: int) -> int:
    """Vectors of D = dim values that a Krylov basis may hold, with their images."""
    return min(dim, max(1, BASIS_BYTES // (16 * dim)))


def run(options: CurvatureStage, again: bool = False) -> None:
    """Write curvature/CLASS/K.npz for each K of the slice, and their figures.

    again redoes a K that was made with other options or samples; else it is refused."""
    given = options.curvature
    device = prepare(options.run)
    subjects = plan_subjects(given, options.slice, options)
    files = times_files(given)
    plans = {s.job: plan(given, s, files.get(s.k)) for s in subjects}
    if options.run.dry_run or not plans:
        print_plan(plans, options.run.overwrite)
        return
    check_writable(Path(required(given, "result_path")))
    if options.run.precision == "bfloat16":
        print("--precision bfloat16: a Hessian is a small difference, taken in float32")
    args = {job: plan.args for job, plan in plans.items()}

    def done(job: Job) -> bool:
        return is_finished(job.target, args[job], STAGES, KEYS, again)

    for job in work_through(list(plans), done, options.run.overwrite):
        denoiser = plans[job].subject.model.denoiser(device, "float32")
        samples = torch.from_numpy(plans[job].subject.samples(given))
        arrays = measure(denoiser, samples, plans[job])
        save_curvature(job.target, Curvature(**arrays, args=args[job]))
    show_curvature(Path(given.result_path))


def plan(given: CurvatureOptions, subject: Subject, times: Path | None) -> Plan:
    """Raises UserError for what the model has not: times --t, or directions to count."""
    dim = dim_of(subject.args)
    check_times(subject.args, given.t)
    points = NORMAL_POINTS * dim if given.normal_points is None else given.normal_points
    if 0 < points < dim:
        remedy = f"choose {dim} or more, the values of an image, or 0 for none"
        raise UserError("--normal-points", points, remedy)
    ends = given.spectrum == "lanczos" or (given.spectrum == "auto" and dim > FULL_UP_TO)
    ends = ends and 2 * given.eigenvalues < dim
    if ends and 2 * given.eigenvalues >= largest_basis(dim):
        remedy = f"choose {(largest_basis(dim) - 1) // 2} or fewer: images are large"
        raise UserError("--eigenvalues", given.eigenvalues, remedy)
    held = len(subject.samples(given))
    critical_time, censored = np.full(held, UNKNOWN, np.int64), np.zeros(held, bool)
    if times is not None:
        _, known = first_read(times, load_times)
        check_same_samples(given, subject, known, times)
        n = min(held, len(known.critical_time))
        critical_time[:n], censored[:n] = known.critical_time[:n], known.censored[:n]
    return Plan(given, subject, "lanczos" if ends else "full", points, critical_time, censored)


def times_files(given: CurvatureOptions) -> dict[int, Path]:
    """The critical times of --times-path by K, where that is given."""
    if given.times_path is None:
        return {}
    remedy = "give a folder that run_critical_times.py wrote, as times/memorized"
    return k_files(given.times_path, ".npz", "--times-path", remedy)


def check_same_samples(given: CurvatureOptions, subject: Subject, times: Times, path: Path) -> None:
    """Raises UserError where the critical times are those of other samples."""
    count = replace(given, sample_size=len(times.critical_time))
    own, timesteps = times.args.get("critical_times", {}), subject.args["train"]["timesteps"]
    same = own.get("samples") == digest(subject.samples(count))
    if not same or times.scanned[-1] >= timesteps:
        remedy = "give the critical times of the same samples"
        raise UserError(f"--times-path {path}", "critical times of other samples", remedy)


def measure(denoiser: Denoiser, samples: Tensor, plan: Plan) -> dict[str, np.ndarray]:
    """The arrays of a Curvature. Raises UserError where the model's numbers are of no use."""
    t = plan.given.t
    places = list(itertools.product(range(len(samples)), t))
    parts, bundles = [], []
    keys = [image_key(image) for image in samples]
    x = at_home(denoiser, samples)
    try:
        with progress(total=len(places), unit="point", desc=f"K = {plan.subject.k}") as bar:
            for start in range(0, len(places), plan.group):
                group = places[start : start + plan.group]
                parts.append(spectra(denoiser, x, group, keys, plan))
                bundles += [dimension(denoiser, x[i], keys[i], time, plan) for i, time in group]
                bar.update(len(group))
    except ValueError as error:
        remedy = "use an earlier checkpoint, or train it again"
        raise UserError(f"model of K = {plan.subject.k}", str(error), remedy) from error
    grid = len(samples), len(t)
    found = {
        name: torch.cat([getattr(part, name) for part in parts]).numpy()
        for name in Curvatures.__dataclass_fields__
    }
    return {
        **{name: values.reshape(*grid, *values.shape[1:]) for name, values in found.items()},
        "t": np.array(t, np.int64),
        "normal_bundle": np.array(bundles, np.int64).reshape(grid),
        "critical_time": plan.critical_time,
        "censored": plan.censored,
    }


def at_home(denoiser: Denoiser, samples: Tensor) -> Tensor:
    """The samples where, and in the format in which, the denoiser is to be differentiated."""
    if isinstance(denoiser, ExactDenoiser):  # it takes float64 from the CPU on every device
        home = torch.device("cpu") if denoiser.device.type == "mps" else denoiser.device
        return samples.double().to(home)
    return samples.to(denoiser.device)


def spectra(
    denoiser: Denoiser, x: Tensor, group: list[tuple[int, int]], keys: list[str], plan: Plan
) -> Curvatures:
    """The curvatures at a group of points: samples i at times t."""
    given, t = plan.given, torch.tensor([t for _, t in group])
    x_t = points_at(x[[i for i, _ in group]], t, denoiser)
    field = Field(denoiser, x_t, t, given.batch_size)
    if plan.mode == "full":
        return full_curvatures(field)
    starts, probes = (
        SeededNoise([mix(given.seed, name, keys[i], t) for i, t in group], (rows, plan.dim)).draw()
        for name, rows in (("start", given.eigenvalues), ("probe", given.probes))
    )
    signs = torch.where(probes < 0, -1.0, 1.0)
    return end_curvatures(field, starts, signs, given.tolerance, plan.most)


def dimension(denoiser: Denoiser, image: Tensor, key: str, t: int, plan: Plan) -> int:
    """The normal-bundle dimension at a sample, UNKNOWN where it was not asked for."""
    if not plan.normal_points:
        return UNKNOWN
    return normal_bundle(denoiser, image, t, noises(denoiser.shape, key, t, plan))


def noises(shape: tuple[int, ...], key: str, t: int, plan: Plan) -> Iterator[Tensor]:
    """Noise around a sample, --batch-size rows at most: row i depends on the seed, the sample,
    the time and i alone."""
    for start in range(0, plan.normal_points, plan.given.batch_size):
        rows = range(start, min(start + plan.given.batch_size, plan.normal_points))
        yield SeededNoise([mix(plan.given.seed, "normal", key, t, i) for i in rows], shape).draw()
