"""The same command several times at once, on one host and on two: each K is made once."""

from fnmatch import fnmatch

import pytest

from tests.helpers.processes import STAGES, finished, run, run_to_the_end, start
from tests.helpers.trials import FULL

SEVERAL = (2, 8) if FULL else (2,)
HOSTS = [(name, hosts) for name in STAGES for hosts in (1, 2)]
QUICK = [("generate", 1), ("distances", 2)]


def renamed(events):
    """The names under which files have appeared."""
    parts = [line.split(" ", 1)[1] for line in events if line.startswith("os.rename ")]
    names = [path.rpartition("/") for path in parts]
    return [f"{folder}/{'.'.join(name.split('.')[1:3])}" for folder, _, name in names]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hosts"), HOSTS if FULL else QUICK)
def test_several_at_once_make_each_file_once(name, hosts, undisturbed_in, tally, tmp_path):
    made = undisturbed_in(name)
    for count in SEVERAL:
        with tally.attempt(name, f"{count} at once, {hosts} host{'s' * (hosts - 1)}"):
            folder = made.place(tmp_path / "again")
            lists = [tmp_path / f"{count}-{i}.events" for i in range(count)]
            processes = [
                start(made.stage, folder, M2G_EVENTS=str(events), elsewhere=bool(i % hosts))
                for i, events in enumerate(lists)
            ]
            for process in processes:
                code, _, stderr = finished(process, 900)
                assert code == 0, stderr
            made.assert_same(folder)
            names = [n for events in lists for n in renamed(events.read_text().splitlines())]
            once = [n for n in names if any(fnmatch(n, pattern) for pattern in made.stage.keeps)]
            assert once and sorted(once) == sorted(set(once))


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [1, 2] if FULL else [2])
@pytest.mark.parametrize("name", STAGES if FULL else ["distances"])
def test_no_job_waits_for_ever_for_an_owner_that_was_killed(
    name, hosts, undisturbed_in, tally, tmp_path
):
    """On its own host at once; from another one when its heartbeat has been away for long."""
    made = undisturbed_in(name)
    with tally.attempt(name, f"owner killed, {hosts} host{'s' * (hosts - 1)}"):
        folder = made.place(tmp_path / "again")
        linked = [i for i, event in enumerate(made.events) if event.startswith("os.link")]
        late = linked[-1] + 3  # the claim of the last K has just been taken
        code, _, _ = run(made.stage, folder, elsewhere=hosts == 2, M2G_FAULT=f"kill:{late}")
        assert code == -9 and list(folder.rglob("*.claim"))
        stdout = run_to_the_end(made.stage, folder, M2G_HURRY="1")
        assert ("waiting for another job" in stdout) == (hosts == 2)
        made.assert_same(folder)
