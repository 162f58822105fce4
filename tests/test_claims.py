"""Claims of a target: one owner, and the dead are succeeded."""

import errno
import json
import os
import socket
import time

import pytest

from utils import claims
from utils.claims import claim


def test_one_target_one_owner(tmp_path):
    with claim(tmp_path / "1.npz") as first:
        with claim(tmp_path / "1.npz") as second, claim(tmp_path / "2.npz") as other:
            assert (first, second, other) == (True, False, True)
        with claim(tmp_path / "1.npz") as again:
            assert not again
    with claim(tmp_path / "1.npz") as free:
        assert free
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    with claim(tmp_path / "1.npz") as first, claim(tmp_path / "1.npz") as second:
        assert (first, second) == (True, False)
    assert not list(tmp_path.iterdir())


def test_a_mark_that_a_kill_cut_short_is_taken_over_when_it_is_old(tmp_path):
    mark = tmp_path / f".1.npz{claims.CLAIM}"
    mark.write_text("")
    with claim(tmp_path / "1.npz") as mine:
        assert not mine
    os.utime(mark, (time.time() - claims.STALE_SECONDS - 60,) * 2)
    with claim(tmp_path / "1.npz") as mine:
        assert mine
    assert not list(tmp_path.iterdir())


def test_a_mark_that_another_took_over_meanwhile_is_left_alone(tmp_path):
    mark = tmp_path / f".1.npz{claims.CLAIM}"
    mark.write_text("a living owner")
    assert not claims._bury(mark, "the dead one that we saw")
    assert mark.read_text() == "a living owner" and list(tmp_path.iterdir()) == [mark]


@pytest.mark.parametrize(
    ("host", "pid", "silent", "taken"),
    [
        ("this", 2**22 + 1, 0, True),  # no such process here
        ("other", 1, 0, False),
        ("other", 1, claims.STALE_SECONDS + 60, True),
    ],
)
def test_the_claim_of_a_dead_owner_is_taken_over(tmp_path, host, pid, silent, taken):
    mark = tmp_path / f".1.npz{claims.CLAIM}"
    name = socket.gethostname() if host == "this" else "elsewhere"
    mark.write_text(json.dumps({"host": name, "pid": pid, "id": "x"}))
    os.utime(mark, (time.time() - silent,) * 2)
    with claim(tmp_path / "1.npz") as mine:
        assert mine is taken
