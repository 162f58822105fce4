"""Stages as processes on tiny real inputs, and the files that must be the same after any fault."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from tests.helpers.runs import ROOT, ok, run_here
from tests.helpers.trials import FULL, TRIES
from utils.files.atomic import write_json
from utils.jobs.claims import take_turns

HOOKS = ROOT / "tests" / "faults"  # with sitecustomize.py
CONFIG = """
data: {data_name: digits, results_path: training}
train:
  {train_size: 8, iterations: 12, ckpt_every: 4, log_every: 4, global_batch_size: 4, valid_size: 8,
   timesteps: 20, lr: 1.0e-3, ema_decay: 0.9, keep_checkpoints: 2, model_path: models}
model: {image_size: 8, in_channels: 1, dim: 32, dim_mults: [1], attn_resolutions: [4],
  num_res_blocks: 1}
generate: {sampler: ddim, steps: 4, batch_size: 6, num_samples: 24}
distances: {use_lpips: true, k: 2}
classify: {delta_m: 0.2, delta_s: 0.2, top_size: 6, least_size: 2, k: 2}
critical_times: {sample_size: 3, stride: 5, ddim_steps: 2, p_trials: 2, batch_size: 8}
energy: {sample_size: 4, batch_size: 16, path_points: 4}
curvature: {sample_size: 2, t: [5], normal_points: 70, batch_size: 64}
generalization: {t: [2, 10], probe_size: 8, noises: 2, cells: 2, held_out_size: 60}
machines: {t: [2, 10], images: 6, sides: [1, 3], side_images: 3, most_patches: 20, seeds: 2}
pipeline: {sizes: [2, 8], samples: 24, metric: l2, criterion: delta, jobs: 1, root: sweep}
"""
TOY = ("--results-path", "toy", "--sample-size", "2,5")
SHORT = ("--n-iter", 60, "--sampling-freq", 20, "--global-batch-size", 8)


SWEEP = (
    *("sweep/training/*/checkpoints/*.pt", "sweep/models/*.pt", "sweep/dists/*.npz"),
    *("sweep/generations/*/*.npz", "sweep/synthetics/*.npz", "sweep/energies/*/*.npz"),
    *("sweep/times/*/*.npz", "sweep/identified/summary/*.json"),
)


@dataclass(frozen=True)
class Stage:
    """One command of a user, what it reads, and which of its files are never made twice.

    reads: folders of the chain that are there when it starts."""

    name: str
    command: tuple
    reads: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()


def of(script: str, *flags: object) -> tuple:
    return (script, "--config_path", "tiny.yaml", *flags)


DRAW = ("--result-path", "generations/8", "--ckpt-path", "models/8.pt")
STAGES = {
    stage.name: stage
    for stage in (
        Stage("train", of("train_unet.py"), keeps=("training/checkpoints/*.pt", "models/*.pt")),
        Stage(
            "generate",
            of("run_generate.py", *DRAW, "--synth-path", "synthetics"),
            reads=("models",),
            keeps=("generations/8/*.npz", "synthetics/*.npz"),
        ),
        Stage(
            "distances",
            of("run_distances.py", "--synth-path", "synthetics", "--result-path", "dists"),
            reads=("synthetics",),
            keeps=("dists/*.npz", "embeddings/*/*.npy"),
        ),
        Stage(
            "classify",
            of(
                *("run_classify.py", "--dist-path", "dists", "--eval-path", "synthetics"),
                *("--result-path", "identified"),
            ),
            reads=("synthetics", "dists"),
            keeps=("identified/summary/*.json",),
        ),
        Stage(
            "critical times",
            of("run_critical_times.py", "--ckpt-path", "models", "--result-path", "times"),
            reads=("models",),
            keeps=("times/*.npz",),
        ),
        Stage(
            "energy",
            of(
                *("run_energy.py", "--ckpt-path", "models", "--result-path", "energies"),
                *("--ref-path", "reference.npz"),
            ),
            reads=("models", "reference.npz"),
            keeps=("energies/*.npz",),
        ),
        Stage(
            "curvature",
            of("run_curvature.py", "--ckpt-path", "models", "--result-path", "curvature"),
            reads=("models",),
            keeps=("curvature/*.npz",),
        ),
        Stage(
            "generalization",
            of(
                *("run_generalization.py", "--ckpt-path", "models"),
                *("--synth-path", "synthetics", "--result-path", "generalization"),
            ),
            reads=("models", "synthetics"),
            keeps=("generalization/*.json",),
        ),
        Stage(
            "machines",
            of(
                *("run_machines.py", "--ckpt-path", "models"),
                *("--synth-path", "synthetics", "--result-path", "machines"),
            ),
            reads=("models", "synthetics"),
            keeps=("machines/*.json",),
        ),
        Stage(
            "audit",
            of(
                *("run_audit.py", "--samples", "synthetics/8.npz", "--train", "digits:train"),
                *("--held-out", "synthetics/2.npz", "--result-path", "audit"),
            ),
            reads=("synthetics",),
            keeps=("audit/audit.json",),
        ),
        Stage(
            "toy",
            ("toy_example.py", "train", *TOY, *SHORT),
            reads=("toy",),
            keeps=("toy/*/checkpoints/*.pt",),
        ),
        Stage("pipeline", of("run_pipeline.py"), keeps=SWEEP),
        Stage("pipeline --jobs 2", of("run_pipeline.py", "--jobs", 2), keeps=SWEEP),
    )
}


def tries_of(name: str, fraction: int = 1) -> int:
    """TRIES / fraction of a stage; of a pipeline, which runs all stages in a row, a quarter."""
    return max(1, TRIES // fraction // (4 if name.startswith("pipeline") else 1))


def command_of(stage: Stage, *more: object) -> list[str]:
    """The command line of a stage, with more flags."""
    script, *flags = stage.command
    return [sys.executable, str(ROOT / script), *map(str, flags), *map(str, more)]


def environment(**variables: str) -> dict[str, str]:
    """For a process whose faults are those of sitecustomize.py."""
    path = os.pathsep.join([str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}


def lose_root() -> None:
    """Give up root's right to ignore permissions; for other users nothing changes."""
    import ctypes

    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def before_start(size: int | None = None) -> None:
    lose_root()
    if size is not None:  # bytes of a file, at most
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@lru_cache
def another_host() -> list[str]:
    """The prefix of a command that runs it under another host name, in a kernel name space."""
    named = ["sh", "-c", 'hostname elsewhere && exec "$@"', "sh"]
    for prefix in (["unshare", "-n", "-u", *named], ["unshare", "-r", "-n", "-u", *named]):
        with suppress(OSError):
            if not subprocess.run([*prefix, "true"], capture_output=True).returncode:
                return prefix
    return []


def start(
    stage: Stage,
    folder: Path,
    *more: object,
    size: int | None = None,
    elsewhere: bool = False,
    **variables: str,
) -> subprocess.Popen:
    """Start the stage with folder as its working folder, in its own process group.

    elsewhere: under another host name; where name spaces are not allowed, M2G_HOST pretends it."""
    prefix = another_host() if elsewhere else []
    if elsewhere and not prefix:
        variables["M2G_HOST"] = "elsewhere"
    return subprocess.Popen(
        [*prefix, *command_of(stage, *more)],
        cwd=folder,
        env=environment(**variables),
        preexec_fn=partial(before_start, size),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen, seconds: float = 240) -> tuple[int, str, str]:
    """Its exit code, stdout and stderr. Raises AssertionError if it does not end in time."""
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        raise AssertionError(f"no end after {seconds} s: {stdout[-500:]} {stderr[-500:]}") from None
    return process.returncode, stdout, stderr


def run(stage: Stage, folder: Path, *more: object, **options: object) -> tuple[int, str, str]:
    """`start` and `finished`."""
    return finished(start(stage, folder, *more, **options))


def run_to_the_end(stage: Stage, folder: Path, *more: object, **options: object) -> str:
    """Its stdout. Raises AssertionError unless it ends with exit code 0."""
    code, stdout, stderr = run(stage, folder, *more, **options)
    assert code == 0, f"exit code {code}: {stderr[-2000:]}"
    return stdout


def run_here_to_the_end(stage: Stage, folder: Path, *more: object) -> None:
    """`run_to_the_end` without a process of its own."""
    script, *flags = stage.command
    ok(script, *flags, *more, run=partial(run_here, cwd=folder))


def go_on(stage: Stage, folder: Path) -> None:
    """Run the stage to its end over what a fault has left; where tries are few, in this process,
    which finds the same files as a new one."""
    (run_to_the_end if FULL else run_here_to_the_end)(stage, folder)


def lines_of(stderr: str) -> list[str]:
    """The lines of stderr without progress bars."""
    parts = stderr.replace("\r", "\n").splitlines()
    return [line for line in parts if line.strip() and "%|" not in line and "it/s" not in line]


@dataclass(frozen=True)
class Undisturbed:
    """A run without a fault: its files, its seconds, and its changes of files in order."""

    stage: Stage
    chain: Path  # with what it reads
    files: dict[str, bytes]
    seconds: float
    events: list[str]

    @property
    def largest(self) -> int:
        """Bytes of the largest file that it has written; it may write beside what it reads."""
        read = tuple(f"{name}/" for name in self.stage.reads)
        there = {n for n in self.files if n.startswith(read) and (self.chain / n).exists()}
        return max(len(data) for n, data in self.files.items() if n not in there)

    def place(self, folder: Path) -> Path:
        """A new working folder, with what the stage reads."""
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / "tiny.yaml").write_text(CONFIG)
        for name in self.stage.reads:
            copy = shutil.copytree if (self.chain / name).is_dir() else shutil.copy
            copy(self.chain / name, folder / name)
        return folder

    def assert_same(self, folder: Path) -> None:
        """Byte for byte what the undisturbed run made; no leftovers."""
        left = [p.name for p in folder.rglob(".*") if p.suffix in (".part", ".claim")]
        assert not left, f"left over: {left}"
        result = contents(folder)
        missing = sorted(set(self.files) - set(result))
        assert not missing, f"missing: {missing}"
        differing = [name for name in self.files if self.files[name] != result[name]]
        assert not differing, f"other bytes: {differing}"


def contents(folder: Path) -> dict[str, bytes]:
    """The files that must be equal: arrays, models and the summary.

    Not logs and pictures, nor embeddings, whose blocks several jobs divide otherwise.

    Of a training the last checkpoint: which earlier ones are kept depends on where it stopped."""
    result = {}
    for path in folder.rglob("*"):
        if path.suffix in (".npz", ".pt", ".csv") and "unfinished" not in path.parts:
            result[str(path.relative_to(folder))] = path.read_bytes()
    training = [n for n in result if "/checkpoints/" in n and not n.startswith("toy")]
    for name in training:
        beside = [n for n in training if Path(n).parent == Path(name).parent]
        if int(Path(name).stem) < max(int(Path(n).stem) for n in beside):
            result.pop(name)
    return result


def kept(stage: Stage, folder: Path) -> dict[Path, int]:
    """The files that the stage must not write twice, and when each was written."""
    paths = [path for pattern in stage.keeps for path in folder.glob(pattern)]
    return {path: path.stat().st_mtime_ns for path in paths}


def undisturbed(stage: Stage, chain: Path, folder: Path) -> Undisturbed:
    """A run of the stage in folder without a fault; made once for all test processes."""
    record = folder.with_suffix(".json")
    for _ in take_turns([record], lambda path: path, Path.exists):  # one for all test processes
        events, began = folder.with_suffix(".events"), time.monotonic()
        Undisturbed(stage, chain, {}, 0.0, []).place(folder)
        run_to_the_end(stage, folder, M2G_EVENTS=str(events))
        write_json(record, [time.monotonic() - began, events.read_text().splitlines()])
    made = Undisturbed(stage, chain, contents(folder), *json.loads(record.read_text()))
    made.assert_same(folder)
    assert made.files and made.events
    return made


def chain_in(folder: Path) -> Path:
    """What every stage reads, for K = 2 and 8; made there once, for all test processes."""
    for _ in take_turns([folder / "made"], lambda path: path, Path.exists):
        make_chain(folder)
        (folder / "made").touch()
    return folder


def make_chain(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(CONFIG)
    run_here_to_the_end(STAGES["train"], folder)
    two = ("--train-size", 2, "--results-path", "training/2")
    run_here_to_the_end(STAGES["train"], folder, *two)
    shutil.rmtree(folder / "training")
    draw = Stage("generate", of("run_generate.py", "--synth-path", "synthetics"))
    for k in (2, 8):
        paths = ("--ckpt-path", f"models/{k}.pt", "--result-path", f"generations/{k}")
        run_here_to_the_end(draw, folder, *paths)
    run_here_to_the_end(STAGES["distances"], folder)
    shutil.copy(folder / "synthetics" / "2.npz", folder / "reference.npz")
    run_here_to_the_end(Stage("toy", ("toy_example.py", "data", "--results-path", "toy")), folder)


def chance(*names: object) -> random.Random:
    """Random numbers from a seed made of names, so that a failure can be repeated."""
    return random.Random(" ".join(map(str, names)))


def assert_stopped(code, stderr):
    """The run stopped with one line and exit code 75, or had already finished."""
    lines = lines_of(stderr)
    if code == 0:
        assert not lines, lines
    else:
        assert code == 75, (code, stderr)
        assert len(lines) == 1 and lines[0].startswith("stopped: "), lines
        assert "run the same command again" in lines[0]
