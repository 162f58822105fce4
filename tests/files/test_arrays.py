"""Arrays whose headers make no sense."""

import struct

import numpy as np
import pytest

from tests.helpers.formats import archive_of, members_of, npy
from tests.helpers.trials import refusal
from utils.cli.errors import UserError
from utils.files.arrays import read_npz, save_npz

pytestmark = pytest.mark.usefixtures("quiet_and_small")


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


def test_text_with_impossible_characters_is_refused(tmp_path):
    """Python would raise a SystemError somewhere later."""
    text = np.array("ab")
    broken = np.frombuffer(np.array([97, 0x110000], np.uint32).tobytes(), "U2").reshape(())
    save_npz(tmp_path / "a.npz", text=text)
    assert str(read_npz(tmp_path / "a.npz")["text"]) == "ab"
    np.savez(tmp_path / "b.npz", text=broken)
    with pytest.raises(UserError, match="text with impossible characters"):
        read_npz(tmp_path / "b.npz")
