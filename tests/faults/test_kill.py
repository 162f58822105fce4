"""Killed anywhere, and started again: the files of a run that nothing happened to."""

import signal
import time

import pytest

from tests.faults.stages import STAGES, chance, finished, kept, lines_of, run_to_the_end, start

EARLIEST = 0.3  # seconds: before that Python itself is starting


def moments(made, how, tries):
    """Where the run is cut short, `tries` times: at a change of a file, at a time, in a write.

    Changes and sizes can be repeated exactly; times find what changes no file."""
    draw = chance(made.stage.name, how)
    size = max(map(len, made.files.values()))
    kinds = ("change", "time", "change", "write") if how == "kill" else ("change", "time")
    for i in range(tries):
        kind = kinds[i % len(kinds)]
        if kind == "change":
            yield kind, draw.randint(1, len(made.events))
        elif kind == "time":
            yield kind, draw.uniform(EARLIEST, made.seconds)
        else:
            yield kind, draw.randint(200, size - 1)


def cut_short(made, folder, how, kind, where):
    """Run the stage in folder, with a fault; its exit code and what it told on stderr."""
    if kind == "time":
        process = start(made.stage, folder)
        time.sleep(where)
        process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
    elif kind == "change":
        process = start(made.stage, folder, M2G_FAULT=f"{how}:{where}")
    else:
        process = start(made.stage, folder, size=where, M2G_FAULT="cut")
    code, _, complaint = finished(process)
    return code, complaint


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "term"])
@pytest.mark.parametrize("name", STAGES)
def test_killed_and_started_again(name, how, undisturbed_in, tally, tries, tmp_path):
    made = undisturbed_in(name)
    for kind, where in moments(made, how, tries if tries > 2 else 1):
        with tally.attempt(name, f"SIG{how.upper()}", f"{kind} {where}"):
            folder = made.place(tmp_path / "again")
            code, complaint = cut_short(made, folder, how, kind, where)
            if how == "kill":
                # workers of the pipeline tell their parent that a write failed
                allowed = {-signal.SIGKILL, -signal.SIGXFSZ, 0, *([2] if kind == "write" else [])}
                assert code in allowed, (code, complaint)
            else:
                told = lines_of(complaint)
                assert code in (75, 0), (code, complaint)
                assert not told or (len(told) == 1 and told[0].startswith("stopped: ")), told
                assert told or code == 0
            before = kept(made.stage, folder)
            run_to_the_end(made.stage, folder)
            made.assert_same(folder)
            after = kept(made.stage, folder)
            twice = [str(path) for path in before if path in after and before[path] != after[path]]
            assert not twice, f"made twice: {twice}"
