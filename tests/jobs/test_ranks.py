"""Several ranks of torchrun: the same training, the same images, one output, one end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.runs import DIGITS, ROOT, SMALL, ok, run_here, train_options
from utils.cli.errors import ReportedByAnotherRank, UserError
from utils.files.training_log import read_stats
from utils.inputs.checkpoints import load_checkpoint, save_checkpoint
from utils.inputs.samples import load_synthetics
from utils.jobs.ranks import joined
from utils.stages.train import stage as train

ALONE = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
ALONE |= {"OMP_NUM_THREADS": "1"}
WAIT = 240


def start(ranks: int, cwd: Path, script: str, *flags: object) -> subprocess.Popen:
    """A script by torchrun, running."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return subprocess.Popen(
        [sys.executable, *torchrun, str(ROOT / script), *map(str, flags)],
        cwd=cwd,
        env=ALONE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    out, stderr = process.communicate(timeout=WAIT)
    assert process.returncode == 0, stderr
    return out


def told_by(ranks: int, cwd: Path, script: str, *flags: object) -> str:
    """What a script prints by that many ranks; one is this process."""
    if ranks > 1:
        return finish(start(ranks, cwd, script, *flags))
    return ok(script, *flags, run=partial(run_here, cwd=cwd)).stdout


TRAINING = ["--config_path", DIGITS, *SMALL, "--model-path", "models", "--results-path", "run"]


@pytest.mark.slow
@pytest.mark.parametrize("ranks, flags", [(2, ["--train-size", 9]), (6, ["--train-size", 2])])
def test_any_number_of_ranks_trains_alike(tmp_path, ranks, flags):
    """6 ranks for a batch of 4 and K = 2: two of them have no image."""
    own = [*TRAINING, *flags, "--iterations", 6, "--precision", "float32"]
    for name, count in (("one", 1), ("many", ranks)):
        (tmp_path / name).mkdir()
        out = told_by(count, tmp_path / name, "train_unet.py", *own)
        assert out.count("run: device=cpu") == 1  # the first rank alone speaks
    one, many = (read_stats(tmp_path / name / "run") for name in ("one", "many"))
    assert [row["step"] for row in many] == [row["step"] for row in one] == [2, 4, 6]
    for mine, other in zip(many, one):
        for key in ("loss", "valid_loss", "grad_norm"):
            assert mine[key] == pytest.approx(other[key], rel=1e-4), key


LONGER = [*TRAINING, "--train-size", 8, "--iterations", 96, "--dropout", 0.1]
LONGER += ["--ckpt-every", 8, "--log-every", 8]


def train_on_two(folder: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    return start(2, folder, "train_unet.py", *LONGER)


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in (folder / "run" / "checkpoints").glob("[0-9]*.pt")}


def workers(torchrun: int) -> list[int]:
    result = subprocess.run(["pgrep", "-P", str(torchrun)], capture_output=True, text=True)
    return sorted(map(int, result.stdout.split()))


@pytest.mark.slow
def test_stopped_again_and_again_equals_undisturbed(tmp_path):
    """Where one rank is told to stop, all of them do at the same step; and each of the signals
    leaves what the next start goes on from."""
    finish(train_on_two(tmp_path / "undisturbed"))
    folder = tmp_path / "stopped"
    stops = ((signal.SIGTERM, "all"), (signal.SIGUSR1, "one"), (signal.SIGKILL, "one"))
    for sign, whom in stops:
        before, process = checkpoints(folder), train_on_two(folder)
        deadline = time.time() + WAIT
        while checkpoints(folder) <= before:
            assert time.time() < deadline and process.poll() is None
            time.sleep(0.005)
        second = workers(process.pid)[-1]
        os.kill(process.pid if whom == "all" else second, sign)
        _, stderr = process.communicate(timeout=WAIT)
        assert process.returncode != 0 and not (folder / "models" / "8.pt").exists(), sign
        assert stderr.count("\nstopped: ") + stderr.startswith("stopped: ") <= 1, stderr
        if sign == signal.SIGUSR1:
            assert "stopped: saved at step" in stderr
    finish(train_on_two(folder))
    models = [tmp_path / name / "models" / "8.pt" for name in ("undisturbed", "stopped")]
    assert models[0].read_bytes() == models[1].read_bytes()


@pytest.mark.slow
def test_a_mistake_is_printed_once_and_ends_all_ranks(tmp_path):
    flags = [*TRAINING, "--train-size", 5000, "--iterations", 6]
    _, stderr = (process := start(3, tmp_path, "train_unet.py", *flags)).communicate(timeout=WAIT)
    assert process.returncode != 0 and not (tmp_path / "run").exists()
    assert stderr.count("error: --train-size: found 5000") == 1
    assert stderr.count("exitcode  : 2") == 3  # torchrun's own table


@pytest.mark.slow
@pytest.mark.parametrize("ranks, count", [(2, 10), (4, 3)])
def test_ranks_share_the_seeds(tmp_path, ranks, count):
    train.run(train_options(tmp_path))
    flags = ["--ckpt-path", tmp_path / "models" / "8.pt", "--num-samples", count]
    flags += ["--sampler", "ddim", "--steps", 5, "--batch-size", 3, "--device", "cpu"]
    for folder, number in (("one", 1), ("many", ranks)):
        paths = ["--result-path", tmp_path / folder, "--synth-path", tmp_path / folder / "s"]
        out = told_by(number, tmp_path, "run_generate.py", *flags, *paths)
        assert out.count(f"K = 8: {count} images in") == 1
    one, many = (load_synthetics(tmp_path / f / "s" / "8.npz").samples for f in ("one", "many"))
    np.testing.assert_allclose(many, one, rtol=0, atol=1e-5)
    first = {path.stem for path in (tmp_path / "many").glob("shard-*.npz")}
    assert len(first) >= min(ranks, count)  # each rank with a seed has written


def _as_rank(rank: int, world: int, port: int) -> None:
    """Run by each of the processes of the next test."""
    environment = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update(
        {name: str(value) for name, value in environment.items()}, MASTER_ADDR="127.0.0.1"
    )
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as ranks:
        shares = [ranks.share(size) for size in (0, 2, 7)]
        assert [s.stop - s.start for s in shares] == [0, rank > 0, 2 + (rank == 2)]
        tensors = [torch.full((2, 3), float(rank)), torch.tensor(float(rank == 1))]
        ranks.add_up(tensors)
        assert torch.equal(tensors[0], torch.full((2, 3), 3.0)) and tensors[1] == 1
        assert ranks.largest(5 * rank) == 10
        assert list(ranks.from_first(n for n in ([4, 0] if rank == 0 else [9, 9, 9]))) == [4, 0]
        assert ranks.first_does(lambda: 7 if rank == 0 else 8) == 7
        assert ranks.together(lambda: f"own {rank}") == f"own {rank}"

        def fail() -> None:
            if rank >= 1:
                raise UserError(f"rank {rank}", "a fault", "mend it")

        # The first that failed tells, the others end with its code.
        expected = UserError if rank == 1 else ReportedByAnotherRank
        with pytest.raises(expected) as raised:
            ranks.together(fail)
        assert raised.value.exit_code == 2
        with pytest.raises(UserError if rank == 0 else ReportedByAnotherRank):
            ranks.first_does(lambda: (_ for _ in ()).throw(UserError("a", "b", "c")))


@pytest.mark.slow
def test_what_ranks_exchange():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_as_rank, (3, port), nprocs=3)


def test_alone_nothing_is_shared():
    with joined(torch.device("cpu")) as ranks:
        assert ranks.first and ranks.share(5) == slice(0, 5)
        tensor = torch.ones(3)
        ranks.add_up([tensor])
        assert torch.equal(tensor, torch.ones(3)) and ranks.largest(3) == 3
        assert list(ranks.from_first(n for n in [2, 0])) == [2, 0]
        with pytest.raises(UserError):
            ranks.together(lambda: (_ for _ in ()).throw(UserError("a", "b", "c")))


def test_another_number_of_ranks_is_reported(tmp_path, capsys):
    """Sums over other shares round otherwise: the resumed run need not be bit-equal."""
    train.run(train_options(tmp_path, "--iterations", 2))
    path = tmp_path / "run" / "checkpoints" / "2.pt"
    kept = load_checkpoint(path)
    kept.rng["ranks"] = 2
    save_checkpoint(path, kept)
    (tmp_path / "models" / "8.pt").unlink()
    train.run(train_options(tmp_path))
    assert "ranks: 2 before, 1 now; rounding may differ" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGTERM, 30), (signal.SIGINT, 5)])
def test_a_rank_says_whom_it_waits_for_and_obeys_signals(tmp_path, number, seconds):
    """The first of three srun tasks, whose others never come; scontrol names this machine."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text("#!/bin/sh\necho localhost\n")
    scontrol.chmod(0o755)
    srun = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS": "3", "SLURM_STEP_NODELIST": "localhost"}
    srun |= {"SLURM_JOB_ID": str(os.getpid() % 1800), "SLURM_STEP_ID": str(int(number))}
    path = f"{scontrol.parent}:{os.environ['PATH']}"
    command = [sys.executable, str(ROOT / "train_unet.py"), *TRAINING, "--train-size", "8"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=ALONE | srun | {"PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stderr.readline()
    assert line.startswith("waiting for 2 of 3 ranks at localhost:") and "(srun)" in line
    process.send_signal(number)
    _, stderr = process.communicate(timeout=seconds)
    assert process.returncode == 75 and stderr == "stopped: run the same command again to go on\n"
