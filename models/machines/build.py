"""A denoiser in closed form by its name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from models.closed_form import ClosedForm
from models.exact import ExactDenoiser
from models.machines.equivariant import EquivariantDenoiser
from models.machines.local import LocalDenoiser, PcaLocalDenoiser
from models.machines.wiener import WienerDenoiser
from models.schedule import Schedule

WHOLE = {"exact": ExactDenoiser, "wiener": WienerDenoiser}
PATCHED = {
    "local": LocalDenoiser,
    "equivariant": EquivariantDenoiser,
    "pca-local": PcaLocalDenoiser,
}


def build_machine(
    name: str,
    patterns: Tensor,
    schedule: Schedule,
    sides: int | Mapping[int, int] | None = None,
    most_patches: int | None = None,
) -> ClosedForm:
    """The machine of K patterns [K, C, H, W]: exact, wiener, local, equivariant or pca-local.

    sides: patch side, or {t: side}, of the last three; most_patches: of equivariant. Raises
    ValueError for another name, and where sides are missing."""
    if name in WHOLE:
        return WHOLE[name](patterns, schedule)
    if name not in PATCHED:
        names = ", ".join([*WHOLE, *PATCHED])
        raise ValueError(f"machine: found {name!r}; choose {names}")
    if sides is None:
        raise ValueError(f"sides: found none; {name} needs a patch side")
    more = {"most_patches": most_patches} if name == "equivariant" else {}
    return PATCHED[name](patterns, schedule, sides, **more)
