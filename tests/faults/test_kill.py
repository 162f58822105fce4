"""Killed anywhere and started again: the same files as a run without a fault."""

import signal
import time

import pytest

from tests.helpers.processes import (
    STAGES,
    assert_stopped,
    chance,
    finished,
    go_on,
    kept,
    start,
    tries_of,
)
from tests.helpers.trials import FULL

EARLIEST = 0.3  # seconds: before that Python itself is starting


def moments(made, how, tries):
    """Where the run is cut short, `tries` times: at a change of a file, at a time, in a write.

    Changes and sizes can be repeated exactly; times find what changes no file."""
    draw = chance(made.stage.name, how)
    kinds = ("change", "time", "change", "write") if how == "kill" else ("change", "time")
    for i in range(tries):
        kind = kinds[i % len(kinds)]
        if kind == "change":
            yield kind, draw.randint(1, len(made.events))
        elif kind == "time":
            yield kind, draw.uniform(EARLIEST, made.seconds)
        else:
            yield kind, draw.randint(200, made.largest - 1)


def cut_short(made, folder, how, kind, where):
    """Run the stage in folder, with a fault; its exit code and stderr."""
    if kind == "time":
        process = start(made.stage, folder)
        time.sleep(where)
        process.send_signal(HOW[how])
    elif kind == "change":
        process = start(made.stage, folder, M2G_FAULT=f"{how}:{where}")
    else:
        process = start(made.stage, folder, size=where, M2G_FAULT="cut")
    asked = time.monotonic()
    code, _, stderr = finished(process)
    if how == "int" and kind == "time":
        # 5 seconds are promised; a machine that does other things too may take longer
        assert time.monotonic() - asked < 10
    return code, stderr


HOW = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
# In the quick part those that write in different ways: steps, shards, parts.
QUICK = [("train", "kill"), ("generate", "kill"), ("distances", "kill")]
QUICK += [("train", "term"), ("distances", "int")]
FRACTION = {"kill": 1, "term": 1, "int": 4}  # Ctrl-C goes the way of SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"), [(name, how) for name in STAGES for how in HOW] if FULL else QUICK
)
def test_stopped_and_started_again(name, how, undisturbed_in, tally, tmp_path):
    made = undisturbed_in(name)
    for kind, where in moments(made, how, tries_of(name, FRACTION[how]) if FULL else 1):
        with tally.attempt(name, HOW[how].name, f"{kind} {where}"):
            folder = made.place(tmp_path / "again")
            code, stderr = cut_short(made, folder, how, kind, where)
            if how == "kill":
                # the workers of --jobs tell their parent that a write failed
                allowed = {-signal.SIGKILL, -signal.SIGXFSZ, 0, *([2] if kind == "write" else [])}
                assert code in allowed, (code, stderr)
            else:
                assert_stopped(code, stderr)
            before = kept(made.stage, folder)
            go_on(made.stage, folder)
            made.assert_same(folder)
            after = kept(made.stage, folder)
            twice = [str(path) for path in before if path in after and before[path] != after[path]]
            assert not twice, f"made twice: {twice}"
