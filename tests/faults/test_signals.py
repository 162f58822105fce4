"""Ctrl-C at any time: one line, code 75, within seconds, whatever the program is doing."""

import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from tests.helpers.processes import (
    STAGES,
    assert_stopped,
    chance,
    command_of,
    finished,
    lines_of,
    start,
)
from tests.helpers.runs import ROOT
from tests.helpers.trials import FULL

BUSY = {
    "an exception that a library passes over": """
import time
while True:
    try:
        print("working", flush=True)
        time.sleep(0.1)
    except BaseException:
        pass
""",
    "one long call": """
import hashlib
print("working", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
""",
    "an exception that a library turns into its own": """
import time
try:
    print("working", flush=True)
    time.sleep(60)
except BaseException as error:
    raise ImportError("numpy could not be imported") from error
""",
}
PROGRAM = """
from utils.cli.main import run_stage
from utils.cli.options.sections import EnergyStage
def main(options):
    exec(CODE, {})
run_stage(main, EnergyStage, "", [])
"""


@pytest.mark.parametrize("what", BUSY)
def working(code):
    """A stage that does nothing but run the code, from where that says so."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("CODE", repr(code))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "working" not in process.stdout.readline():
        assert process.poll() is None
    return process


def assert_resumable(process):
    assert_stopped(*finished(process)[::2])
    assert process.returncode == 75


@pytest.mark.parametrize("what", BUSY)
def test_nothing_holds_it_up(what, tally):
    with tally.attempt("all", "Ctrl-C", what):
        process = working(BUSY[what])
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        assert_resumable(process)
        assert time.monotonic() - asked < 10  # 5 on a machine that does nothing else


IMPORTING = """
import sys
sys.path.insert(0, FOLDER)
import slow_to_import
while True:
    pass
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_import_is_not_cut_short(tmp_path, sign, tally):
    """Code in C++ that imports a module, as PyTorch's does, aborts on an exception there."""
    made = tmp_path / "made"
    (tmp_path / "slow_to_import.py").write_text(
        f"import time\nprint('working', flush=True)\ntime.sleep(1)\nopen({str(made)!r}, 'w')\n"
    )
    with tally.attempt("all", sign.name, "an import"):
        process = working(IMPORTING.replace("FOLDER", repr(str(tmp_path))))
        process.send_signal(sign)
        asked = time.monotonic()
        assert_resumable(process)
        assert made.exists() and time.monotonic() - asked < 3.5


def test_a_second_ctrl_c_does_not_wait_for_an_import(tmp_path, tally):
    (tmp_path / "slow_to_import.py").write_text(
        "import time\nprint('working', flush=True)\ntime.sleep(60)\n"
    )
    with tally.attempt("all", "Ctrl-C twice", "an import"):
        process = working(IMPORTING.replace("FOLDER", repr(str(tmp_path))))
        asked = time.monotonic()
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert_resumable(process)
        assert time.monotonic() - asked < 3.5


SLOW = """
import time
try:
    print("working", flush=True)
    time.sleep(60)
finally:
    time.sleep(60)
"""
LOST = """
import time
from pathlib import Path
from utils.cli import signals as interrupts
try:
    print("working", flush=True)
    time.sleep(60)
except BaseException:
    pass
"""
NEXT = {
    "a loop that saves": "with interrupts.stop_request(): Path(PATH).touch()",
    "the next K": "from utils.jobs.claims import take_turns\n"
    "for _ in take_turns([1], lambda _: Path(PATH), lambda _: False): Path(PATH).touch()",
    "none of ours": "interrupts.LEAVING_SECONDS = 1\ntime.sleep(20)\nPath(PATH).touch()",
}


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("what", NEXT)
def test_a_library_that_passes_over_the_exception(what, sign, tmp_path, tally):
    """No work begins afterwards."""
    with tally.attempt("all", sign.name, f"lost before {what}"):
        process = working(LOST + NEXT[what].replace("PATH", repr(str(tmp_path / "made"))))
        process.send_signal(sign)
        assert_resumable(process)
        assert not (tmp_path / "made").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES if FULL else ["train", "pipeline"])
def test_while_it_is_loading(name, tmp_path, tally, tries):
    """From its first import to the first thing that it reads."""
    (tmp_path / "tiny.yaml").write_text("data: {data_name: digits}")
    for i in range(max(1, tries // 4)):
        moment = chance(name, "loading", i).uniform(0.1, 1.5)
        with tally.attempt(name, "Ctrl-C while loading", f"{moment:.3f} s"):
            process = start(STAGES[name], tmp_path, "--dry-run")
            time.sleep(moment)
            process.send_signal(signal.SIGINT)
            code, _, stderr = finished(process)
            if code != 2:  # what it should read is not there
                assert_stopped(code, stderr)


def test_the_second_ctrl_c_does_not_wait(tally):
    """The first one saves; whoever cannot wait for that presses it again."""
    with tally.attempt("all", "Ctrl-C twice"):
        process = working(SLOW)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert_resumable(process)
        assert time.monotonic() - asked < 3.5


def test_what_the_shell_ignores_stays_ignored(tmp_path, tally):
    """`nohup` and a script's background: a signal for others does not end the job."""
    with tally.attempt("all", "ignored signal"):
        process = subprocess.Popen(
            command_of(STAGES["toy"], "--help"),
            cwd=tmp_path,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        code, stdout, stderr = finished(process)
        assert code == 0 and "usage" in stdout and not lines_of(stderr)
