"""Files as other programs write them: the original's options, archives, arrays, pickles."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np

# The original's module of options; `fewer` lacks some, as older files do, `more` has others.
PARSE_UTILS = """
import argparse, dataclasses, sys, types
from pathlib import Path
module = sys.modules["parse_utils"] = types.ModuleType("parse_utils")
SECTIONS = {
    "data": dict(data_path=Path("../data"), results_path=Path("results/x"), data_name="digits"),
    "train": dict(
        global_batch_size=64, iterations=12, num_workers=0, log_every=500, ckpt_every=500,
        train_size=8, valid_size=10, global_seed=3407, lr=2e-4, ema_decay=0.9999, clip_grad=True,
        prediction_type="epsilon", beta_schedule="linear", timesteps=20, centercrop=False,
    ),
    "model": dict(
        image_size=8, in_channels=1, dim=32, dim_mults=(1, 2), attn_resolutions=(4,),
        num_res_blocks=1, dropout=0.1, conditional=True, resamp_with_conv=True,
        nonlinearity="swish", scale_by_sigma=False,
    ),
}
LACKING = {"data": ["results_path"], "train": ["beta_schedule", "centercrop"],
           "model": ["scale_by_sigma", "conditional"]}

def namespace(variant):
    sections = {}
    for name, values in SECTIONS.items():
        values = dict(values)
        if variant == "fewer":
            for key in LACKING[name]:
                del values[key]
        if variant == "more":
            values.update(wandb_project="x", extra_path=Path("/a/b"), betas=(0.9, [0.99, None]))
        kind = dataclasses.make_dataclass(
            name.capitalize() + "Options", [(k, type(v)) for k, v in values.items()]
        )
        kind.__module__ = "parse_utils"
        setattr(module, kind.__name__, kind)
        sections[name] = kind(**values)
    return argparse.Namespace(config_path=[Path("configs/x.yaml")], **sections)
"""


def object_npz(path, pickled):
    """An .npz whose `args` is this pickle; the samples are as they should be."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (117 - len(header)) + b"\n"
    np.savez(path, samples=np.full((2, 1, 8, 8), -0.5, np.float32))
    with zipfile.ZipFile(path, "a") as archive:
        prefix = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
        archive.writestr("args.npy", prefix + header + pickled)


def members_of(data):
    """The files of a zip archive: (name, content), in its order."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def archive_of(members, compression=zipfile.ZIP_STORED):
    """The zip archive of these (name, content)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def npy(shape="(2,)", kind="'<f4'", content=b"12345678", version=1):
    """An array file whose header makes these claims."""
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + content


# Fragments of pickles: no frame, no end, and as little in common with `pickle.dumps` as possible.


def text(value):
    """A string."""
    value = str(value).encode()
    return b"X" + struct.pack("<I", len(value)) + value


def named(module, name):
    """A global of a module."""
    return f"c{module}\n{name}\n".encode()


def named_later(module, name):
    """The same in protocol 4."""
    return text(module) + text(name) + b"\x93"


def called(function, *arguments):
    """The result of a call (REDUCE)."""
    return function + b"(" + b"".join(arguments) + b"tR"


def record(*states, kind=("argparse", "Namespace")):
    """An object of a class (NEWOBJ), and the states that it is given (BUILD)."""
    return named(*kind) + b")\x81" + b"".join(state + b"b" for state in states)


def in_dict(**items):
    """A dict."""
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
    """Our checkpoint's archive with another pickle."""
    return inside(whole["ours.pt"], lambda _: pickled)


def tensor_storage(key, items):
    """PyTorch's reference to a storage of the archive, of so many float32."""
    kind = named("torch", "FloatStorage")
    size = b"\x8a\x08" + struct.pack("<q", items)
    return b"(" + text("storage") + kind + text(key) + text("cpu") + size + b"tQ"


def options(**more):
    """Sound options of an original's Namespace, with fields besides."""
    model = in_dict(image_size=b"K\x08", in_channels=b"K\x01")
    train = record(in_dict(train_size=b"K\x08"), kind=("parse_utils", "TrainOptions"))
    return record(in_dict(train=train, data=b"}", model=model, **more))


def is_pickle_or_options(name):
    """Whether this member of an archive holds a pickle or the options."""
    return name.endswith(("data.pkl", "args.npy"))


def inside(data, change):
    """The same archive, sound as a zip, with its pickle or options changed."""
    return archive_of(
        [(n, change(d) if is_pickle_or_options(n) else d) for n, d in members_of(data)]
    )
