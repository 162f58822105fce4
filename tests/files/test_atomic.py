"""Files are whole or absent, reading runs nothing, and two processes never work on one target."""

import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from utils.cli.errors import UserError
from utils.files import atomic as storage
from utils.files.arrays import read_npz, save_npz
from utils.files.atomic import atomic_write, check_writable, remove_leftovers
from utils.files.pickles import load_numpy_pickle
from utils.files.tensors import load_torch, save_torch


class Bomb:
    """A pickle of it would create a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_arrays_come_back(tmp_path):
    arrays = {"samples": np.random.rand(2, 1, 4, 4).astype("f4"), "data-dists": np.arange(3)}
    save_npz(tmp_path / "1.npz", **arrays, args="{}")
    back = read_npz(tmp_path / "1.npz")
    assert set(back) == {"samples", "data-dists", "args"} and str(back["args"]) == "{}"
    for key, array in arrays.items():
        assert back[key].dtype == array.dtype and np.array_equal(back[key], array)


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in ("a", "b"):
        save_npz(tmp_path / f"{name}.npz", x=np.arange(5))
        save_torch(tmp_path / f"{name}.pt", {"x": torch.arange(5), "k": 3})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_equal_checkpoints_have_equal_bytes_wherever_their_words_come_from(tmp_path):
    """Pickle tells one string met twice from two equal ones, as a loaded checkpoint has."""

    def fresh(word):
        return "".join(list(word))

    shared, word = "learning rate", "learning rate"
    for name, (a, b) in {"one": (shared, word), "two": (fresh(shared), fresh(word))}.items():
        value = OrderedDict(x={a: torch.arange(3)}, y=[{b: 1}, (b, a)])
        save_torch(tmp_path / f"{name}.pt", value)
    one, two = ((tmp_path / f"{name}.pt").read_bytes() for name in ("one", "two"))
    assert one == two
    result = load_torch(tmp_path / "two.pt")
    assert type(result) is OrderedDict and result["y"] == [{shared: 1}, (shared, shared)]


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """`ulimit -f` fails writes as a quota does."""
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from utils.files.arrays import save_npz\n"
        "from utils.files.tensors import save_torch\n"
        "from utils.cli.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for save, name in ((save_npz, 'a.npz'), (save_torch, 'a.pt')):\n"
        "    value = np.zeros(9999)\n"
        "    try:\n"
        "        target = Path(sys.argv[1]) / name\n"
        "        save(target, x=value) if save is save_npz else save(target, value.tolist())\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("File too large; free space" in line for line in lines), done
    assert not list(tmp_path.iterdir())


def test_object_arrays_are_never_written(tmp_path):
    with pytest.raises(ValueError, match="would be pickled"):
        save_npz(tmp_path / "x.npz", a=np.array([{}], dtype=object))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["samples", "args"])
def test_a_pickle_in_an_npz_runs_nothing(tmp_path, key):
    bomb = np.array(Bomb(tmp_path / "exploded"), dtype=object)
    np.savez(tmp_path / "1.npz", **{key: bomb})
    with pytest.raises(UserError, match=r"1\.npz"):
        read_npz(tmp_path / "1.npz")
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_in_a_pt_runs_nothing(tmp_path):
    torch.save({"ema": Bomb(tmp_path / "exploded")}, tmp_path / "1.pt")
    with pytest.raises(UserError, match="posix.mkdir"):
        load_torch(tmp_path / "1.pt")
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_of_weights_runs_nothing(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"x": Bomb(tmp_path / "exploded")}))
    with pytest.raises(UserError, match="posix.mkdir"):
        load_numpy_pickle(tmp_path / "a.ckpt")
    assert not (tmp_path / "exploded").exists()


def test_a_plain_pickle_named_pt_is_refused(tmp_path):
    (tmp_path / "1.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(UserError, match=r"1\.pt: found no whole \.pt file"):
        load_torch(tmp_path / "1.pt")
    assert not (tmp_path / "exploded").exists()


def test_args_of_the_original_are_read_without_its_classes(shared):
    args = json.loads(str(read_npz(shared / "reference" / "synthetics_128.npz")["args"]))
    assert args["train"]["train_size"] == 128 and args["data"]["data_name"] == "mnist"


def test_a_checkpoint_of_the_original_is_read_without_its_classes(shared):
    content = load_torch(shared / "reference" / "16.pt")
    assert content["args"].train.train_size == 16
    assert "parse_utils" not in sys.modules


def broken(path, how):
    save_npz(path, samples=np.zeros((4, 1, 8, 8), "f4"))
    data = path.read_bytes()
    content = {
        "empty": b"",
        "truncated": data[: len(data) // 2],
        "random": np.random.default_rng(0).bytes(500),
        "text": b"hello",
        "flipped": data[:200] + bytes(255 - b for b in data[200:260]) + data[260:],
    }[how]
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["empty", "truncated", "random", "text", "flipped"])
def test_a_broken_npz_is_named(tmp_path, how):
    broken(tmp_path / "7.npz", how)
    with pytest.raises(UserError, match=r"7\.npz: found no readable \.npz file"):
        read_npz(tmp_path / "7.npz")


@pytest.mark.parametrize("keep", [0, 10, 500])
def test_a_broken_pt_is_named(tmp_path, keep):
    save_torch(tmp_path / "7.pt", {"x": torch.zeros(1000)})
    (tmp_path / "7.pt").write_bytes((tmp_path / "7.pt").read_bytes()[:keep])
    with pytest.raises(UserError, match=r"7\.pt: found no whole \.pt file"):
        load_torch(tmp_path / "7.pt")


def test_a_text_under_another_name_is_no_checkpoint(tmp_path):
    (tmp_path / "README.md").write_text("# hello\n")
    with pytest.raises(UserError, match=r"README\.md: found no whole \.pt file"):
        load_torch(tmp_path / "README.md")


def test_a_header_that_claims_a_trillion_images_allocates_nothing(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1, 8, 8), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    with zipfile.ZipFile(tmp_path / "1.npz", "w") as archive:
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
        archive.writestr("samples.npy", start + header + b"\0" * 64)
    with pytest.raises(UserError, match="the header claims"):
        read_npz(tmp_path / "1.npz")


def test_a_missing_key_names_what_is_there(tmp_path):
    save_npz(tmp_path / "1.npz", other=np.zeros(1))
    with pytest.raises(UserError, match=r"no 'samples' \(it holds: other\)"):
        read_npz(tmp_path / "1.npz", ["samples"])


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match="results"):
        check_writable(tmp_path / "results" / "models")


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    for name, age in (("old", storage.ABANDONED_SECONDS + 60), ("new", 0)):
        part = tmp_path / f".{name}{storage.PART}"
        part.write_text("")
        os.utime(part, (time.time() - age,) * 2)
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [f".new{storage.PART}"]
