"""Files of the original toolkit are read, and our stages run on them.

Its own files are not here, so files of the same kind are written by other processes, with classes
of the same names: by this Python and NumPy, and by the other Pythons of the machine."""

import csv
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.formats import PARSE_UTILS, object_npz
from tests.helpers.runs import ROOT, run_script
from tests.helpers.sandbox import run_stage
from utils.cli.errors import UserError
from utils.files.arrays import read_npz
from utils.inputs.checkpoints import load_checkpoint
from utils.inputs.samples import load_synthetics
from utils.stages.critical_times.files import load_times
from utils.stages.distances.files import load_dists
from utils.stages.energy.files import load_energies

CHECKPOINTS = """
import numpy as np, torch
from utils.inputs.checkpoints import build_network
folder = Path(sys.argv[1])
torch.manual_seed(0)
model, ema = build_network(SECTIONS["model"]), build_network(SECTIONS["model"])
adam = torch.optim.Adam(model.parameters(), lr=2e-4)
sum(p.square().sum() for p in model.parameters()).backward()
adam.step()
torch.save([model.state_dict(), ema.state_dict()], folder / "weights.pth")
forms = {f"protocol{p}": dict(pickle_protocol=p) for p in (2, 3, 4, 5)}
forms["legacy"] = dict(_use_new_zipfile_serialization=False)
for variant in ("whole", "fewer", "more"):
    args = namespace(variant)
    content = {
        "model": {"module." + k: v for k, v in model.state_dict().items()},
        "ema": ema.state_dict(), "opt": adam.state_dict(), "args": args, "iterations": 12,
    }
    for form, how in forms.items():
        (folder / variant / form).mkdir(parents=True)
        torch.save(content, folder / variant / form / "8.pt", **how)
    samples = np.random.default_rng(0).uniform(-1, 1, (6, 1, 8, 8)).astype(np.float32)
    np.savez(folder / variant / "8.npz", samples=samples, args=np.array(args, dtype=object))
"""
# NumPy's pickles from Pythons that have none: CORE is the name of its inner package.
ARRAYS = """
import pickle
folder = Path(sys.argv[1])
sys.modules["numpy"] = numpy = types.ModuleType("numpy")
for core in ("core", "_core"):
    sys.modules["numpy." + core] = types.ModuleType("numpy." + core)
    array = sys.modules[f"numpy.{core}.multiarray"] = types.ModuleType("multiarray")
    def _reconstruct(*_): ...
    _reconstruct.__module__, array._reconstruct = f"numpy.{core}.multiarray", _reconstruct
    class dtype:
        def __reduce__(self):
            return dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 63)
    class ndarray:
        def __reduce__(self):
            state = (1, (), dtype(), False, [namespace("whole")])
            return _reconstruct, (ndarray, (0,), b"b"), state
    for kind in (dtype, ndarray):
        kind.__module__, kind.__qualname__ = "numpy", kind.__name__
        setattr(numpy, kind.__name__, kind)
    for protocol in range(6):
        (folder / f"{core}-{protocol}").write_bytes(pickle.dumps(ndarray(), protocol))
"""


def python(executable, code, *arguments):
    command = [executable, "-c", PARSE_UTILS + code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """VARIANT/FORM/8.pt and VARIANT/8.npz as the original writes them; weights.pth beside."""
    folder = tmp_path_factory.mktemp("original")
    done = python(sys.executable, CHECKPOINTS, folder)
    assert done.returncode == 0, done.stderr
    return folder


def check_args(args, variant):
    """Options as written; what was not there has our default, what we do not know is gone."""
    assert args["config_path"] == ["configs/x.yaml"]
    assert args["data"]["data_name"] == "digits" and args["data"]["data_path"] == "../data"
    assert args["data"]["results_path"] == ("results" if variant == "fewer" else "results/x")
    assert args["train"]["train_size"] == 8 and args["train"]["lr"] == 2e-4
    assert args["train"]["centercrop"] is False and args["train"]["subset"] == "first"
    assert args["model"]["dim_mults"] == [1, 2] and args["model"]["attn_resolutions"] == [4]
    assert args["model"]["conditional"] is True and args["model"]["scale_by_sigma"] is False
    assert not {"wandb_project", "extra_path", "betas"} & {k for s in args.values() for k in s}


@pytest.mark.parametrize("form", ["protocol2", "protocol3"])
@pytest.mark.parametrize("variant", ["whole", "fewer", "more"])
def test_a_checkpoint_as_the_original_writes_it(written, variant, form):
    checkpoint = load_checkpoint(written / variant / form / "8.pt")
    assert checkpoint.k == 8 and checkpoint.iterations == 12
    check_args(checkpoint.args, variant)
    for result, expected in zip(
        (checkpoint.model, checkpoint.ema), torch.load(written / "weights.pth", weights_only=True)
    ):
        assert result.keys() == expected.keys()  # the prefix of the distributed model is gone
        assert all(torch.equal(result[name], expected[name]) for name in expected)
    assert len(checkpoint.opt["state"]) == len(checkpoint.model)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("protocol4", "not allowed (pickle protocol 4)"),
        ("protocol5", "not allowed (pickle protocol 5)"),
        ("legacy", "before version 1.6"),
    ],
)
def test_forms_that_the_original_does_not_write(written, form, words):
    """torch.save writes zip files of protocol 2; its own safe reader stops at protocol 3."""
    path = written / "whole" / form / "8.pt"
    with pytest.raises(UserError) as raised:
        load_checkpoint(path)
    assert words in str(raised.value) and str(path) in str(raised.value)


@pytest.mark.parametrize("variant", ["whole", "fewer", "more"])
def test_samples_as_the_original_writes_them(written, variant):
    result = load_synthetics(written / variant / "8.npz")
    assert result.k == 8 and result.samples.shape == (6, 1, 8, 8)
    check_args(result.args, variant)


def test_stages_run_on_files_of_the_original(written, tmp_path):
    flags = [
        "--ckpt-path",
        written / "fewer" / "protocol2" / "8.pt",
        "--result-path",
        tmp_path / "g",
    ]
    flags += ["--synth-path", tmp_path / "s", "--num-samples", 2, "--sampler", "ddim", "--steps", 2]
    run_stage("generate", *flags, "--device", "cpu")
    assert load_synthetics(tmp_path / "s" / "8.npz").samples.shape == (2, 1, 8, 8)
    for source, n in ((tmp_path / "s", 2), (written / "fewer", 6)):
        flags = ["--synth-path", source, "--result-path", tmp_path / f"d{n}", "--device", "cpu"]
        run_stage("distances", *flags)
        assert load_dists(tmp_path / f"d{n}" / "8.npz").arrays["data-dists"].shape == (n, 5)


def pythons():
    """This Python, and those of 3.10 to 3.14 on the path or of pyenv that start."""
    known = [shutil.which(f"python3.{minor}") for minor in range(10, 15)]
    known += [str(p) for p in sorted(Path.home().glob(".pyenv/versions/3.1[0-9]*/bin/python3"))]
    for executable in [sys.executable, *filter(None, known)]:
        if python(executable, "").returncode == 0:  # pyenv leaves names on the path that do not
            yield executable


def test_pickles_of_every_python_here(tmp_path):
    """Protocol 3 (NumPy 1), 4 (NumPy 2) and 5 are read; older ones, which NumPy does not write
    into an .npz, need more names and opcodes, and are refused by the first of these."""
    path = tmp_path / "8.npz"
    for executable in pythons():
        done = python(executable, ARRAYS, tmp_path)
        assert done.returncode == 0, done.stderr
        for core in ("core", "_core"):
            for protocol, asked in enumerate(("opcode PUT", "_codecs.encode", "_codecs.encode")):
                object_npz(path, (tmp_path / f"{core}-{protocol}").read_bytes())
                with pytest.raises(UserError, match=rf"8\.npz: .* that asks for {asked};"):
                    load_synthetics(path)
            for protocol in (3, 4, 5):
                object_npz(path, (tmp_path / f"{core}-{protocol}").read_bytes())
                check_args(load_synthetics(path).args, "whole")


def renamed(pickled, names, expected):
    """The pickle with a module that has one of names called wanted."""
    for name in names:
        # Its length stands before it (protocol 4), or it is the first of two lines (protocol 3).
        for form in (lambda n: b"\x8c%c%b\x94" % (len(n), n), lambda n: b"c%b\n" % n):
            if form(name) in pickled:
                return pickled.replace(form(name), form(expected))
    raise AssertionError(f"none of {names} in {pickled[:99]}")


@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize("paths", [b"pathlib", b"pathlib._local"])
def test_names_of_every_numpy_and_pathlib(written, tmp_path, core, paths):
    """This NumPy's own bytes, with the names that others give."""
    with zipfile.ZipFile(written / "whole" / "8.npz") as archive:
        npy = archive.read("args.npy")
    pickled = npy[npy.index(b"\n") + 1 :]
    pickled = renamed(pickled, (b"numpy._core.multiarray", b"numpy.core.multiarray"), core)
    pickled = renamed(pickled, (b"pathlib._local", b"pathlib"), paths)
    if pickled[2:3] == b"\x95":  # one frame over all: its length follows
        pickled = pickled[:3] + struct.pack("<Q", len(pickled) - 11) + pickled[11:]
    object_npz(tmp_path / "8.npz", pickled)
    check_args(load_synthetics(tmp_path / "8.npz").args, "whole")
    assert read_npz(tmp_path / "8.npz")["args"].dtype.kind == "U"


@pytest.mark.slow
def test_the_whole_path_on_a_folder_of_the_original(written, tmp_path):
    """Every stage by one command, on models as the original wrote them, other files beside them."""
    models, root = tmp_path / "models", tmp_path / "root"
    shutil.copytree(written / "whole" / "protocol2", models)
    (models / "README.md").write_text("as `hf download` lays it out")
    flags = ("--models", models, "--samples", 120, "--root", root, "--data-path", tmp_path)
    done = run_script("run_pipeline.py", *flags)
    assert done.returncode == 0, done.stderr
    assert load_synthetics(root / "synthetics" / "8.npz").samples.shape == (120, 1, 8, 8)
    (row,) = csv.DictReader((root / "identified" / "summary.csv").read_text().splitlines())
    assert row["K"] == "8" and row["N"] == "120" and row["criterion"] == "calibrated"
    classes = {path.parent.name for path in root.glob("identified/*/8.npz")} - {"summary"}
    assert classes
    for stage, key in (("times", "critical-time"), ("energies", "potential")):
        assert {path.parent.name for path in root.glob(f"{stage}/*/8.npz")} == classes
        for name in classes:
            result = read_npz(root / stage / name / "8.npz", [key])[key]
            assert np.isfinite(result).all() and result.size


def test_every_later_stage_takes_a_published_set(written, tmp_path):
    """Its args are a pickled object: distances, classes, critical times and energies follow it."""
    for name, source in (("s", "8.npz"), ("m", "protocol2/8.pt")):
        (tmp_path / name).mkdir()
        shutil.copy(written / "whole" / source, tmp_path / name)
    s, d, i, m = (tmp_path / name for name in "sdim")

    run_stage("distances", "--synth-path", s, "--result-path", d, "--data-path", tmp_path)
    limits = ("--delta-m", 0, "--delta-s", 0)
    run_stage("classify", "--dist-path", d, "--eval-path", s, "--result-path", i, *limits)
    assert len(read_npz(i / "generalized" / "8.npz", ["samples"])["samples"]) == 6
    on = ("--ckpt-path", m, "--sample-path", i / "generalized", "--sample-size", 2)
    few = ("--p-trials", 2, "--stride", 6, "--result-path", tmp_path / "t")
    run_stage("critical times", *on, *few)
    assert load_times(tmp_path / "t" / "8.npz").critical_time.shape == (2,)
    run_stage("energy", *on, "--ref-path", s / "8.npz", "--result-path", tmp_path / "e")
    assert load_energies(tmp_path / "e" / "8.npz").potential.shape == (6, 2)
