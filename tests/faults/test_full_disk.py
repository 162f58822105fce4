"""A full disk, missing permission, a wrong clock: one line, whole files, and a rerun finishes."""

import os
import subprocess
from contextlib import contextmanager, suppress

import pytest

from tests.helpers.processes import (
    STAGES,
    chance,
    contents,
    finished,
    go_on,
    lines_of,
    run,
    start,
    tries_of,
)
from tests.helpers.trials import FULL


def assert_one_error(code, stderr, *words):
    """The user's error: code 2 and one line that holds one of words."""
    lines = lines_of(stderr)
    assert code == 2, (code, stderr[-2000:])
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert any(word in lines[0] for word in words), lines[0]


def assert_whole(made, folder):
    """What is there under its final name is what an undisturbed run makes."""
    there = contents(folder)
    common = [name for name in there if name in made.files]
    assert all(there[name] == made.files[name] for name in common)


def on_it_goes(made, folder):
    go_on(made.stage, folder)
    made.assert_same(folder)


def places(made, how, fraction):
    """The changes of files at which the fault comes: all of them, or TRIES / fraction."""
    all_of_them, count = range(1, len(made.events) + 1), tries_of(made.stage.name, fraction)
    if len(all_of_them) <= count:
        return list(all_of_them)
    return sorted(chance(made.stage.name, how).sample(all_of_them, count))


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES if FULL else ["generate"])
def test_a_file_that_may_not_grow(name, undisturbed_in, tally, tmp_path):
    """As with a quota, or `ulimit -f`: some bytes are written, the rest is not."""
    made = undisturbed_in(name)
    draw = chance(name, "size")
    sizes = [
        made.largest - 1,
        *(draw.randint(100, made.largest - 1) for _ in range(tries_of(name, 2) - 1)),
    ]
    for size in sizes if FULL else sizes[:1]:
        with tally.attempt(name, "file size limit", size):
            folder = made.place(tmp_path / "again")
            code, _, stderr = run(made.stage, folder, size=size)
            assert_one_error(code, stderr, "free space")
            assert_whole(made, folder)
            on_it_goes(made, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES if FULL else ["generate"])
def test_a_disk_that_is_full_from_some_write_on(name, undisturbed_in, tally, tmp_path):
    made = undisturbed_in(name)
    for place in places(made, "full", 2):
        with tally.attempt(name, "disk full", f"full:{place}"):
            folder = made.place(tmp_path / "again")
            code, _, stderr = run(made.stage, folder, M2G_FAULT=f"full:{place}")
            if code:  # the last change may be one that needs no room
                assert_one_error(code, stderr, "free space", "quota")
            assert_whole(made, folder)
            on_it_goes(made, folder)


@contextmanager
def small_disk(folder):
    """A file system that can be made small; a mere folder where mounting is not allowed."""
    folder.mkdir()
    mount, mounted = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)], False
    with suppress(OSError):
        mounted = not subprocess.run(mount, capture_output=True).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES if FULL else ["generate"])
def test_a_small_disk(name, undisturbed_in, tally, tmp_path):
    """A real one of a few kilobytes where that may be mounted, else files that may not grow."""
    made = undisturbed_in(name)
    with small_disk(tmp_path / "disk") as mounted, tally.attempt(name, "small disk", mounted):
        folder = made.place(tmp_path / "disk" / "again")
        used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if mounted:
            remount = f"remount,size={used + made.largest // 2 + 100_000}"
            subprocess.run(["mount", "-o", remount, str(tmp_path / "disk")], check=True)
        code, _, stderr = run(made.stage, folder, size=None if mounted else made.largest - 1)
        if code:
            assert_one_error(code, stderr, "free space")
        assert_whole(made, folder)
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=1g", str(tmp_path / "disk")], check=True)
        on_it_goes(made, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES if FULL else ["generate"])
def test_folders_that_become_read_only(name, undisturbed_in, tally, tmp_path):
    made = undisturbed_in(name)
    for place in places(made, "readonly", 4):
        with tally.attempt(name, "read-only", f"readonly:{place}"):
            folder = made.place(tmp_path / "again")
            code, _, stderr = run(made.stage, folder, M2G_FAULT=f"readonly:{place}")
            for path, _, _ in os.walk(folder):
                os.chmod(path, 0o755)
            if code:
                assert_one_error(code, stderr, "that you may write", "may write")
            assert_whole(made, folder)
            on_it_goes(made, folder)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["later", "earlier"] if FULL else ["earlier"])
@pytest.mark.parametrize("name", STAGES if FULL else ["generate"])
def test_a_clock_that_jumps(name, how, undisturbed_in, tally, tmp_path):
    """By an hour, in one of two processes over the same folder."""
    made = undisturbed_in(name)
    for place in places(made, how, 10):
        with tally.attempt(name, "clock jumps", f"{how}:{place}"):
            folder = made.place(tmp_path / "again")
            jumping = start(made.stage, folder, M2G_FAULT=f"{how}:{place}")
            other = start(made.stage, folder)
            for process in (jumping, other):
                code, _, stderr = finished(process)
                assert code == 0, stderr
            made.assert_same(folder)
