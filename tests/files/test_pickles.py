"""Pickles that would run code or use up the memory: each is refused in one line."""

import json
import os
import pickle
import struct

import pytest
import torch

from tests.helpers.formats import (
    archive_of,
    around,
    array_around,
    called,
    checkpoint_around,
    in_dict,
    members_of,
    named,
    named_later,
    object_npz,
    options,
    record,
    text,
)
from tests.helpers.trials import refusal
from utils.cli.errors import UserError
from utils.files.arrays import read_npz
from utils.files.pickles import plain
from utils.inputs.checkpoints import load_checkpoint

pytestmark = pytest.mark.usefixtures("quiet_and_small")


def test_the_fragments_are_sound(whole, tmp_path):
    """So that what is refused below is refused for what was put into it."""
    (tmp_path / "8.pt").write_bytes(checkpoint_around(whole))
    assert load_checkpoint(tmp_path / "8.pt").ema["a"].shape == (2, 3)
    object_npz(tmp_path / "8.npz", array_around(options()))
    assert json.loads(str(read_npz(tmp_path / "8.npz")["args"]))["train"] == {"train_size": 8}
    for place, path in files_with(options(extra=b"N"), whole, tmp_path):
        assert bool(refusal(path)) == (place not in ("npz args", "pt args")), place


PLACES = ("npz args", "npz whole", "npz other key", "pt args", "pt whole", "pt weights", "pt opt")


def files_with(fragment, whole, folder):
    """The fragment in every place of a file where a pickle may stand: yields place and path."""
    for place in PLACES:
        path = folder / ("8.pt" if place.startswith("pt") else "8.npz")
        path.unlink(missing_ok=True)
        if place == "npz args":
            object_npz(path, array_around(fragment))
        elif place == "npz whole":
            object_npz(path, b"\x80\x04" + fragment + b".")
        elif place == "npz other key":
            object_npz(path, array_around(fragment))
            members = [(n, d) for n, d in members_of(path.read_bytes()) if n == "args.npy"]
            named_so = [("samples.npy", members[0][1]), *members_of(whole["ours.npz"])[1:]]
            path.write_bytes(archive_of(named_so))
        elif place == "pt whole":
            path.write_bytes(around(whole, b"\x80\x02" + fragment + b"."))
        else:
            key = {"pt args": "args", "pt weights": "ema", "pt opt": "opt"}[place]
            path.write_bytes(checkpoint_around(whole, **{key: fragment}))
        yield place, path


# What would create the file MARKER, or take memory: the name that is asked for, and its arguments.
COMMAND, CODE = "touch MARKER", "open('MARKER', 'w').close()"
CALLS = [
    *[(m, "system", text(COMMAND)) for m in ("os", "posix", "nt")],
    ("os", "mkdir", text("MARKER")),
    ("subprocess", "Popen", b"](" + text("touch") + text("MARKER") + b"e"),
    ("subprocess", "check_output", b"](" + text("touch") + text("MARKER") + b"e"),
    *[(m, f, text(CODE)) for m in ("builtins", "__builtin__") for f in ("eval", "exec")],
    ("builtins", "getattr", named("argparse", "Namespace") + text("__init__")),
    ("builtins", "setattr", named("argparse", "Namespace") + text("x") + b"N"),
    ("builtins", "open", text("MARKER") + text("w")),
    ("builtins", "bytearray", b"\x8a\x05" + struct.pack("<q", 2**33)[:5]),
    ("builtins", "__import__", text("antigravity")),
    ("runpy", "run_path", text("SCRIPT")),
    ("importlib", "import_module", text("antigravity")),
    ("pickle", "loads", b"B" + struct.pack("<I", 30) + b"cposix\nsystem\n(S'touch MARKER'\n"),
    ("functools", "partial", text("x")),
    ("operator", "attrgetter", text("system")),
    ("operator", "methodcaller", text("system") + text(COMMAND)),
    ("types", "FunctionType", text("x")),
    ("marshal", "loads", text("x")),
    ("timeit", "timeit", text(CODE)),
    ("cProfile", "run", text(CODE)),
    ("ctypes", "CDLL", text("SCRIPT")),
    ("code", "interact", text("x")),
    ("copyreg", "_reconstructor", named("argparse", "Namespace") + b"NN"),
    ("_codecs", "encode", text("x") + text("zip")),
    ("argparse", "FileType", text("w")),
    ("argparse", "_sys.modules", text("x")),
    ("argparse", "Namespace.__init__.__globals__", b""),
    ("pathlib", "PosixPath.touch", text("MARKER")),
    ("pathlib", "os.system", text(COMMAND)),
    ("parse_utils", "os.system", text(COMMAND)),
    ("parse_utils", "DataOptions.__reduce__", b""),
    ("collections", "OrderedDict.fromkeys", text("x")),
    ("collections", "Counter", text("x")),
    ("numpy", "load", text("SCRIPT")),
    ("numpy", "fromfile", text("SCRIPT")),
    ("numpy.testing._private.utils", "runstring", text(CODE) + b"}"),
    ("numpy._core.multiarray", "scalar", text("x")),
    ("torch", "load", text("SCRIPT")),
    ("torch", "Tensor", b"\x8a\x05" + struct.pack("<q", 2**33)[:5]),
    ("torch.hub", "load", text("x") + text("y")),
    ("torch.storage", "UntypedStorage", b"\x8a\x05" + struct.pack("<q", 2**33)[:5]),
    ("torch._utils", "_rebuild_meta_tensor_no_storage", b"NNNN"),
    ("torch.jit", "load", text("SCRIPT")),
    ("utils.files.atomic", "write_text", text("MARKER") + text("x")),
]


@pytest.mark.parametrize(
    ("module", "name", "arguments"), CALLS, ids=[f"{c[0]}.{c[1]}" for c in CALLS]
)
def test_names_that_are_refused(whole, tmp_path, monkeypatch, module, name, arguments):
    """In each place, called, subclassed and only named, of either protocol: refused by name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SCRIPT").write_text(CODE)
    for way in (named, named_later):
        there = way(module, name)
        for fragment in (called(there, arguments), there + b"(" + arguments + b"t\x81", there):
            for place, path in files_with(fragment, whole, tmp_path):
                message = refusal(path)
                expected = (
                    "pickled objects under" if place == "npz other key" else f"{module}.{name}"
                )
                assert message and expected in message, (place, message)
    assert not (tmp_path / "MARKER").exists()


@pytest.mark.parametrize("kind", [("argparse", "Namespace"), ("parse_utils", "TrainOptions")])
def test_objects_of_allowed_names_that_reduce_to_a_call(whole, tmp_path, kind):
    """What a real class of that name with a __reduce__ of its own would give."""
    fragments = [
        record(in_dict(x=called(named("posix", "mkdir"), text(tmp_path / "MARKER"))), kind=kind),
        named(*kind) + called(named("posix", "mkdir"), text(tmp_path / "MARKER")) + b"\x85R",
    ]
    for fragment in fragments:
        for place, path in files_with(fragment, whole, tmp_path):
            message = refusal(path)
            assert message and (place == "npz other key" or "posix.mkdir" in message), message
    assert not (tmp_path / "MARKER").exists()


LONG = 30_000
SELF = b"q\x01h\x01"  # remember, and take out again
REFUSED = {
    # What holds itself, is deeper than the interpreter's stack, or doubles with each step.
    "a list in itself": b"]" + SELF + b"a",
    "a dict in itself": b"}q\x01" + text("x") + b"h\x01s",
    "a record in itself": record(b"}q\x01" + text("x") + b"h\x01s"),
    "deep lists": b"]" * LONG + b"a" * (LONG - 1),
    "deep dicts": b"}" + b"X\x01\x00\x00\x00x}" * LONG + b"s" * LONG,
    "deep tuples": b")" + b"\x85" * LONG,
    "a deep key": b"})" + b"\x85" * LONG + b"Ns",
    "a wide key": b"})" + b"\x85q\x01(" * 1 + b"h\x01" * LONG + b"tNs",
    "a doubled key": b"})" + b"q\x01h\x01\x86" * 60 + b"Ns",
    "doubled lists": b"]" + b"q\x01](h\x01h\x01e" * 60,
    "doubled tuples": b")" + b"q\x01h\x01\x86" * 60,
    "doubled paths": text("x" * 99)
    + b"q\x01"
    + b"".join(called(named("pathlib", "PosixPath"), b"h\x01h\x01") + b"q\x01" for _ in range(40)),
    "a path of a tuple": called(named("pathlib", "PosixPath"), b")" + b"q\x01h\x01\x86" * 40),
    "copied dicts": in_dict(**{f"k{i}": b"N" for i in range(3000)})
    + b"q\x01"
    + b"".join(called(named("collections", "OrderedDict"), b"h\x01") for _ in range(9)),
    "a state in many": b"](" + in_dict(x=b"N") + b"q\x01" + record(b"h\x01") * 9 + b"e",
    # Lengths that are not there, and places in the memo that would have to be made.
    "memo": b"Nr" + struct.pack("<I", 2**31),
    "BINUNICODE8": b"\x8d" + struct.pack("<Q", 2**40) + b"x",
    "BINUNICODE": b"X" + struct.pack("<I", 2**32 - 1) + b"x",
    "BINBYTES8": b"\x8e" + struct.pack("<Q", 2**33) + b"x",
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2**33) + b"x",
    "LONG4": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x",
    "FRAME": b"\x95" + struct.pack("<Q", 2**60) + b"N",
    "a long number": b"\x8a\xff" + b"\x7f" * 255,
    # Other opcodes that make objects.
    "INST": b"(" + text("touch MARKER") + b"ios\nsystem\n",
    "OBJ": b"(" + named("os", "system") + text("touch MARKER") + b"o",
    "EXT1": b"\x82\x01",
    "PERSID": b"Pos\n",
    "BINPERSID": text("x") + b"Q",
    "NEWOBJ_EX": named("argparse", "Namespace") + b")}\x92",
    "FROZENSET": b"(N\x91",
    "NEXT_BUFFER": b"\x97",
    "nothing": b"",
    "a mark": b"(",
    "a stack that is empty": b"0",
    "a name of numbers": b"K\x01K\x02\x93",
    # Stand-ins that are bent.
    "a field __setstate__": record(
        in_dict(__setstate__=named("collections", "OrderedDict")), in_dict(x=b"N")
    ),
    "a field __class__": record(in_dict(__class__=named("numpy", "dtype"), __dict__=b"}")),
    "slots": record(b"N" + in_dict(__class__=named("pathlib", "PosixPath")) + b"\x86"),
    "a state that is text": record(text("x")),
    "a class": named("argparse", "Namespace"),
    "a path as a record": named("pathlib", "PosixPath") + b")\x81" + in_dict(x=b"N") + b"b",
    "bytes": b"C\x01x",
}


DROPPED = ("a field __setstate__", "a field __class__", "a path as a record")


@pytest.mark.parametrize("name", REFUSED)
def test_pickles_that_are_refused(whole, tmp_path, monkeypatch, name):
    """As they stand, and as an option beside sound ones."""
    monkeypatch.chdir(tmp_path)
    for fragment in (REFUSED[name], options(extra=REFUSED[name])):
        for place, path in files_with(fragment, whole, tmp_path):
            # Such fields are dropped, and what is left is sound; the optimiser's state is any dict.
            sound = place == "pt opt" or (name in DROPPED and b"extra" in fragment)
            assert refusal(path) or sound, place
    assert not (tmp_path / "MARKER").exists()


def test_hostile_text_stays_text(whole, tmp_path):
    evil = ["__import__('os').mkdir('MARKER')", "$(touch MARKER)", "cos\nsystem\n", "a\0b\ud800"]
    words = b"](" + b"".join(b"X" + struct.pack("<I", len(e)) + e for e in
                             (w.encode("utf-8", "surrogatepass") for w in evil)) + b"e"  # fmt: skip
    path = tmp_path / "8.pt"
    path.write_bytes(checkpoint_around(whole, args=options(stage=in_dict(x=words))))
    result = load_checkpoint(path).args["stage"]["x"]
    assert result == evil and all(type(word) is str for word in result)
    object_npz(tmp_path / "8.npz", array_around(options(stage=in_dict(x=words))))
    assert json.loads(str(read_npz(tmp_path / "8.npz")["args"]))["stage"]["x"] == evil


def test_plain_pickles_under_our_names(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "MARKER"),)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for name in ("8.pt", "8.npz"):
            (tmp_path / name).write_bytes(pickle.dumps(Bomb(), protocol))
            assert refusal(tmp_path / name)
    assert not (tmp_path / "MARKER").exists()


def test_plain_values_only():
    endless = []
    endless.append(endless)
    doubled = [1]
    for _ in range(60):
        doubled = [doubled, doubled]
    for value in (endless, doubled, [[0]] * 10_000, {1}, b"x", 1j, torch.ones(1), object, 2**64):
        with pytest.raises(
            UserError, match=r"8\.pt: found (options without end|an option that is)"
        ):
            plain({"x": value}, "8.pt")
    assert plain({"x": (1, 2.5, None, True, ["a"], {})}) == {"x": [1, 2.5, None, True, ["a"], {}]}
