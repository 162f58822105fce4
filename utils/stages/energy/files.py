"""energies/CLASS/K.npz."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.files.arrays import read_npz, save_npz
from utils.files.provenance import parse_args


@dataclass(frozen=True)
class Energies:
    """energies/K.npz: relative energies float32 [R, n] of n samples against R references.

    difference [R, n]: how far the path integral is from that of half as many points; with the
    exact model, whose potential is the closed form, how far it is from that."""

    potential: np.ndarray
    difference: np.ndarray
    args: dict[str, Any]


def save_energies(path: Path, energies: Energies) -> None:
    arrays = {"potential": energies.potential, "path-difference": energies.difference}
    save_npz(path, **arrays, args=json.dumps(energies.args))


def load_energies(path: Path) -> Energies:
    """energies/K.npz, checked. Raises UserError naming what is wrong with it."""
    arrays = read_npz(path, ("potential", "path-difference", "args"))
    args = parse_args(arrays, path)
    potential, difference = arrays["potential"], arrays["path-difference"]
    sound = potential.ndim == 2 and potential.size and potential.shape == difference.shape
    for key, values in (("potential", potential), ("path-difference", difference)):
        if not sound or values.dtype.kind != "f" or not np.isfinite(values).all():
            found = f"{key} {values.dtype} {list(values.shape)}, or NaN in it"
            raise UserError(path, found, "run run_energy.py again with --overwrite")
    return Energies(potential, difference, args)
