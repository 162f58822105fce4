"""One bar for a whole sweep: what there is to do, how much of it is done, how long it may take.

Work is counted in evaluations of the network for one image. What is no evaluation, such as
drawing figures, counts as many as take as long with the demo's network; with a larger one it
hardly matters."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.options.sections import PipelineStage
from utils.cli.progress import QUIET, progress
from utils.inputs.denoisers import sampling_steps
from utils.stages.pipeline.plans import Plan
from utils.stages.pipeline.settings import REFERENCES

POLL_SECONDS = 1.0
STEP = 3  # evaluations that a training step takes for an image: forwards, and twice as much back
# Evaluations of the demo's network that take as long, measured on 2 cores.
FIGURES = 8_000  # the figures of one K
PICTURE = 1_500  # a picture of what is recovered
CLASSES_FILLED = 2  # of three, on average, have samples at one K
FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left"


@dataclass(frozen=True)
class WorkItem:
    """Some work of a sweep. amount: in evaluations; share: of it that is done, 0 to 1, from the
    files that are there; rate: evaluations a second of its process, where they are measured."""

    amount: float
    share: Callable[[], float]
    rate: Callable[[], float | None] = lambda: None


def work_of_sweep(
    options: PipelineStage, plans: Sequence[Plan], sizes: Sequence[int]
) -> list[WorkItem]:
    """The work of a sweep; its measurements of classes are estimated."""
    root, wanted = Path(options.pipeline.root), options.pipeline
    items = [item for plan in plans for item in work_of_plan(options, plan)]
    judged = [root / "identified" / "summary" / f"{k}.json" for k in sizes]
    items += [WorkItem(FIGURES, lambda path=path: float(path.exists())) for path in judged]

    def files(folder: str, amount: float, count: int = CLASSES_FILLED * len(sizes)) -> WorkItem:
        """Work that leaves `count` files, one for each class and K."""
        return WorkItem(count * amount, lambda: len(list((root / folder).glob("**/*.npz"))) / count)

    if wanted.basins:
        one = options.critical_times
        scanned = plans[-1].args["train"]["timesteps"] / one.stride
        searched = math.log2(scanned) + 1 if one.search == "bisect" else scanned / 4
        amount = sample_count(one) * one.p_trials * one.ddim_steps * searched
        items.append(files("times", amount + PICTURE))
        path = 1.5 * REFERENCES * options.energy.path_points  # and once with half as many points
        items.append(files("energies", sample_count(options.energy) * path))
    if wanted.curvature:
        one, side = options.curvature, plans[-1].args["model"]["image_size"]
        items.append(files("curvature", sample_count(one) * len(one.t) * 6 * side**2))
    if wanted.generalization:
        one = options.generalization
        amount = 4 * one.probe_size * one.noises * len(one.t)
        items.append(files("generalization", amount, count=len(sizes)))
    if wanted.machines:
        one = options.machines
        # Of each image about as much for all machines as for twenty evaluations of a network.
        items.append(files("machines", 60 * one.images * len(one.t), count=len(sizes)))
    return items


def sample_count(options: Any) -> int:
    """How many images of a class are measured, at most."""
    return options.sample_size if options.sample_size > 0 else 2048


def work_of_plan(options: PipelineStage, plan: Plan) -> Iterator[WorkItem]:
    """The training and the sampling of one model."""
    if plan.training:
        train = plan.training.train

        def trained() -> float:
            row = plan.last_log_row
            return row["step"] / train.iterations if row else 0.0

        def rate() -> float | None:
            speed = (plan.last_log_row or {}).get("images_per_second")
            return STEP * speed if speed else None

        yield WorkItem(STEP * train.iterations * train.global_batch_size, trained, rate)
    calls = sampling_steps(options.generate, plan.args["train"]["timesteps"])
    yield WorkItem(options.pipeline.samples * calls, lambda: float(plan.synthetic.exists()))


def announcement(options: PipelineStage, plans: Sequence[Plan], sizes: Sequence[int]) -> str:
    """What the sweep will do, in a few words."""
    wanted = options.pipeline
    trained = sum(plan.training is not None for plan in plans)
    models = f"{trained} models are trained ({options.train.iterations} steps each)"
    if not trained:
        models = f"the {len(plans)} models of {wanted.models} are examined"
    measured = ["distances", "classes"]
    measured += ["critical times", "energies"] if wanted.basins else []
    measured += ["curvature"] if wanted.curvature else []
    measured += ["tests of generalization"] if wanted.generalization else []
    measured += ["denoisers in closed form"] if wanted.machines else []
    together = f", {wanted.jobs} at a time" if wanted.jobs > 1 else ""
    return (
        f"\nK = {', '.join(map(str, sizes))}: {models}{together}, and draw {wanted.samples} images "
        f"each;\nthen {', '.join(measured)}, and a report in {wanted.root}.\n"
        "Ctrl-C saves; the same command goes on."
    )


class SweepProgress:
    """The bar. jobs: processes side by side."""

    def __init__(self, items: Sequence[WorkItem], jobs: int) -> None:
        self.items, self.jobs = items, jobs
        self.total = sum(item.amount for item in items)
        self.estimate_printed = False
        self.bar: Any = None
        self._ended = threading.Event()

    def done(self) -> float:
        """In evaluations."""
        return sum(item.amount * min(item.share(), 1.0) for item in self.items)

    def set_phase(self, phase: str) -> None:
        """Name the stage that begins."""
        if self.bar is not None:
            self.bar.set_description_str(phase)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The bar while the body runs; the bars of its stages are off, its lines are above."""
        quiet = os.environ.get(QUIET)
        start = self.done()
        with progress(total=self.total, initial=start, desc="sweep", bar_format=FORMAT) as self.bar:
            os.environ[QUIET] = "1"
            watch = threading.Thread(target=self._watch, daemon=True)
            watch.start()
            try:
                with redirect_stdout(PrintAboveBar(sys.stdout)):
                    yield
                self.bar.update(self.total - self.bar.n)
            finally:
                self._ended.set()
                watch.join()
                os.environ.pop(QUIET)
                if quiet is not None:
                    os.environ[QUIET] = quiet

    def _watch(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            with suppress(UserError):  # of a log that cannot be read: its stage says so
                self.bar.update(max(0.0, self.done() - self.bar.n))
                self._print_estimate()

    def _print_estimate(self) -> None:
        """Say once how long the sweep may take, by the speed of this run's first steps."""
        if self.estimate_printed or not (seconds := self.seconds_left()):
            return
        self.estimate_printed = True
        print(f"about {duration_text(seconds)} more on this machine", flush=True)

    def seconds_left(self) -> float | None:
        """By the speed of the first steps of a training; None before they are measured."""
        rates = [rate for item in self.items if item.share() < 1 and (rate := item.rate())]
        return (self.total - self.done()) / (max(rates) * self.jobs) if rates else None


def duration_text(seconds: float) -> str:
    """A time to wait: `4 minutes`, `7 hours`, `3 days`."""
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return "a minute"


class PrintAboveBar:
    """A stdout whose lines appear above the bar."""

    def __init__(self, stdout: Any) -> None:
        self._stdout, self._line = stdout, ""

    def write(self, text: str) -> int:
        from tqdm import tqdm

        *lines, self._line = (self._line + text).split("\n")
        if lines:
            # on a terminal the bar is taken away meanwhile
            bars = tqdm.external_write_mode(sys.stderr) if sys.stderr.isatty() else nullcontext()
            with bars:
                self._stdout.write("".join(f"{line}\n" for line in lines))
                self._stdout.flush()
        return len(text)

    def flush(self) -> None:
        self._stdout.flush()
