"""The work of run_energy.py: the energy of samples relative to reference images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.exact import ExactDenoiser
from models.machines.wiener import WienerDenoiser
from utils.cli.options.checks import required
from utils.cli.options.choices import PATCH_MACHINES
from utils.cli.options.sections import EnergyOptions, EnergyStage
from utils.cli.progress import print_once, progress
from utils.data.sources.arrays import Range
from utils.files.provenance import digest, is_finished
from utils.inputs.denoisers import check_times, unusable_model, usable_numbers
from utils.inputs.samples import load_references
from utils.inputs.subjects import Subject, plan_subjects
from utils.jobs.devices import float32_for_auto, prepare
from utils.jobs.k_jobs import is_to_run, work_through
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
WITH_DENSITY = ExactDenoiser, WienerDenoiser  # closed forms with a log p_t
DOUBTFUL = 0.05  # a median difference to half as many points beyond which more are advised


def run(options: EnergyStage, redo_changed: bool = False) -> None:
    """Write energies/K.npz for each K of the slice, and their figure.

    redo_changed redoes a K that was made with other options or samples; else it is refused."""
    settings = with_result_path(options.energy)
    device = prepare(options.run)
    ref_path = Path(required(settings, "ref_path"))
    subjects = plan_subjects(settings, options.slice, options)
    # Read once, and kept: every K is measured against the same images.
    shapes = {subject.model.shape for subject in subjects}
    text = settings.ref_range
    values = None if text is None else Range.parse(text, "--ref-range")
    references = {shape: load_references(ref_path, shape, values) for shape in shapes}
    for subject in subjects:
        check_times(subject.args, [settings.t])
    jobs = [
        s.with_section("energy", settings, references=digest(references[s.model.shape]))
        for s in subjects
    ]

    def is_done(job: Subject) -> bool:
        return is_finished(job.target, job.args, STAGES, KEYS, redo_changed)

    if not is_to_run(jobs, options.run):
        return
    if settings.machine in PATCH_MACHINES:
        problem = "its score is not a gradient: relative energies depend on the path"
        print_once(f"--machine {settings.machine}: {problem}, here cos(a) x + sin(a) r")
    for job in work_through(jobs, is_done, options.run.overwrite):
        denoiser = job.model.denoiser(
            device, float32_for_auto(options.run.precision), label=settings.label
        )
        samples = torch.from_numpy(job.samples(settings))
        others = references[job.model.shape]
        arrays = relative_energies(denoiser, samples, others, settings, job.k)
        save_energies(job.target, Energies(*arrays, job.args))
    show_energies(Path(settings.result_path))


def with_result_path(settings: EnergyOptions) -> EnergyOptions:
    """The options with --result-path, by default a folder `energies` beside --ckpt-path."""
    if settings.result_path is None and settings.ckpt_path is not None:
        folder = Path(settings.ckpt_path).absolute().parent / "energies"
        return replace(settings, result_path=folder)
    return settings


def relative_energies(
    denoiser: Denoiser, samples: Tensor, references: np.ndarray, settings: EnergyOptions, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """potential and path-difference of energies/K.npz, float32 [R, n].

    Raises UserError where the model's forces are not finite."""
    samples, others = (x.to(denoiser.device) for x in (samples, torch.from_numpy(references)))
    if settings.as_published:
        gradient, rule = published_gradient(denoiser), published_rule()
    else:
        gradient, rule = energy_gradient(denoiser, settings.t), gauss_rule(settings.path_points)
    total = len(samples) * len(others) * len(rule.nodes)
    name = f"model of K = {k}"
    with usable_numbers(name), progress(total=total, unit="point", desc=f"K = {k}") as bar:
        path, half = path_integrals(
            gradient, samples, others, rule, settings.batch_size, bar.update
        )
    if isinstance(denoiser, WITH_DENSITY) and not settings.as_published:
        u_x, u_r = (energies_of_density(denoiser, x, settings) for x in (samples, others))
        potential = u_r[:, None] - u_x[None]  # [R, n]
        difference = path - potential
    else:
        potential = path
        difference = np.zeros_like(path) if half is None else path - half
        # From an image to itself there is nothing to integrate but rounding.
        apart = [(samples != other).flatten(1).any(1) for other in others]
        apart = torch.stack(apart).cpu().numpy()  # [R, n]
        if half is not None and apart.any():
            print_doubt(path[apart], difference[apart], settings.path_points)
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused just below
        result = potential.astype(np.float32), difference.astype(np.float32)
    if not all(np.isfinite(values).all() for values in result):
        raise unusable_model(name, "energies beyond the range of float32")
    return result


def energies_of_density(
    denoiser: ExactDenoiser | WienerDenoiser, x: Tensor, settings: EnergyOptions
) -> np.ndarray:
    """u(x, t), float64 [n], in closed form."""
    log_density = [denoiser.log_density(part, settings.t) for part in x.split(settings.batch_size)]
    beta = denoiser.schedule.beta[settings.t].item()
    return energy(torch.cat(log_density), x, beta).cpu().numpy()


def print_doubt(path: np.ndarray, difference: np.ndarray, points: int) -> None:
    """Say where half as many points would have settings another answer."""
    doubt = float(np.median(np.abs(difference)) / max(np.median(np.abs(path)), 1e-30))
    if doubt > DOUBTFUL:
        change = f"differs by {100 * doubt:.2g} % from that of half as many"
        print(f"--path-points {points}: the path integral {change}; choose {2 * points}")
