"""Ways to damage a file: of its bytes from a seed, of its content as hypothesis draws it."""

from __future__ import annotations

import copy
import io
import json
import struct
import warnings
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch
from hypothesis import note
from hypothesis import strategies as st

from tests.helpers.formats import archive_of, inside, members_of, npy

NUMBERS = (
    *(float("nan"), float("inf"), float("-inf"), 1e38, -1e38, -0.0, 1.0011, -1.0011, 1e-40, 1e30),
    *(-1, -2, 0, 1, 7, 8, 2**31, 2**62, -(2**63)),
)
# Of options: absurd, of another kind, or only just out of range. None of them names a data set
# that would be downloaded, and none asks for honest work without end.
VALUES = (
    *(10**12, 10**15, 10**30, -1, 0, 1, 9, 1.5, 1e308, float("nan"), float("inf"), -float("inf")),
    *(True, None, "", "x", "1,2", "1," * 500_000, "é\0\n", "9" * 5000, "[" * 5000),
    *([], {}, [[]], [1], [1, 1], [-1], [0], [10**12], {"x": {"x": 1}}, {"": []}),
    [1] * 10**6,
)
TYPES = (
    *("f8", "f4", "f2", ">f4", ">f8", "i1", "i2", "i8", ">i8", "u1", "u8", "c8", "?"),
    *("U4", "S4", "V4", "M8[s]", "m8[D]", "O"),
)
CLAIMS = (  # shapes that a header tells of, where there are a few bytes
    *("(1000000000000, 1, 8, 8)", "(1000000000000,)", "(1000000000000, 0)", "(0, 1000000000000)"),
    *("(9223372036854775807,)", "(-1, 4)", "(2,)", "()", "(1, 2, 3, 4, 5, 6, 7, 8, 9)"),
    "(1000000000000, 0, 1, 8, 8)",
)


def flipped(data: bytes, chance: Random, times: int) -> bytes:
    changed = bytearray(data)
    for _ in range(times):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def inserted(data: bytes, chance: Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + chance.randbytes(chance.randrange(1, 9)) + data[place:]


def removed(data: bytes, chance: Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + data[place + chance.randrange(1, 9) :]


def repeated(data: bytes, chance: Random) -> bytes:
    place = chance.randrange(len(data))
    part = data[place : place + chance.randrange(1, 9)]
    return data[:place] + part * chance.choice((2, 100)) + data[place:]


def swapped(data: bytes, chance: Random) -> bytes:
    members = members_of(data)
    if len(members) < 2:
        return doubled(data, chance)
    i, j = chance.sample(range(len(members)), 2)
    (a, x), (b, y) = members[i], members[j]
    members[i], members[j] = (a, y), (b, x)
    return archive_of(members)


def doubled(data: bytes, chance: Random) -> bytes:
    members = members_of(data)
    name, content = chance.choice(members)
    return archive_of([*members, (name, flipped(content or b"x", chance, 1))])


def claimed(data: bytes, chance: Random) -> bytes:
    """A size, or an offset, of a member's headers is another one."""
    marks = {b"PK\x01\x02": (20, 24, 42), b"PK\x03\x04": (18, 22), b"PK\x05\x06": (8, 12, 16)}
    mark = chance.choice(list(marks))
    places = [i for i in range(len(data)) if data.startswith(mark, i)]
    place = chance.choice(places) + chance.choice(marks[mark])
    size = chance.choice([0, 1, 2**16, 2**30, 2**31 - 1, 2**32 - 1])
    return data[:place] + struct.pack("<I", size) + data[place + 4 :]


Mutation = Callable[[bytes, Random], bytes]
BYTES: dict[str, Mutation] = {  # of any file that is not empty
    "one bit": lambda data, chance: flipped(data, chance, 1),
    "many bits": lambda data, chance: flipped(data, chance, chance.randrange(2, 50)),
    "truncated": lambda data, chance: data[: chance.randrange(len(data))],
    "inserted": inserted,
    "removed": removed,
    "repeated": repeated,
}
ARCHIVES: dict[str, Mutation] = {  # of a zip archive
    "members swapped": swapped,
    "a member twice": doubled,
    "sizes claimed": claimed,
}
INSIDE: dict[str, Mutation] = {  # of an archive's pickle or options; it stays a sound archive
    f"{name} inside": lambda data, chance, change=change: inside(data, lambda d: change(d, chance))
    for name, change in BYTES.items()
}
MUTATIONS = {**BYTES, **ARCHIVES, **INSIDE}


@st.composite
def bytes_changed(draw: st.DrawFn, data: bytes, kinds: dict[str, Mutation] = BYTES) -> bytes:
    """The bytes changed in one of these ways."""
    how, seed = draw(st.sampled_from(sorted(kinds))), draw(st.integers(0, 2**32 - 1))
    note(f"bytes: {how}, seed {seed}")
    return kinds[how](data, Random(seed)) if data else data


@st.composite
def options_changed(draw: st.DrawFn, options: Any, depth: int = 0) -> Any:
    """One of the options (or a row's values), at any depth, is another one or has gone."""
    inside = options.items() if isinstance(options, dict) else ()
    deeper = [key for key, value in inside if isinstance(value, dict) and value]
    options = copy.deepcopy(options)
    if not isinstance(options, dict) or not options:
        return _noted("all options", draw(st.sampled_from(VALUES)))
    how = draw(st.sampled_from(("value", "inside", "inside", "inside", "drop", "whole")))
    if how == "inside" and deeper:
        key = draw(st.sampled_from(deeper))
        options[key] = draw(options_changed(options[key], depth + 1))
        return options
    if how == "whole" and not depth:
        return _noted("all options", draw(st.sampled_from(VALUES)))
    key = draw(st.sampled_from(sorted(options)))
    if how == "drop":
        del options[key]
    else:
        options[key] = draw(st.sampled_from(VALUES))
    note(f"options: {how} {key}: {shown(options.get(key))}")
    return options


@st.composite
def keys_changed(draw: st.DrawFn, content: dict) -> dict:
    """Two keys swapped, or one dropped or renamed."""
    content, key = dict(content), draw(st.sampled_from(sorted(content)))
    how = draw(st.sampled_from(("swap", "drop", "rename", "add")))
    if how == "add":
        return {**content, "more": content[key]}
    other = draw(st.sampled_from(sorted(content))) if how == "swap" else "renamed"
    note(f"keys: {how} {key} {other}")
    value = content.pop(key)
    if how == "swap" and other != key:
        content[key] = content.pop(other)
    return content if how == "drop" else {**content, other: value}


@st.composite
def array_changed(draw: st.DrawFn, array: np.ndarray) -> np.ndarray:
    """The array in another type or shape, or with another number somewhere."""
    how = draw(st.sampled_from(("type", "shape", "value", "value")))
    note(f"array of {array.dtype} {list(array.shape)}: {how}")
    if how == "type":
        kind = np.dtype(draw(st.sampled_from(TYPES)))
        note(f"now {kind}")
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                return array.astype(kind)
            except (TypeError, ValueError):
                return np.zeros(array.shape, kind)
    if how == "shape":
        shapes = [array[None], array[..., None], array.T, array.ravel(), array.ravel()[:0]]
        if array.ndim:
            shapes += [array[:-1], array[:0], np.concatenate([array, array[:1]]), array[..., :0]]
            shapes += [array[..., :-1], array[0], np.asfortranarray(array), array[::-1]]
        result = draw(st.sampled_from(shapes))
        note(f"now {list(result.shape)}")
        return result
    if array.dtype.kind not in "iufb" or not array.size:
        return np.array(draw(st.sampled_from(("", "x", "alex", "\n"))))
    changed = array.copy()
    places = draw(st.lists(st.integers(0, array.size - 1), min_size=1, max_size=2))
    for place in places:
        value = draw(st.sampled_from(NUMBERS))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            whole = array.dtype.kind in "iu"
            if whole and (np.isnan(value) or abs(value) >= 2**63):
                value = 2**40
            note(f"now {value} at {place}")
            changed.flat[place] = np.asarray(value).astype(array.dtype)
    return changed


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@st.composite
def npz_changed(draw: st.DrawFn, data: bytes) -> bytes:
    """A .npz that is spoilt as bytes, as an archive, as arrays or as options."""
    how = draw(st.sampled_from(("bytes", "member", "header", "keys", "array", "array", "args")))
    if how == "bytes":
        return draw(bytes_changed(data, {**BYTES, **ARCHIVES}))
    members = members_of(data)
    if how in ("member", "header"):
        place = draw(st.integers(0, len(members) - 1))
        name, content = members[place]
        claim = npy(draw(st.sampled_from(CLAIMS)), f"'{draw(st.sampled_from(TYPES))}'", b"1234")
        empty = npy(draw(st.sampled_from(CLAIMS)), f"'{draw(st.sampled_from(TYPES))}'", b"")
        spoilt = draw(st.sampled_from((claim, empty)))
        spoilt = draw(bytes_changed(content)) if how == "member" else spoilt
        note(f"{name}: {how}, {spoilt[:150]!r}")
        members[place] = name, spoilt
        return archive_of(members)
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    if how == "keys":
        return npz_bytes(draw(keys_changed(arrays)))
    if how == "args" and "args" in arrays:
        told = draw(options_changed(json.loads(str(arrays["args"]))))
        return npz_bytes({**arrays, "args": np.array(json.dumps(told))})
    key = draw(st.sampled_from(sorted(set(arrays) - {"args"})))
    note(f"array {key}")
    return npz_bytes({**arrays, key: draw(array_changed(arrays[key]))})


@st.composite
def npy_changed(draw: st.DrawFn, data: bytes) -> bytes:
    """One array, without an archive and its checksums around it."""
    how = draw(st.sampled_from(("bytes", "header", "array")))
    if how == "bytes":
        return draw(bytes_changed(data))
    if how == "header":
        return npy(draw(st.sampled_from(CLAIMS)), f"'{draw(st.sampled_from(TYPES))}'", b"1234")
    file, array = io.BytesIO(), np.load(io.BytesIO(data))
    if array.dtype.names:  # an array of one record
        array = array[draw(st.sampled_from(array.dtype.names))]
    np.save(file, draw(array_changed(array)))
    return file.getvalue()


@st.composite
def tensors_changed(draw: st.DrawFn, state: dict) -> dict:
    """A state dict, or Adam's state, with one of its tensors changed."""
    deeper = [key for key, value in state.items() if isinstance(value, dict) and value]
    tensors = [key for key, value in state.items() if isinstance(value, torch.Tensor)]
    if deeper and (not tensors or draw(st.booleans())):
        key = draw(st.sampled_from(deeper))
        return {**state, key: draw(tensors_changed(state[key]))}
    if not tensors:
        return draw(st.sampled_from(({}, None, 3, {"x": {}}, {1: torch.ones(1)})))
    key = draw(st.sampled_from(tensors))
    how = draw(st.sampled_from(("array", "drop", "endless", "type")))
    note(f"tensor {key}: {how}")
    if how == "drop":
        return {name: value for name, value in state.items() if name != key}
    value = state[key]
    if how == "array":
        array = draw(array_changed(value.numpy()))
        native = array.dtype.kind in "iufbc" and array.dtype.isnative
        value = torch.from_numpy(np.ascontiguousarray(array)) if native else str(array.dtype)
    elif how == "endless":  # one number, and strides of 0
        value = torch.zeros(1).expand(10**12)
    else:
        kinds = (torch.bfloat16, torch.float16, torch.complex64, torch.bool, torch.int8)
        value = value.to(draw(st.sampled_from(kinds)))
    return {**state, key: value}


@st.composite
def pt_changed(draw: st.DrawFn, data: bytes) -> bytes:
    """A checkpoint that is spoilt as bytes, in its pickle, as tensors or as options."""
    how = draw(st.sampled_from(("bytes", "member", "keys", "args", "tensors", "tensors", "value")))
    if how == "bytes":
        return draw(bytes_changed(data, {**BYTES, **ARCHIVES}))
    if how == "member":
        members = members_of(data)
        place = draw(st.integers(0, len(members) - 1))
        members[place] = members[place][0], draw(bytes_changed(members[place][1]))
        return archive_of(members)
    content = torch.load(io.BytesIO(data), weights_only=True)
    if how == "keys":
        content = draw(keys_changed(content))
    elif how == "args":
        content["args"] = draw(options_changed(content["args"]))
    elif how == "tensors":
        key = draw(st.sampled_from(sorted({"model", "ema", "opt"} & set(content))))
        content[key] = draw(tensors_changed(content[key]))
    else:
        key = draw(st.sampled_from(sorted(content)))
        content[key] = draw(st.sampled_from((*VALUES[:-1], torch.ones(2), b"x")))
        note(f"{key} is {shown(content[key])}")
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@st.composite
def json_changed(draw: st.DrawFn, data: bytes) -> bytes:
    """JSON, or a line of it for each row, that is spoilt as bytes or as values."""
    how = draw(st.sampled_from(("bytes", "values", "values", "deep")))
    if how == "bytes":
        return draw(bytes_changed(data))
    deep = b"[" * 100_000
    try:
        content = json.loads(data)
    except ValueError:
        lines = data.splitlines(keepends=True)
        place = draw(st.integers(0, len(lines) - 1))
        row = draw(options_changed(json.loads(lines[place])))
        lines[place] = deep if how == "deep" else json.dumps(row).encode() + b"\n"
        return b"".join(lines)
    return deep if how == "deep" else json.dumps(draw(options_changed(content))).encode()


def _noted(what: str, value: Any) -> Any:
    note(f"{what}: {shown(value)}")
    return value


class Spoilt(bytes):
    """What hypothesis shows of it is its length; how it was spoilt stands in the notes."""

    def __repr__(self) -> str:
        return f"{len(self)} bytes"


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else f"{text[:60]}... of {len(text)}"


@st.composite
def spoilt(draw: st.DrawFn, suffix: str, data: bytes) -> Spoilt:
    """A file of this ending, spoilt somehow."""
    return Spoilt(draw(CHANGES[suffix](data)))


CHANGES = {
    ".npz": npz_changed,
    ".npy": npy_changed,
    ".pt": pt_changed,
    ".json": json_changed,
    ".jsonl": json_changed,
}
