"""The bar of a whole sweep: what it counts, and the time that it tells."""

import json
import os
import sys
import time

import pytest

from tests.helpers.runs import DIGITS, SMALL
from utils.cli.options.sections import PipelineStage
from utils.cli.parse import parse
from utils.cli.progress import QUIET
from utils.stages.pipeline import progress
from utils.stages.pipeline.plans import plan_all
from utils.stages.pipeline.progress import (
    SweepProgress,
    WorkItem,
    announcement,
    duration_text,
    work_of_sweep,
)


def sweep(root, *flags):
    given = [
        "--config_path",
        DIGITS,
        *SMALL,
        "--timesteps",
        "60",
        "--iterations",
        "40",
        "--root",
        root,
        *flags,
    ]
    return parse(PipelineStage, [str(word) for word in given], "")


def log(root, k, **row):
    folder = root / "training" / str(k) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stats.jsonl").write_text(json.dumps({"loss": 0.5, **row}) + "\n")


def test_it_counts_what_the_files_say(tmp_path):
    options = sweep(tmp_path, "--sizes", "2,8", "--basins", "False", "--samples", "24")
    plans = plan_all(options)
    bar = SweepProgress(work_of_sweep(options, plans, [2, 8]), jobs=1)
    train, batch = options.train, options.train.global_batch_size
    steps = 3 * train.iterations * batch
    assert bar.done() == 0 and bar.seconds_left() is None
    log(tmp_path, 2, step=10, images_per_second=100.0)
    assert bar.done() == pytest.approx(steps / 4)
    # 300 evaluations a second, in one process
    assert bar.seconds_left() == pytest.approx((bar.total - steps / 4) / 300)
    log(tmp_path, 2, step=40, images_per_second=100.0)
    (tmp_path / "synthetics").mkdir()
    (tmp_path / "synthetics" / "2.npz").touch()
    assert bar.done() == pytest.approx(steps + 24 * options.generate.steps)
    assert bar.total == 2 * (steps + 24 * options.generate.steps + progress.FIGURES)


def test_what_is_asked_for_is_counted_and_announced(tmp_path):
    few = sweep(tmp_path, "--sizes", "2,8", "--basins", "False")
    every = ("--curvature", "--generalization", "--machines")
    more = sweep(tmp_path, "--sizes", "2,8", *every)
    amounts, words = [], []
    for options in (few, more):
        plans = plan_all(options)
        amounts.append(SweepProgress(work_of_sweep(options, plans, [2, 8]), 1).total)
        words.append(announcement(options, plans, [2, 8]))
    assert amounts[0] < amounts[1]
    assert all("K = 2, 8: 2 models are trained (40 steps each" in text for text in words)
    names = ("critical times", "energies", "curvature", "tests of generalization")
    for name in (*names, "denoisers in closed form"):
        assert name not in words[0] and name in words[1]


def test_the_bar_ends_whole_and_leaves_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    monkeypatch.delenv(QUIET, raising=False)
    stdout = sys.stdout
    bar = SweepProgress([WorkItem(10, lambda: 0.5, lambda: 1.0), WorkItem(90, lambda: 0.0)], jobs=2)
    with bar.running():
        bar.set_phase("one thing")
        assert os.environ[QUIET] == "1"
        time.sleep(0.2)
        print("a line\nand another")
    assert bar.bar.n == 100 and QUIET not in os.environ and sys.stdout is stdout
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "about a minute more on this machine",
        "a line",
        "and another",
    ]
    assert "one thing: 100%" in printed.err


def test_an_error_passes_through(monkeypatch):
    monkeypatch.setenv(QUIET, "0")
    bar = SweepProgress([WorkItem(10, lambda: 0.0)], jobs=1)
    with pytest.raises(ZeroDivisionError), bar.running():
        raise ZeroDivisionError
    assert os.environ[QUIET] == "0"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "a minute"), (200, "3 minutes"), (5 * 3600, "5 hours"), (3 * 86_400, "3 days")],
)
def test_times_in_words(seconds, words):
    assert duration_text(seconds) == words
