"""The work of run_curvature.py: the curvature of the energy -log p_t around samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.closed_form import ClosedForm
from models.denoiser import Denoiser
from models.noise import SeededNoise, image_key, mix
from utils.cli.errors import UserError
from utils.cli.options.sections import CurvatureOptions, CurvatureStage
from utils.cli.progress import progress
from utils.files.k_files import k_files
from utils.files.provenance import digest, is_finished
from utils.inputs.denoisers import check_times, usable_numbers
from utils.inputs.subjects import Subject, plan_subjects
from utils.inputs.unchanged import first_read
from utils.jobs.devices import prepare
from utils.jobs.k_jobs import is_to_run, work_through
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
class Method:
    """How the samples of one K are examined, and their critical times where they are known.

    mode: full or lanczos. normal_points: scores of the normal-bundle count, 0 for none.
    critical_time int64 [n], censored bool [n]."""

    settings: CurvatureOptions
    dim: int
    mode: str
    normal_points: int
    critical_time: np.ndarray
    censored: np.ndarray

    def stage_args(self) -> dict[str, Any]:
        """What curvature/CLASS/K.npz stores of it."""
        known = (self.critical_time != UNKNOWN).any()
        times = digest(self.critical_time, self.censored) if known else ""
        return {"spectrum": self.mode, "normal_points": self.normal_points, "times": times}

    @property
    def points_at_once(self) -> int:
        """Points (a sample at a time t) that are examined together, so that calls are full."""
        rows, size = self.dim, 8 * self.dim**2
        if self.mode == "lanczos":
            rows, size = self.settings.eigenvalues, 16 * self.dim * largest_basis(self.dim)
        return max(1, min(self.settings.batch_size // rows, GROUP_BYTES // size))


def largest_basis(dim: int) -> int:
    """Vectors of D = dim values that a Krylov basis may hold, with their images."""
    return min(dim, max(1, BASIS_BYTES // (16 * dim)))


def run(options: CurvatureStage, redo_changed: bool = False) -> None:
    """Write curvature/CLASS/K.npz for each K of the slice, and their figures.

    redo_changed redoes a K that was made with other options or samples; else it is refused."""
    settings = options.curvature
    device = prepare(options.run)
    subjects = plan_subjects(settings, options.slice, options)
    times = times_files(settings)
    methods = {s.k: plan_method(settings, s, times.get(s.k)) for s in subjects}
    jobs = [s.with_section("curvature", settings, **methods[s.k].stage_args()) for s in subjects]

    def is_done(job: Subject) -> bool:
        return is_finished(job.target, job.args, STAGES, KEYS, redo_changed)

    if not is_to_run(jobs, options.run):
        return
    if options.run.precision == "bfloat16":
        print("--precision bfloat16: a Hessian is a small difference, taken in float32")
    for job in work_through(jobs, is_done, options.run.overwrite):
        denoiser = job.model.denoiser(device, "float32", label=settings.label)
        samples = torch.from_numpy(job.samples(settings))
        arrays = measure(denoiser, samples, methods[job.k], job.name)
        save_curvature(job.target, Curvature(**arrays, args=job.args))
    show_curvature(Path(settings.result_path))


def plan_method(settings: CurvatureOptions, subject: Subject, times: Path | None) -> Method:
    """Raises UserError where the model has no such times --t, or images no such directions."""
    dim = dim_of(subject.args)
    check_times(subject.args, settings.t)
    points = NORMAL_POINTS * dim if settings.normal_points is None else settings.normal_points
    if 0 < points < dim:
        remedy = f"choose {dim} or more, the values of an image, or 0 for none"
        raise UserError("--normal-points", points, remedy)
    ends = settings.spectrum == "lanczos" or (settings.spectrum == "auto" and dim > FULL_UP_TO)
    ends = ends and 2 * settings.eigenvalues < dim
    if ends and 2 * settings.eigenvalues >= largest_basis(dim):
        remedy = f"choose {(largest_basis(dim) - 1) // 2} or fewer: images are large"
        raise UserError("--eigenvalues", settings.eigenvalues, remedy)
    count = len(subject.samples(settings))
    critical_time, censored = np.full(count, UNKNOWN, np.int64), np.zeros(count, bool)
    if times is not None:
        _, known = first_read(times, load_times)
        check_same_samples(settings, subject, known, times)
        n = min(count, len(known.critical_time))
        critical_time[:n], censored[:n] = known.critical_time[:n], known.censored[:n]
    mode = "lanczos" if ends else "full"
    return Method(settings, dim, mode, points, critical_time, censored)


def times_files(settings: CurvatureOptions) -> dict[int, Path]:
    """The critical times of --times-path by K; none where it is not set."""
    if settings.times_path is None:
        return {}
    remedy = "give a folder that run_critical_times.py wrote, as times/memorized"
    return k_files(settings.times_path, ".npz", "--times-path", remedy)


def check_same_samples(
    settings: CurvatureOptions, subject: Subject, times: Times, path: Path
) -> None:
    """Raises UserError where the critical times are those of other samples."""
    count = replace(settings, sample_size=len(times.critical_time))
    samples = times.args.get("critical_times", {}).get("samples")
    same = samples == digest(subject.samples(count))
    if not same or times.scanned[-1] >= subject.args["train"]["timesteps"]:
        remedy = "give the critical times of the same samples"
        raise UserError(f"--times-path {path}", "critical times of other samples", remedy)


def measure(
    denoiser: Denoiser, samples: Tensor, method: Method, name: str
) -> dict[str, np.ndarray]:
    """The arrays of a Curvature. Raises UserError where the model's numbers are of no use."""
    times = method.settings.t
    points = list(itertools.product(range(len(samples)), times))
    parts, bundles = [], []
    keys = [image_key(image) for image in samples]
    x = for_derivatives(denoiser, samples)
    progress_bar = progress(total=len(points), unit="point", desc=name)
    with usable_numbers(f"model of {name}"), progress_bar as bar:
        for start in range(0, len(points), method.points_at_once):
            group = points[start : start + method.points_at_once]
            parts.append(spectra(denoiser, x, group, keys, method))
            bundles += [dimension(denoiser, x[i], keys[i], t, method) for i, t in group]
            bar.update(len(group))
    grid = len(samples), len(times)
    values = {
        name: torch.cat([getattr(part, name) for part in parts]).numpy()
        for name in Curvatures.__dataclass_fields__
    }
    return {
        **{name: array.reshape(*grid, *array.shape[1:]) for name, array in values.items()},
        "t": np.array(times, np.int64),
        "normal_bundle": np.array(bundles, np.int64).reshape(grid),
        "critical_time": method.critical_time,
        "censored": method.censored,
    }


def for_derivatives(denoiser: Denoiser, samples: Tensor) -> Tensor:
    """The samples on the device and in the format in which the denoiser is differentiated."""
    if isinstance(denoiser, ClosedForm):  # MPS has no float64: it takes it from the CPU
        device = torch.device("cpu") if denoiser.device.type == "mps" else denoiser.device
        return samples.double().to(device)
    return samples.to(denoiser.device)


def spectra(
    denoiser: Denoiser, x: Tensor, group: list[tuple[int, int]], keys: list[str], method: Method
) -> Curvatures:
    """The curvatures at a group of points: samples i at times t."""
    settings, t = method.settings, torch.tensor([t for _, t in group])
    x_t = points_at(x[[i for i, _ in group]], t, denoiser)
    field = Field(denoiser, x_t, t, settings.batch_size)
    if method.mode == "full":
        return full_curvatures(field)
    starts, probes = (
        seeded(((settings.seed, name, keys[i], t) for i, t in group), (rows, method.dim))
        for name, rows in (("start", settings.eigenvalues), ("probe", settings.probes))
    )
    signs = torch.where(probes < 0, -1.0, 1.0)
    return end_curvatures(field, starts, signs, settings.tolerance, largest_basis(method.dim))


def dimension(denoiser: Denoiser, image: Tensor, key: str, t: int, method: Method) -> int:
    """The normal-bundle dimension at a sample, UNKNOWN where it was not asked for."""
    if not method.normal_points:
        return UNKNOWN
    return normal_bundle(denoiser, image, t, noises(denoiser.shape, key, t, method))


def noises(shape: tuple[int, ...], key: str, t: int, method: Method) -> Iterator[Tensor]:
    """Noise around a sample, --batch-size rows at most: row i depends on the seed, the sample,
    the time and i alone."""
    for start in range(0, method.normal_points, method.settings.batch_size):
        rows = range(start, min(start + method.settings.batch_size, method.normal_points))
        yield seeded(((method.settings.seed, "normal", key, t, i) for i in rows), shape)


def seeded(names: Iterable[tuple], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise: one row of this shape for each name, which it depends on alone."""
    return SeededNoise([mix(*name) for name in names], shape).draw()
