"""Mutated and hostile files: nothing in them runs, none takes the memory or the interpreter down,
and the only thing that comes out is the user's error in one line, or a right answer."""

import io
import json
import os
import pickle
import random
import resource
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch

from tests.helpers.formats import PARSE_UTILS, archive_of, members_of, npy, object_npz
from tests.helpers.runs import train_options
from utils.cli.errors import UserError
from utils.cli.progress import QUIET
from utils.files.arrays import read_npz
from utils.files.pickles import plain
from utils.files.provenance import to_plain
from utils.files.tensors import load_torch
from utils.inputs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from utils.inputs.denoisers import trained_model
from utils.inputs.samples import load_synthetics, save_synthetics
from utils.stages.train import stage as train

MEGABYTES = 300  # that reading a small file may take, at most


@pytest.fixture(autouse=True)
def quiet_and_small(capfd):
    """Nothing is printed, and a file of kilobytes does not take a gigabyte."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert capfd.readouterr() == ("", "")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit < MEGABYTES


def refusal(path):
    """The error that reading path gives; None where it is read, and read into what it should be."""
    try:
        if path.suffix == ".pt":
            found = load_checkpoint(path)
            for state in (found.model, found.ema):
                assert state and all(torch.isfinite(value).all() for value in state.values())
            assert type(found.k) is int and type(found.iterations) is int
            assert isinstance(found.opt, dict) and isinstance(found.rng, dict)
            _ = found.fingerprint
        else:
            found = load_synthetics(path)
            assert found.samples.dtype == np.float32 and np.isfinite(found.samples).all()
        assert all(isinstance(found.args[name], dict) for name in ("data", "train", "model"))
        json.dumps(found.args)
    except UserError as error:
        assert "\n" not in str(error) and path.name in str(error), str(error)
        return str(error)
    return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Small sound files, ours and as the original writes them, by name: their bytes."""
    folder = tmp_path_factory.mktemp("whole")
    options = train_options(folder)
    args = {name: to_plain(getattr(options, name)) for name in ("data", "train", "model")}
    generator = torch.Generator().manual_seed(0)
    weights = {f"layer.{i}": torch.randn(2, 3, generator=generator) for i in range(3)}
    opt = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]}
    samples = np.random.default_rng(0).uniform(-1, 1, (2, 1, 8, 8)).astype(np.float32)
    save_checkpoint(folder / "8.pt", Checkpoint(weights, weights, opt, args, 12))
    save_synthetics(folder / "8.npz", samples, args)
    found = {f"ours{suffix}": (folder / f"8{suffix}").read_bytes() for suffix in (".pt", ".npz")}
    names = {}
    try:
        exec(PARSE_UTILS, names)
        theirs = names["namespace"]("whole")
        model = {f"module.{name}": value for name, value in weights.items()}
        content = {"model": model, "ema": weights, "opt": opt, "args": theirs, "iterations": 12}
        file, arrays = io.BytesIO(), io.BytesIO()
        torch.save(content, file)
        np.savez(arrays, samples=samples, args=np.array(theirs, dtype=object))
    finally:
        sys.modules.pop("parse_utils", None)
    found |= {"theirs.pt": file.getvalue(), "theirs.npz": arrays.getvalue()}
    return found


def flipped(data, chance, times):
    data = bytearray(data)
    for _ in range(times):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def telling(name):
    """Whether a member holds a pickle or the options."""
    return name.endswith(("data.pkl", "args.npy"))


def inside(data, change):
    """The same archive, sound as a zip, with its pickle or options changed."""
    return archive_of([(n, change(d) if telling(n) else d) for n, d in members_of(data)])


def inserted(data, chance):
    place = chance.randrange(len(data))
    return data[:place] + chance.randbytes(chance.randrange(1, 9)) + data[place:]


def removed(data, chance):
    place = chance.randrange(len(data))
    return data[:place] + data[place + chance.randrange(1, 9) :]


def swapped(data, chance):
    members = members_of(data)
    i, j = chance.sample(range(len(members)), 2)
    (a, x), (b, y) = members[i], members[j]
    members[i], members[j] = (a, y), (b, x)
    return archive_of(members)


def doubled(data, chance):
    members = members_of(data)
    name, content = chance.choice(members)
    return archive_of([*members, (name, flipped(content or b"x", chance, 1))])


def claimed(data, chance):
    """A size, or an offset, of a member's headers is another one."""
    marks = {b"PK\x01\x02": (20, 24, 42), b"PK\x03\x04": (18, 22), b"PK\x05\x06": (8, 12, 16)}
    mark = chance.choice(list(marks))
    places = [i for i in range(len(data)) if data.startswith(mark, i)]
    place = chance.choice(places) + chance.choice(marks[mark])
    size = chance.choice([0, 1, 2**16, 2**30, 2**31 - 1, 2**32 - 1])
    return data[:place] + struct.pack("<I", size) + data[place + 4 :]


MUTATIONS = {
    "one bit": lambda data, chance: flipped(data, chance, 1),
    "many bits": lambda data, chance: flipped(data, chance, chance.randrange(2, 50)),
    "truncated": lambda data, chance: data[: chance.randrange(len(data))],
    "inserted": inserted,
    "removed": removed,
    "members swapped": swapped,
    "a member twice": doubled,
    "sizes claimed": claimed,
    "one bit inside": lambda data, chance: inside(data, lambda d: flipped(d, chance, 1)),
    "bits inside": lambda data, chance: inside(data, lambda d: flipped(d, chance, 9)),
    "truncated inside": lambda data, chance: inside(data, lambda d: d[: chance.randrange(len(d))]),
    "inserted inside": lambda data, chance: inside(data, lambda d: inserted(d, chance)),
    "removed inside": lambda data, chance: inside(data, lambda d: removed(d, chance)),
}
EACH = 25  # files of each kind


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("how", MUTATIONS)
@pytest.mark.parametrize("name", ["ours.pt", "theirs.pt", "ours.npz", "theirs.npz"])
def test_mutated_files(whole, tmp_path, name, how):
    path = tmp_path / f"8{name[-4:].lstrip('sr')}"
    path.write_bytes(whole[name])
    assert refusal(path) is None
    for seed in range(EACH):
        path.write_bytes(MUTATIONS[how](whole[name], random.Random(f"{name} {how} {seed}")))
        refusal(path)


# Fragments of pickles: no frame, no end, and as little in common with `pickle.dumps` as possible.


def text(value):
    value = str(value).encode()
    return b"X" + struct.pack("<I", len(value)) + value


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def named_later(module, name):
    """The same in protocol 4."""
    return text(module) + text(name) + b"\x93"


def called(function, *arguments):
    return function + b"(" + b"".join(arguments) + b"tR"


def record(*states, kind=("argparse", "Namespace")):
    return named(*kind) + b")\x81" + b"".join(state + b"b" for state in states)


def in_dict(**items):
    return b"}(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def array_around(fragment):
    """NumPy's pickle of a 0-d object array that holds the fragment's object."""
    array = called(
        named("numpy._core.multiarray", "_reconstruct"),
        named("numpy", "ndarray"),
        b"K\x00\x85C\x01b",
    )
    kind = called(named("numpy", "dtype"), text("O8"), b"\x89\x88")
    return b"\x80\x04" + array + b"(K\x01)" + kind + b"\x89](" + fragment + b"etb."


def checkpoint_around(whole, **changed):
    """Our checkpoint's archive with a pickle of these keys."""
    weights = called(
        named("torch._utils", "_rebuild_tensor_v2"),
        tensor_storage("0", 6),
        b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89",
        called(named("collections", "OrderedDict")),
    )
    content = {"ema": in_dict(a=weights), "args": options(), **changed}
    return around(whole, b"\x80\x02" + in_dict(**content) + b".")


def around(whole, pickled):
    return inside(whole["ours.pt"], lambda _: pickled)


def tensor_storage(key, items):
    kind = named("torch", "FloatStorage")
    size = b"\x8a\x08" + struct.pack("<q", items)
    return b"(" + text("storage") + kind + text(key) + text("cpu") + size + b"tQ"


def options(**more):
    """Sound options of an original's Namespace, with fields besides."""
    model = in_dict(image_size=b"K\x08", in_channels=b"K\x01")
    train = record(in_dict(train_size=b"K\x08"), kind=("parse_utils", "TrainOptions"))
    return record(in_dict(train=train, data=b"}", model=model, **more))


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
                told = refusal(path)
                wanted = "pickled objects under" if place == "npz other key" else f"{module}.{name}"
                assert told and wanted in told, (place, told)
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
            told = refusal(path)
            assert told and (place == "npz other key" or "posix.mkdir" in told), told
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
    found = load_checkpoint(path).args["stage"]["x"]
    assert found == evil and all(type(word) is str for word in found)
    object_npz(tmp_path / "8.npz", array_around(options(stage=in_dict(x=words))))
    assert json.loads(str(read_npz(tmp_path / "8.npz")["args"]))["stage"]["x"] == evil


def rebuilt(storage, size, stride, grad=b"\x89"):
    hooks = called(named("collections", "OrderedDict"))
    name = named("torch._utils", "_rebuild_tensor_v2")
    return called(name, storage, b"K\x00", size, stride, grad, hooks)


FAR = b"\x8a\x06" + struct.pack("<q", 2**40)[:6]  # an integer


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (rebuilt(tensor_storage("0", 2**40), FAR + b"\x85", b"K\x01\x85"), "no whole"),
        (rebuilt(tensor_storage("0", 7), b"K\x07\x85", b"K\x01\x85"), "no whole"),
        (rebuilt(tensor_storage("0", -6), b"K\x06\x85", b"K\x01\x85"), "no whole"),
        (rebuilt(tensor_storage("9", 6), b"K\x06\x85", b"K\x01\x85"), "no whole"),
        (rebuilt(tensor_storage("../version", 6), b"K\x06\x85", b"K\x01\x85"), "no whole"),
        (rebuilt(tensor_storage("0", 6), b"K\x07\x85", b"K\x01\x85"), "no whole"),
        (rebuilt(tensor_storage("0", 6), FAR + b"\x85", b"K\x00\x85"), "does not hold"),
        (rebuilt(tensor_storage("0", 6), b"K\x06\x85", b"K\x01\x85", b"\x88"), None),
        (tensor_storage("0", 6), "no state dict"),
        (b"K\x01", "no state dict"),
    ],
)
def test_tensors_that_are_not_there(whole, tmp_path, tensor, words):
    """A storage may claim more than the file has, and a stride of 0 makes one number any size."""
    path = tmp_path / "8.pt"
    path.write_bytes(checkpoint_around(whole, ema=in_dict(a=tensor)))
    told = refusal(path)
    assert told is None if words is None else words in (told or ""), told


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["model", "ema"])
def test_weights_that_are_no_numbers(whole, tmp_path, value, which):
    path = tmp_path / "8.pt"
    path.write_bytes(whole["ours.pt"])
    content = load_torch(path)
    content[which] = {"a": torch.tensor([1.0, value])}
    torch.save(content, path)
    assert "NaN or infinite weights" in (refusal(path) or "")


@pytest.mark.parametrize(
    "changed",
    [
        *({"iterations": value} for value in ("x", -1, 2.5, True, [1], torch.ones(2), 2**70)),
        *({"opt": value} for value in ("x", [1], 3)),
        *({"rng": value} for value in ("x", [1], 3)),
        *({"ema": value} for value in (None, {}, {1: torch.ones(1)}, {"a": 1}, [torch.ones(1)])),
        {"ema": {"a": torch.ones(1, dtype=torch.complex64)}},
        *({"args": value} for value in (None, [], "x", {"train": {"train_size": torch.ones(1)}})),
    ],
    ids=str,
)
def test_contents_of_other_kinds(whole, tmp_path, changed):
    path = tmp_path / "8.pt"
    path.write_bytes(whole["ours.pt"])
    torch.save({**load_torch(path), **changed}, path)
    assert refusal(path)


@pytest.mark.parametrize(
    ("section", "changed"),
    [
        *(("train", {"train_size": value}) for value in (8.0, True, "8", None, [8], 2**70)),
        *(("train", {"lr": value}) for value in ("x", None, float("nan"), True)),
        *(("train", {"clip_grad": value}) for value in (1, "False")),
        *(("train", {"timesteps": value}) for value in (20.5, 10**9)),
        *(("model", {"dim_mults": value}) for value in (3, "a,b", [1.5], [None], [True], {})),
        *(("data", {"data_path": value}) for value in (3, None, ["x"])),
        ("model", None),
        ("train", []),
    ],
    ids=str,
)
def test_options_of_other_kinds(whole, tmp_path, section, changed):
    for suffix in (".pt", ".npz"):
        path = tmp_path / f"8{suffix}"
        path.write_bytes(whole[f"ours{suffix}"])
        content = load_torch(path) if suffix == ".pt" else read_npz(path)
        args = content["args"] if suffix == ".pt" else json.loads(str(content["args"]))
        args[section] = {**args[section], **changed} if isinstance(changed, dict) else changed
        if suffix == ".pt":
            torch.save(content, path)
        else:
            np.savez(path, samples=content["samples"], args=json.dumps(args))
        assert refusal(path)


@pytest.mark.parametrize(
    "member",
    [
        npy("(1000000000000,)"),
        npy("(-2, -1)"),
        npy("(2.0,)"),
        npy("(True, 2)"),
        npy("(" * 400 + ")" * 400),
        npy("(" + "2 *" * 3000 + "1,)"),
        npy("(10**10**10,)"),
        npy("(__import__('os').mkdir('MARKER'),)"),
        npy("[2]"),
        npy("(2L,)"),
        npy(kind="'<f4', 'descr': '|O'"),
        npy(kind="'<U1000000000'"),
        npy(kind="'V0'", shape="(1000000000000000000,)", content=b""),
        npy(kind="[('x', '|O')]"),
        npy(kind="[" * 300 + "]" * 300),
        npy(kind="'\\d'"),
        npy(version=3),
        npy(version=9),
        npy(version=2)[:-3],
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1),
        b"",
        b"PK\x03\x04",
    ],
    ids=lambda member: f"{len(member)} bytes",
)
def test_arrays_that_make_no_sense(whole, tmp_path, monkeypatch, member):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "8.npz"
    for key in ("samples.npy", "args.npy"):
        members = [
            (name, member if name == key else d) for name, d in members_of(whole["ours.npz"])
        ]
        path.write_bytes(archive_of(members))
        assert refusal(path)
    assert not (tmp_path / "MARKER").exists()


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_unpack_to_more_than_the_memory(whole, tmp_path, kind):
    """Pickles are small and never packed; numpy's own packing stays below a thousandfold."""
    zeros = array_around(b"B" + struct.pack("<I", 10**8) + bytes(10**8))
    object_npz(tmp_path / "8.npz", zeros)
    (tmp_path / "8.npz").write_bytes(
        archive_of(members_of((tmp_path / "8.npz").read_bytes()), kind)
    )
    assert (tmp_path / "8.npz").stat().st_size < 2**20 and refusal(tmp_path / "8.npz")
    (tmp_path / "8.pt").write_bytes(archive_of(members_of(whole["ours.pt"]), kind))
    assert "no whole .pt file" in (refusal(tmp_path / "8.pt") or "")


def test_archives_that_two_readers_would_read_otherwise(whole, tmp_path):
    path = tmp_path / "8.pt"
    members = members_of(whole["ours.pt"])
    evil = b"\x80\x02" + called(named("posix", "mkdir"), text(tmp_path / "MARKER")) + b"."
    pickled = next(name for name, _ in members if name.endswith("data.pkl"))
    for changed in (
        [*members, (pickled.upper(), evil)],
        [(pickled.upper(), evil), *members],
        [("other/data.pkl", evil), *members],
        [*members, ("archive/code/x.py", b"")],
        [*members, ("archive/../x", b"")],
        [*members, ("archive/data/a", b"")],
        [*members, ("archive/constants.pkl", evil)],
        [],
    ):
        path.write_bytes(archive_of(changed))
        assert "no whole .pt file" in (refusal(path) or ""), [name for name, _ in changed]
    path.write_bytes(archive_of([(pickled, evil)]) + whole["ours.pt"])  # one behind the other
    assert refusal(path)
    assert not (tmp_path / "MARKER").exists()


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


def test_options_of_a_giant_cost_no_memory(tmp_path, monkeypatch):
    """The network is built when its weights are known to fit."""
    monkeypatch.setenv(QUIET, "1")
    train.run(train_options(tmp_path))
    content = torch.load(tmp_path / "models" / "8.pt", weights_only=True)
    content["args"]["model"]["dim"] = 2**20
    torch.save(content, tmp_path / "models" / "8.pt")
    with pytest.raises(UserError, match=r"8\.pt: found weights that do not fit its options"):
        trained_model(tmp_path / "models" / "8.pt").denoiser(torch.device("cpu"))


@pytest.mark.parametrize("wrap", [lambda t: {"ema": t}, lambda t: [{"opt": (t,)}], lambda t: t])
def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path, wrap):
    """One number and strides of 0: a look at its least value would take 4 TB."""
    path = tmp_path / "8.pt"
    torch.save(wrap(torch.zeros(1).expand(10**12)), path)
    with pytest.raises(UserError, match=r"8\.pt: found a tensor \[1000000000000\] whose numbers"):
        load_torch(path)
