"""Files that are named by the training-set size K: K.pt and K.npz."""

from __future__ import annotations

from pathlib import Path

from utils.cli.errors import UserError


def k_of(path: Path) -> int | None:
    """The K of a K-named file: `k_of(Path("models/16.pt")) == 16`; None for other names."""
    stem = path.stem
    return int(stem) if stem.isascii() and stem.isdecimal() and int(stem) > 0 else None


def k_named(folder: Path, suffix: str = ".npz") -> dict[int, Path]:
    """The K-named files of a folder by K, ascending; none where there is no such folder."""
    paths = {k_of(path): path for path in sorted(Path(folder).glob(f"*{suffix}"))}
    return {k: paths[k] for k in sorted(k for k in paths if k is not None)}


def k_files(folder: Path, suffix: str, flag: str, remedy: str) -> dict[int, Path]:
    """The K-named files of folder, by K. Raises UserError (naming flag) where there are none."""
    folder = Path(folder)
    where = f"{flag} {folder}"
    if not folder.is_dir():
        problem = "a file" if folder.exists() else "no such folder"
        raise UserError(where, problem, remedy)
    try:
        files = k_named(folder, suffix)
    except OSError as error:
        raise UserError(where, str(error), "choose a folder that you may read") from error
    if not files:
        raise UserError(where, f"no K{suffix}", remedy)
    return files
