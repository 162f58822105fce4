"""How often each fault is tried, and the table of what survived."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.processes import STAGES, Undisturbed, chain_in, undisturbed
from tests.helpers.sandbox import copy_inputs, prepared, waiting, without_pictures
from tests.helpers.trials import FULL, TRIES


class Tally:
    """Counts the tries of a fault, and lets the others go on where one of them fails."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        self.failures: list[str] = []

    @contextmanager
    def attempt(self, stage: str, fault: str, what: object = "") -> Iterator[None]:
        """One try: what names it so that it can be repeated."""
        row = self.rows[stage, fault]
        row[0] += 1
        try:
            yield
        except Exception as error:
            self.failures.append(f"{stage}, {fault}, {what}: {error or type(error).__name__}")
        else:
            row[1] += 1


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    counted = Tally()
    yield counted
    for names, counts in counted.rows.items():
        request.node.user_properties.append(("fault", [*names, *counts]))
    if counted.failures:
        pytest.fail("\n\n".join(counted.failures), pytrace=False)


@pytest.fixture(scope="session")
def tries() -> int:
    """Tries of a fault in each stage."""
    return TRIES


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[None]:
    with without_pictures():
        yield


@pytest.fixture(autouse=True)
def every_action_ran() -> Iterator[None]:
    """A patch of a name that the code no longer uses would otherwise pass unseen."""
    waiting.clear()
    yield
    assert not waiting


@pytest.fixture(scope="module")
def made(no_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The folder of `prepare`, and what each stage made of it."""
    return prepared(tmp_path_factory)


@pytest.fixture
def own(made: tuple[Path, dict], tmp_path: Path) -> Path:
    """A copy of that folder's inputs that a test may damage."""
    return copy_inputs(made[0], tmp_path)


@pytest.fixture(scope="session")
def undisturbed_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    """A stage's undisturbed run, by its name; made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent

    def run(name: str) -> Undisturbed:
        chain = chain_in(base / "chain")
        return undisturbed(STAGES[name], chain, base / name.replace(" ", "-"))

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table: stage, fault, tries, survived."""
    rows: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "teardown":
                for name, value in report.user_properties:
                    if name == "fault":
                        stage, fault, tried, survived = value
                        rows[stage, fault][0] += tried
                        rows[stage, fault][1] += survived
    if not rows or not FULL:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line("| stage | fault | tries | survived |")
    terminalreporter.write_line("| --- | --- | ---: | ---: |")
    for (stage, fault), (tried, survived) in sorted(rows.items()):
        terminalreporter.write_line(f"| {stage} | {fault} | {tried} | {survived} |")
