"""The options that made a file: `args`, passed from stage to stage, and compared on a rerun."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from utils.cli.errors import UserError
from utils.cli.options.choices import SHIPPED
from utils.cli.options.sections import SECTIONS, known_only
from utils.cli.options.training import MachineOptions
from utils.cli.progress import print_once
from utils.files.arrays import read_npz
from utils.files.k_files import k_of
from utils.files.pickles import plain

# Options that change the speed, or where things lie, but not what a file holds.
EXEMPT = {
    *("iterations", "log_every", "ckpt_every", "keep_checkpoints", "num_workers", "compile"),
    *("tracker", "model"),
    *("batch_size", "eval_batch_size", "ref_batch_size", "memory", "num_files"),
    *("data_path", "results_path", "result_path", "model_path", "ckpt_path", "synth_path"),
    *("dist_path", "eval_path", "valid_size", "sample_path", "ref_path"),
    *("lpips_weights", "metric_weights"),
    *("times_path", "identified_path", "second_synth_path", "checkpoints", "second_checkpoints"),
}

ELSEWHERE = {
    *("data_name", "train", "train_size", "global_seed", "centercrop"),
    *("samples_range", "samples_layout", "ref_range"),
}


def to_plain(options: Any) -> dict[str, Any]:
    """An option section as plain values: paths as strings, tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(options), default=str))


def stage_section(options: Any, without: Iterable[str] = ()) -> dict[str, Any]:
    """The options of a stage as `args` store them: without those that say what samples and models
    made elsewhere are of, which the sections data, train and model hold."""
    left_out = {*without, *ELSEWHERE}
    values = to_plain(options)
    if isinstance(options, MachineOptions):
        values |= options.stored_machine()
    return {name: value for name, value in values.items() if name not in left_out}


def resolve_args(args: Any, path: Path) -> dict[str, Any]:
    """The args of a file with every known option of data, train and model filled in.

    Raises UserError where they have no such sections or impossible values."""
    args = plain(args, f"{path}: args")
    if not isinstance(args, Mapping) or not isinstance(args.get("train"), Mapping):
        raise UserError(path, "no options of a training run in args", "use a file of these stages")
    result = dict(args)
    for name in SECTIONS:
        if not isinstance(args.get(name, {}), Mapping):
            raise UserError(f"{path}: args", f"{name} without options", "use another file")
    for name in ("data", "train", "model"):
        values = args.get(name, {})
        kind = SECTIONS[name]
        try:
            values = known_only(kind, dict(values))
            for key in ("dim_mults", "attn_resolutions"):
                if isinstance(values.get(key), str):  # as the original's command line left it
                    values[key] = [int(n) for n in values[key].split(",")]
            check_kinds(kind, values)
            result[name] = to_plain(kind(**values))
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path}: args: {name}", str(error), "use another file") from error
        except UserError as error:
            raise UserError(f"{path}: args: {name}", str(error), "use another file") from error
    if result["data"]["data_name"] not in SHIPPED:
        result["data"]["data_path"] = found_data_path(result["data"]["data_path"], Path(path))
    return result


def found_data_path(data_path: str, path: Path) -> str:
    """The folder of the data sets that a file at path names, if need be from another folder.

    A relative one is of the folder that the training was started in. Where it is not below the
    current folder, it is looked for below the folders above the file; what is there once is taken,
    and a line says so. Otherwise it stays as it is, and is missed when images are read."""
    if os.path.isabs(data_path) or os.path.isdir(os.path.expanduser(data_path)):
        return data_path
    places = {os.path.realpath(above / data_path) for above in path.absolute().parents}
    existing = [place for place in places if os.path.isdir(place)]
    if len(existing) != 1:
        return data_path
    print_once(f"data path {data_path}: {existing[0]}, since it is not below this folder")
    return os.path.relpath(existing[0])


def differing(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a section of args that are not at our default; all of an unknown section."""
    usual = to_plain(SECTIONS[section]()) if section in SECTIONS else {}
    return {name: x for name, x in values.items() if name not in usual or x != usual[name]}


def check_kinds(options_class: type, values: Mapping[str, Any]) -> None:
    """Raises TypeError where a value is of another kind than its option: a file may hold any."""
    for name, hint in get_type_hints(options_class).items():
        if name not in values:
            continue
        value, kinds = values[name], get_args(hint) if get_origin(hint) is UnionType else (hint,)
        if value is None:
            fits = type(None) in kinds
        elif get_origin(hint) is tuple:
            fits = isinstance(value, list) and all(type(item) is int for item in value)
        else:
            stored = {float: (int, float), Path: (str,)}.get(kinds[0], (kinds[0],))
            fits = type(value) in stored
        if not fits:
            raise TypeError(f"{name} {value!r}")


def read_args(arrays: Mapping[str, np.ndarray], path: Path) -> Any:
    """The args of a .npz file as they stand there. Raises UserError where they are no JSON."""
    try:
        return json.loads(str(arrays["args"][()]))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: args", "no JSON", "use a file of these stages") from error


def parse_args(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, Any]:
    """The resolved args of a .npz file. Raises UserError where they are no JSON of ours."""
    return resolve_named(read_args(arrays, path), path)


def resolve_named(args: Any, path: Path) -> dict[str, Any]:
    """`resolve_args` of a file whose name must be the K of its args, if it is a K."""
    args = resolve_args(args, path)
    k, named = k_of(path), args["train"]["train_size"]
    if k is not None and k != named:
        raise UserError(path, f"args of K = {named}", f"name it {named}{path.suffix}")
    return args


def with_data_path(args: Mapping, data_path: Path | None) -> dict[str, Any]:
    """args with another folder of the data sets, unless data_path is None."""
    if data_path is None:
        return dict(args)
    return {**args, "data": {**args["data"], "data_path": str(data_path)}}


def digest(*arrays: Any) -> str:
    """16 hex digits that stand for the content of arrays (sha256)."""
    sha = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        sha.update(f"{array.dtype}{array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()[:16]


def difference(stored: Mapping, wanted: Mapping) -> str | None:
    """The first option, other than the exempt, on which a finished file and a run differ."""
    stored = stored if isinstance(stored, Mapping) else {}  # a file may hold anything there
    for key, value in wanted.items():
        if key not in EXEMPT and stored.get(key) != value:
            return f"{key.replace('_', '-')} {stored.get(key)!r} (now {value!r})"
    return None


def is_finished(
    path: Path,
    args: Mapping,
    stages: Iterable[str],
    keys: Iterable[str],
    redo_changed: bool = False,
) -> bool:
    """Whether path holds the result of the same options; a missing file is False.

    Raises UserError where it was made with others (redo_changed: False then), or by another
    stage or version, so that a key is absent."""
    if not path.exists():
        return False
    remedy = "delete it, redo it with --overwrite, or choose another folder"
    stored = parse_args(read_npz(path, [*keys, "args"], remedy), path)
    return check_same(path, stored, args, stages, redo_changed)


def check_same(
    path: Path, stored: Mapping, args: Mapping, stages: Iterable[str], redo_changed: bool = False
) -> bool:
    """Whether path was made with the options of a run. Raises UserError where it was not
    (redo_changed: False then)."""
    for stage in stages:
        if changed := difference(stored.get(stage, {}), args.get(stage, {})):
            if redo_changed:
                return False
            remedy = "redo it with --overwrite, or choose another folder"
            raise UserError(path, f"a file made with {stage}: {changed}", remedy)
    return True
