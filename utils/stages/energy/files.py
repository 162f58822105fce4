"""energies/CLASS/K.npz: what run_energy.py writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.files.arrays import read_npz, save_npz
from utils.files.provenance import parse_args
from utils.files.schema import Array, check_arrays

SCHEMA = {key: Array("f", ("references", "samples")) for key in ("potential", "path-difference")}


@dataclass(frozen=True)
class Energies:
    """energies/K.npz: relative energies float32 [R, n] of n samples against R references.

    difference [R, n]: the path integral minus that with half as many points; where the
    potential is a closed form (--exact, --machine wiener), the path integral minus that."""

    potential: np.ndarray
    difference: np.ndarray
    args: dict[str, Any]


def save_energies(path: Path, energies: Energies) -> None:
    arrays = {"potential": energies.potential, "path-difference": energies.difference}
    save_npz(path, **arrays, args=json.dumps(energies.args))


def load_energies(path: Path) -> Energies:
    """energies/K.npz, checked. Raises UserError naming what is wrong with it."""
    arrays = read_npz(path, (*SCHEMA, "args"))
    args = parse_args(arrays, path)
    check_arrays(arrays, SCHEMA, path, "run run_energy.py again with --overwrite")
    return Energies(*(arrays[key] for key in SCHEMA), args)
