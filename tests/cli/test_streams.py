"""Terminals that are closed, or go away in the middle: work goes on, with the right exit code."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from tests.helpers.runs import ROOT
from utils.cli.streams import Steady

WORK = """
import sys, time
sys.path.insert(0, {root!r})
from dataclasses import dataclass
from utils.cli.main import run_stage
from utils.cli.options.run import RunOptions
from utils.cli.progress import progress

@dataclass
class Stage:
    run: RunOptions

def main(options):
    print("name", {name!r}, flush=True)
    for _ in progress(range(3)):
        for line in range(2000):
            print("line", line, flush=True)
    open("done", "w").close()

run_stage(main, Stage, "A stage.", [])
"""


def work(folder, shell, name="a.png", **environment):
    """A stage that prints 6,000 lines, by a line of a shell, in which PYTHON stands for it."""
    (folder / "work.py").write_text(WORK.format(root=str(ROOT), name=name))
    line = shell.replace("PYTHON", f"{sys.executable} work.py")
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "shell",
    [
        "PYTHON 2>&-",
        "PYTHON >&-",
        "PYTHON >&- 2>&- <&-",
        "PYTHON | head -n 1; exit ${PIPESTATUS[0]}",
        "PYTHON 2>&1 | head -n 1; exit ${PIPESTATUS[0]}",
        "PYTHON > >(head -c 10 >/dev/null)",
    ],
)
def test_a_lost_terminal_stops_nothing(tmp_path, shell):
    done = work(tmp_path, shell)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").exists()
    assert b"Traceback" not in done.stderr and b"Error" not in done.stderr


@pytest.mark.parametrize("name", ["caf\u00e9.png", "\udce9.png", "\u5b57.png"])
def test_names_that_cannot_be_printed_are_escaped(tmp_path, name):
    done = work(tmp_path, "PYTHON", name, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert name.encode("ascii", "backslashreplace") in done.stdout


def test_files_that_are_opened_do_not_take_the_place_of_a_closed_stream(tmp_path):
    """Descriptor 2 would be given to the next file, and warnings would be written into it."""
    work(tmp_path, "PYTHON >&- 2>&-")
    assert (tmp_path / "done").read_text() == ""


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise OSError


def test_a_stream_that_is_lost_swallows_text():
    stream = Steady(Broken())
    assert stream.write("abc") == 3
    stream.flush()
    assert stream.getvalue() == ""
