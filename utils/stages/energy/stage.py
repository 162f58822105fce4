"""The work of run_energy.py: how deep samples lie below reference images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.exact import ExactDenoiser
from utils.cli.options.checks import required
from utils.cli.options.sections import EnergyOptions, EnergyStage
from utils.cli.progress import progress
from utils.files.atomic import check_writable
from utils.files.provenance import digest, is_finished
from utils.inputs.denoisers import check_times, unsound
from utils.inputs.samples import load_references
from utils.inputs.subjects import Subject, own_args, plan_subjects
from utils.jobs.devices import float32_for_auto, prepare
from utils.jobs.k_jobs import Job, print_plan, work_through
from utils.stages.energy.files import Energies, save_energies
from utils.stages.energy.overview import show_energies
from utils.stages.energy.path_integral import (
    energy,
    energy_gradient,
    gauss_rule,
    path_integrals,
    published_gradient,
    published_rule,
)

STAGES = ("data", "train", "model", "energy")
KEYS = ("potential", "path-difference")
DOUBTFUL = 0.05  # a median difference to half as many points beyond which more are advised


def run(options: EnergyStage, again: bool = False) -> None:
    """Write energies/K.npz for each K of the slice, and their figure.

    again redoes a K that was made with other options or samples; else it is refused."""
    given = with_result_path(options.energy)
    device = prepare(options.run)
    ref_path = Path(required(given, "ref_path"))
    subjects = {s.job: s for s in plan_subjects(given, options.slice, options)}
    # Read once, and kept: every K is measured against the same images.
    shapes = {s.shape for s in subjects.values()}
    references = {shape: load_references(ref_path, shape) for shape in shapes}
    args = {job: wanted_args(given, s, references[s.shape]) for job, s in subjects.items()}
    if options.run.dry_run or not subjects:
        print_plan(subjects, options.run.overwrite)
        return
    check_writable(Path(given.result_path))

    def done(job: Job) -> bool:
        return is_finished(job.target, args[job], STAGES, KEYS, again)

    for job in work_through(list(subjects), done, options.run.overwrite):
        subject = subjects[job]
        denoiser = subject.model.denoiser(device, float32_for_auto(options.run.precision))
        samples = torch.from_numpy(subject.samples(given))
        found = relative_energies(denoiser, samples, references[subject.shape], given, job.k)
        save_energies(job.target, Energies(*found, args[job]))
    show_energies(Path(given.result_path))


def with_result_path(given: EnergyOptions) -> EnergyOptions:
    """The options with --result-path, by default a folder `energies` beside --ckpt-path."""
    if given.result_path is None and given.ckpt_path is not None:
        return replace(given, result_path=Path(given.ckpt_path).absolute().parent / "energies")
    return given


def wanted_args(given: EnergyOptions, subject: Subject, references: np.ndarray) -> dict[str, Any]:
    """What energies/K.npz will carry. Raises UserError where the model has no time --t."""
    check_times(subject.args, [given.t])
    own = {**own_args(given, subject), "references": digest(references)}
    return {**subject.args, "energy": own}


def relative_energies(
    denoiser: Denoiser, samples: Tensor, references: np.ndarray, given: EnergyOptions, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """potential and path-difference of energies/K.npz, float32 [R, n].

    Raises UserError where the model's forces are not finite."""
    samples, others = (x.to(denoiser.device) for x in (samples, torch.from_numpy(references)))
    if given.as_published:
        gradient, rule = published_gradient(denoiser), published_rule()
    else:
        gradient, rule = energy_gradient(denoiser, given.t), gauss_rule(given.path_points)
    total = len(samples) * len(others) * len(rule.nodes)
    try:
        with progress(total=total, unit="point", desc=f"K = {k}") as bar:
            path, half = path_integrals(
                gradient, samples, others, rule, given.batch_size, bar.update
            )
    except ValueError as error:
        raise unsound(k, str(error)) from error
    if isinstance(denoiser, ExactDenoiser) and not given.as_published:
        u_x, u_r = (exact_energies(denoiser, x, given) for x in (samples, others))
        potential = u_r[:, None] - u_x[None]  # [R, n]
        difference = path - potential
    else:
        potential = path
        difference = np.zeros_like(path) if half is None else path - half
        # From an image to itself there is nothing to integrate but rounding.
        apart = [(samples != other).flatten(1).any(1) for other in others]
        apart = torch.stack(apart).cpu().numpy()  # [R, n]
        if half is not None and apart.any():
            tell_doubt(path[apart], difference[apart], given.path_points)
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused just below
        found = potential.astype(np.float32), difference.astype(np.float32)
    if not all(np.isfinite(values).all() for values in found):
        raise unsound(k, "energies beyond the range of float32")
    return found


def exact_energies(denoiser: ExactDenoiser, x: Tensor, given: EnergyOptions) -> np.ndarray:
    """u(x, t) of the exact model, float64 [n], in closed form."""
    log_density = [denoiser.log_density(part, given.t) for part in x.split(given.batch_size)]
    beta = denoiser.schedule.beta[given.t].item()
    return energy(torch.cat(log_density), x, beta).cpu().numpy()


def tell_doubt(path: np.ndarray, difference: np.ndarray, points: int) -> None:
    """Say where half as many points would have given another answer."""
    doubt = float(np.median(np.abs(difference)) / max(np.median(np.abs(path)), 1e-30))
    if doubt > DOUBTFUL:
        told = f"differs by {100 * doubt:.2g} % from that of half as many"
        print(f"--path-points {points}: the path integral {told}; choose {2 * points}")
