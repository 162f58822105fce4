"""Claims of a target: one owner; the claim of a dead owner is taken over."""

import errno
import json
import os
import time
from pathlib import Path

import pytest

from utils.cli.errors import Interrupted, UserError
from utils.files import atomic as storage
from utils.files.owners import this_host
from utils.jobs import claims
from utils.jobs.claims import claim

NOBODY = 2**22 + 1  # no process has this number


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


class Clock:
    """This process's own time, moved by hand."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(claims, "time", self)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(claims, "_seen", {})
    return Clock(monkeypatch)


def is_mine(folder):
    with claim(folder / "1.npz") as mine:
        return mine


def marked(folder, content, silent=0.0):
    mark = folder / f".1.npz{claims.CLAIM}"
    mark.write_bytes(content)
    os.utime(mark, (time.time() - silent,) * 2)
    return mark


def owned(host, pid):
    return json.dumps({"host": "h", "where": host, "pid": pid, "id": "x"}).encode()


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b"{}", owned("elsewhere", 1)])
def test_a_silent_mark_is_taken_over_after_it_was_watched(tmp_path, clock, content):
    marked(tmp_path, content, silent=claims.STALE_SECONDS + 60)
    assert not is_mine(tmp_path)
    clock.now += claims.SURE_SECONDS - 1
    assert not is_mine(tmp_path)
    clock.now += 1
    assert is_mine(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("silent", [0.0, -1e6])
def test_a_mark_that_seems_young_is_watched_for_longer(tmp_path, clock, silent):
    """As where its owner's clock was ahead of ours, or ours was set back."""
    marked(tmp_path, owned("elsewhere", 1), silent)
    assert not is_mine(tmp_path)
    clock.now += claims.STALE_SECONDS - 1
    assert not is_mine(tmp_path)
    clock.now += 1
    assert is_mine(tmp_path)


def test_a_clock_that_jumps_does_not_make_a_running_owner_stale(tmp_path, clock):
    for beat in range(30):  # an hour behind, for as long as it works
        marked(tmp_path, owned("elsewhere", 1), 3600 - beat)
        assert not is_mine(tmp_path)
        clock.now += claims.BEAT_SECONDS


def test_who_waits_takes_over(tmp_path, clock):
    marked(tmp_path, owned("elsewhere", 1), 3600)
    turns = claims.take_turns([1], lambda _: tmp_path / "1.npz", lambda _: False)
    assert list(turns) == [[1]]


def test_a_heartbeat_that_lost_its_mark_does_not_keep_it_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    with claim(tmp_path / "1.npz"):
        mark = tmp_path / f".1.npz{claims.CLAIM}"
        os.utime(mark, (0, 0))
        while mark.stat().st_mtime == 0:
            time.sleep(0.01)
        marked(tmp_path, owned("elsewhere", 1), 5000)
        before = mark.stat().st_mtime
        time.sleep(0.1)
        assert mark.stat().st_mtime == before
    assert mark.exists()  # and does not remove it


def test_what_the_dead_left_is_cleared_up_at_once(tmp_path):
    living = storage.part_of(tmp_path / "1.npz")
    dead = living.with_name(living.name.replace(f".{os.getpid()}.", f".{NOBODY}."))
    elsewhere = living.with_name(living.name.replace(f".{this_host()}.", ".0123abcd."))
    for part in (living, dead, elsewhere):
        part.touch()
    marked(tmp_path, owned(this_host(), NOBODY))
    claims.clear_up(tmp_path)
    assert set(tmp_path.iterdir()) == {living, elsewhere}
    os.utime(elsewhere, (time.time() - storage.ABANDONED_SECONDS - 60,) * 2)
    claims.clear_up(tmp_path)
    assert set(tmp_path.iterdir()) == {living}
    with claim(tmp_path / "1.npz"):  # nobody else may be writing it now
        assert not living.exists()


def test_a_mark_that_another_took_over_meanwhile_is_left_alone(tmp_path):
    mark = tmp_path / f".1.npz{claims.CLAIM}"
    mark.write_text("a living owner")
    assert not claims._remove_stale(mark, "the dead one that we saw")
    assert mark.read_text() == "a living owner" and list(tmp_path.iterdir()) == [mark]


@pytest.mark.parametrize(
    ("pid", "taken"), [(lambda: NOBODY, True), (os.getpid, False), (lambda: "x", True)]
)
def test_the_claim_of_a_dead_owner_here_is_taken_over_at_once(tmp_path, pid, taken):
    marked(tmp_path, owned(this_host(), pid()))
    assert is_mine(tmp_path) is taken


def test_a_full_disk_leaves_no_mark(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    before = Path.open

    def full(path, mode="r", *rest, **named):
        return Full(path) if mode == "x" else before(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match="free space"), claim(tmp_path / "1.npz"):
        pass
    assert not list(tmp_path.iterdir())


class Full:
    """A file on a full disk."""

    def __init__(self, path):
        path.touch()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def write(self, _):
        raise OSError(errno.ENOSPC, "full")


def test_other_ranks_are_waited_for_as_long_as_they_are_there(tmp_path, monkeypatch, capsys):
    """A part that somebody claims is awaited without end, ranks that never came ten minutes."""
    clock = Clock(monkeypatch)
    files = [tmp_path / f"{i}.npz" for i in range(3)]
    files[0].touch()
    ends = []

    def sleep(seconds):
        clock.now += 60
        os.utime(tmp_path / f".1.npz{claims.CLAIM}", (clock.now,) * 2)  # the owner's heartbeat
        if clock.now > 1000 + 3600 and not files[1].exists():
            ends.append(clock.now)
            files[1].touch()

    monkeypatch.setattr(claims.time, "sleep", sleep, raising=False)
    with claim(files[1]) as ours, pytest.raises(Interrupted, match="1 of 3 ranks never came"):
        assert ours
        claims.wait_for(files, Path.exists, "srun, K = 8")
    assert ends and 600 <= clock.now - ends[0] <= 720
    assert capsys.readouterr().out == "waiting for 2 of 3 ranks (srun, K = 8)\n"
    files[2].touch()
    claims.wait_for(files, Path.exists, "srun")
