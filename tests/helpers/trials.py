"""How often a fault is tried, and its only allowed outcomes: a right answer, or one line."""

from __future__ import annotations

import io
import json
import os
import resource
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings

from utils.cli.errors import UserError
from utils.inputs.checkpoints import load_checkpoint
from utils.inputs.samples import load_synthetics

GIBIBYTE = 2**30
LIMITED = Path("/proc/self/statm").exists()


@contextmanager
def within_a_gibibyte():
    """A real limit: what would take more memory fails, here and now."""
    if not LIMITED:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + GIBIBYTE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(call: Callable[[], Any], *names: str) -> tuple[str | None, Any]:
    """The user's error of a call, which names one of names; or None and the answer."""
    try:
        with within_a_gibibyte(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return None, call()
    except UserError as error:
        message = str(error)
        assert "\n" not in message and "; " in message and len(message) < 2000, message[:3000]
        assert any(name in message for name in names), f"{message!r} names none of {names}"
        cause: BaseException | None = error
        while cause is not None:
            assert not isinstance(cause, MemoryError), f"memory ran out: {message}"
            cause = cause.__cause__ or cause.__context__
        return message, None


class Counted:
    """Counts tries for the table; hypothesis reports how the file of a failed try was damaged."""

    def __init__(self) -> None:
        self.tried = self.failed = 0

    @contextmanager
    def attempt(self):
        self.tried += 1
        self.failed += 1
        yield
        self.failed -= 1


@contextmanager
def told_in(tally, stage: str, fault: str):
    counted = Counted()
    try:
        yield counted
    finally:
        row = tally.rows[stage, fault]
        row[0] += counted.tried
        row[1] += counted.tried - counted.failed


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,  # shrinking one of them is long enough
    )


TRIES = int(os.environ.get("M2G_TRIES", 2))  # of each fault: 20 in `make faults`
FULL = TRIES > 2


def refusal(path):
    """The error that reading path gives; None where it is read, and read into what it should be."""
    try:
        if path.suffix == ".pt":
            result = load_checkpoint(path)
            for state in (result.model, result.ema):
                assert state and all(torch.isfinite(value).all() for value in state.values())
            assert type(result.k) is int and type(result.iterations) is int
            assert isinstance(result.opt, dict) and isinstance(result.rng, dict)
            _ = result.fingerprint
        else:
            result = load_synthetics(path)
            assert result.samples.dtype == np.float32 and np.isfinite(result.samples).all()
        assert all(isinstance(result.args[name], dict) for name in ("data", "train", "model"))
        json.dumps(result.args)
    except UserError as error:
        assert "\n" not in str(error) and path.name in str(error), str(error)
        return str(error)
    return None
