"""Scripts and their options in tests: small real runs on 8 x 8 digits, in a second or two."""

from __future__ import annotations

import io
import os
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from utils.cli.errors import UserError
from utils.cli.options.sections import (
    SECTIONS,
    AuditStage,
    ClassifyStage,
    CriticalTimesStage,
    CurvatureStage,
    DistancesStage,
    EnergyStage,
    GeneralizationStage,
    GenerateStage,
    MachinesStage,
    PipelineStage,
    ToyAllStage,
    ToyBasinStage,
    ToyDataStage,
    ToyExactStage,
    ToyPlotsStage,
    ToyTrainStage,
    TrainStage,
)
from utils.cli.parse import parse

ROOT = Path(__file__).parents[2]
# Those with commands to type; a page may need what the pages before it have written.
COMMAND_PAGES = ("README.md", "docs/audit.md", "docs/sweeps.md", "docs/stages.md")
COMMAND_PAGES += ("docs/descriptors.md", "docs/machines.md", "docs/toy.md")
DIGITS = str(ROOT / "configs" / "digits.yaml")
SMALL = [
    *("--dim-mults", "1", "--image-size", "8", "--attn-resolutions", "4", "--valid-size", "8"),
    *("--global-batch-size", "4", "--log-every", "2", "--ckpt-every", "2"),
    *("--keep-checkpoints", "0", "--device", "cpu", "--timesteps", "20"),
]

QUICK = ["--config_path", DIGITS, str(ROOT / "tests" / "quick.yaml")]
FAST = [*QUICK, *SMALL, "--iterations", "20", "--ckpt-every", "10", "--timesteps", "30"]


def train_options(folder: Path, *flags: str) -> TrainStage:
    """Options of a tiny training below folder: 4 steps on K = 8 digits unless flags say else."""
    paths = ["--results-path", str(folder / "run"), "--model-path", str(folder / "models")]
    own = ["--iterations", "4", "--train-size", "8"]
    return parse(TrainStage, ["--config_path", DIGITS, *SMALL, *paths, *own, *map(str, flags)])


def with_options(stage: type, **values: dict):
    """A stage's options from dicts, one a section: `with_options(Stage, run={"device": "cpu"})`."""
    names = stage.__dataclass_fields__
    return stage(**{name: SECTIONS[name](**values.get(name, {})) for name in names})


def run_script(script: str, *flags: object, cwd: Path = ROOT, **environment: str):
    """A script as a user runs it; returns the finished process with its text."""
    env = {**os.environ, "PYTHONHASHSEED": "0", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / script) if script != "-c" else script, *map(str, flags)],
        cwd=cwd,
        env={**env, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def run_here(script: str, *flags: object, cwd: Path = ROOT, **environment: str):
    """`run_script` without a process of its own, which costs seconds for importing PyTorch.

    For what a script tells, writes and returns; signals are left to the process of the tests."""
    words = [str(ROOT / script), *map(str, flags)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", words)
        for name, value in {"COLUMNS": "100", **environment}.items():
            patch.setenv(name, value)
        for name in ("stop_at_once", "ignore_for_good"):
            patch.setattr(f"utils.cli.main.{name}", lambda: None)
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as ended:
            code = ended.code or 0
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def assert_one_line(done: subprocess.CompletedProcess, *words: str) -> None:
    """The user's error: exit code 2, one line on stderr that holds each of words."""
    lines = [line for line in done.stderr.splitlines() if "%|" not in line and line.strip()]
    assert done.returncode == 2, done.stderr or done.stdout
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


def ok(script: str, *flags: object, run=run_script):
    """A script that must succeed; returns the finished process with its text."""
    done = run(script, *flags)
    assert done.returncode == 0, done.stderr
    return done


HELP = ROOT / "tests" / "help"
SCRIPTS = sorted(p.name for p in ROOT.glob("*.py"))
STAGE_OF = {
    "train_unet.py": TrainStage,
    "run_generate.py": GenerateStage,
    "run_distances.py": DistancesStage,
    "run_classify.py": ClassifyStage,
    "run_critical_times.py": CriticalTimesStage,
    "run_energy.py": EnergyStage,
    "run_curvature.py": CurvatureStage,
    "run_generalization.py": GeneralizationStage,
    "run_machines.py": MachinesStage,
    "run_audit.py": AuditStage,
    "run_pipeline.py": PipelineStage,
    "toy_example.py data": ToyDataStage,
    "toy_example.py exact": ToyExactStage,
    "toy_example.py train": ToyTrainStage,
    "toy_example.py plots": ToyPlotsStage,
    "toy_example.py basin": ToyBasinStage,
    "toy_example.py all": ToyAllStage,
}
# what --help is asked of: scripts, and the commands of one that has commands
HELPED = sorted({*SCRIPTS, *STAGE_OF})


def help_file(command):
    return HELP / f"{command.replace(' ', '.')}.txt"


def complaint(*words: str):
    """The user's error whose message holds words in this order."""
    return pytest.raises(UserError, match=".*".join(map(re.escape, words)))
