"""Arrays of jobs: the batch files by bash alone, and on a real SLURM where one runs here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from tests.helpers.runs import DIGITS, ROOT, SMALL, train_options
from utils.data.subsets import training_subset
from utils.data.views import image_digests
from utils.inputs.samples import load_synthetics, save_synthetics
from utils.jobs.claims import claim
from utils.stages.train.stage import training_args

BATCH = ROOT / "configs" / "slurm"
SIZES, N, HELD = (2, 8, 32, 128), 24, 32
# Without what says that we are in a job, should these tests run in one.
ENV = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
ENV |= {"OMP_NUM_THREADS": "1"}
WAIT = 240  # seconds for anything: another test, or a demo, may run beside


def wait_until(true: Callable[[], object], explain: Callable[[], str] = lambda: "") -> None:
    deadline = time.time() + WAIT
    while not true():
        assert time.time() < deadline, explain()
        time.sleep(0.05)


# The batch files by bash, with a stage that tells what it was given.

FAKE = """#!/bin/bash
echo "$*" >> "$RECORD/stage"
trap 'exit 75' USR1
echo "$OMP_NUM_THREADS" >> "$RECORD/threads"
while [ -n "${HOLD:-}" ]; do sleep 0.02; done
exit "${CODE:-0}"
"""


def executable(path: Path, content: str) -> Path:
    path.write_text(content)
    path.chmod(0o755)
    return path


@pytest.fixture
def stand_ins(tmp_path) -> Path:
    """A folder with a fake python, a scontrol and a sleep that note what they are asked for."""
    executable(tmp_path / "python", FAKE)
    executable(tmp_path / "scontrol", '#!/bin/bash\necho "$*" >> "$RECORD/slurm"\n')
    executable(tmp_path / "sleep", '#!/bin/bash\n[ "$1" = 60 ] || exec /bin/sleep "$@"\n')
    return tmp_path


def task(stand_ins: Path, batch: str, *flags: str, cwd: Path = ROOT, **variables: object):
    """A batch file as SLURM starts it, a copy in another folder; still running."""
    shutil.copy(BATCH / batch, stand_ins / "slurm_script")
    env = {**ENV, "PYTHON": str(stand_ins / "python"), "RECORD": str(stand_ins)}
    env |= {"PATH": f"{stand_ins}:{os.environ['PATH']}"}
    return subprocess.Popen(
        ["bash", str(stand_ins / "slurm_script"), *flags],
        cwd=cwd,
        env={**env, **{name: str(value) for name, value in variables.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def array(index: int, first: int, last: int, count: int | None = None) -> dict[str, int]:
    names = ("ID", "MIN", "MAX", "COUNT")
    values = (index, first, last, count or last - first + 1)
    return {f"SLURM_ARRAY_TASK_{name}": value for name, value in zip(names, values)}


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    "batch, flag", [("over_k.sbatch", "--part"), ("over_shards.sbatch", "--shard")]
)
@pytest.mark.parametrize(
    "variables, share",
    [
        (array(0, 0, 7), "0/8"),
        (array(7, 0, 7), "7/8"),
        (array(1, 1, 8), "0/8"),
        (array(8, 1, 8), "7/8"),
        (array(0, 0, 0), "0/1"),
        ({**array(3, 3, 3), "OF": 8}, "3/8"),
        ({**array(5, 0, 5, 3), "OF": 8}, "5/8"),
    ],
)
def test_a_task_takes_its_share(stand_ins, batch, flag, variables, share):
    flags = ("run_distances.py", "--synth-path", "a  b", "--use-lpips")
    job = task(stand_ins, batch, *flags, **variables, SLURM_CPUS_PER_TASK=3, OMP_NUM_THREADS="")
    out, err = job.communicate(timeout=WAIT)
    assert (job.returncode, err) == (0, "")
    assert lines(stand_ins / "stage") == [" ".join([*flags, flag, share])]
    assert lines(stand_ins / "threads") == ["3"] and out.startswith("+ ")


SRUN = """#!/bin/bash
echo "$1 $2" >> "$RECORD/launcher"
shift 2
exec "$@"
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_several_tasks_of_a_job_are_ranks_of_one_training(stand_ins, ranks):
    executable(stand_ins / "srun", SRUN)
    variables = {**array(0, 0, 0), "SLURM_NTASKS": ranks, "SLURM_CPUS_PER_TASK": 3}
    flags = ("8", "--", "--lr", "1e-3")
    job = task(stand_ins, "train.sbatch", *flags, **variables, OMP_NUM_THREADS="")
    _, err = job.communicate(timeout=WAIT)
    assert (job.returncode, err) == (0, "")
    assert lines(stand_ins / "launcher") == ["--kill-on-bad-exit=1 --cpus-per-task=3"] * (ranks - 1)
    own = "train_unet.py --train-size 8 --results-path results/8 --lr 1e-3"
    assert lines(stand_ins / "stage") == [own]


@pytest.mark.parametrize(
    "batch, flags, variables, words",
    [
        ("over_k.sbatch", ["run.py"], {}, ["--array: found no array"]),
        ("over_k.sbatch", ["run.py"], array(3, 0, 5, 3), ["found 3 ids from 0 to 5", "OF=8"]),
        ("over_k.sbatch", ["run.py"], array(4, 0, 8, 5), ["found 5 ids from 0 to 8"]),
        ("over_shards.sbatch", ["run.py"], array(3, 3, 3), ["found 1 ids from 3 to 3", "OF=8"]),
        ("over_shards.sbatch", [], array(0, 0, 1), ["found no stage"]),
        ("train.sbatch", ["2", "8", "--"], array(2, 0, 2), ["found the id 2", "2 K"]),
        ("train.sbatch", ["2", "8"], {}, ["--array: found no array"]),
        ("train.sbatch", ["2", "--dim", "8"], array(0, 0, 1), ["K: found --dim"]),
        ("train.sbatch", [], array(0, 0, 1), ["found the id 0", "0 K"]),
    ],
)
def test_what_cannot_be_a_share_is_refused_in_one_line(stand_ins, batch, flags, variables, words):
    job = task(stand_ins, batch, *flags, **variables)
    _, err = job.communicate(timeout=WAIT)
    assert job.returncode == 2 and not lines(stand_ins / "stage")
    assert len(err.splitlines()) == 1 and err.startswith("error: ")
    for word in words:
        assert word in err


def test_another_folder_is_refused_in_one_line(stand_ins):
    job = task(stand_ins, "over_k.sbatch", "run.py", cwd=stand_ins, **array(0, 0, 1))
    _, err = job.communicate(timeout=WAIT)
    assert job.returncode == 2 and len(err.splitlines()) == 1
    assert "repository's root" in err


def test_a_task_of_train_takes_its_k(stand_ins):
    flags = ("2", "32", "256", "--", "--config_path", "configs/mnist.yaml")
    job = task(stand_ins, "train.sbatch", *flags, **array(1, 0, 2))
    _, err = job.communicate(timeout=WAIT)
    assert (job.returncode, err) == (0, "")
    expected = "train_unet.py --train-size 32 --results-path results/32 --config_path"
    assert lines(stand_ins / "stage") == [f"{expected} configs/mnist.yaml"]


@pytest.mark.parametrize("python", ["", ".venv/bin/python"])
def test_python_is_that_of_the_folder(stand_ins, python):
    """Else the python3 of PATH."""
    work = stand_ins / "work"
    (work / ".venv" / "bin").mkdir(parents=True)
    (work / "configs").symlink_to(ROOT / "configs")
    shutil.copy(stand_ins / "python", work / python if python else stand_ins / "python3")
    job = task(stand_ins, "over_k.sbatch", "run.py", cwd=work, PYTHON="", **array(0, 0, 1))
    assert job.communicate(timeout=WAIT)[0].startswith(f"+ {python or 'python3'} run.py --part 0/2")
    assert lines(stand_ins / "stage")


SEVENTH = {**array(7, 0, 7), "SLURM_JOB_ID": 41, "SLURM_ARRAY_JOB_ID": 41}


@pytest.mark.parametrize("code", [0, 1, 2, 75, 127, 137])
@pytest.mark.parametrize("restarts", [None, 19, 20])
def test_the_stage_decides_the_exit_code_and_75_goes_on(stand_ins, code, restarts):
    variables = {} if restarts is None else {"SLURM_RESTART_COUNT": restarts}
    job = task(stand_ins, "over_k.sbatch", "run.py", CODE=code, **SEVENTH, **variables)
    _, err = job.communicate(timeout=WAIT)
    assert job.returncode == code
    again = code == 75 and restarts != 20
    # By the id of the task: 41 alone is the whole array.
    assert lines(stand_ins / "slurm") == (["requeue 41_7"] if again else [])
    assert ("submit it again" in err) == (code == 75 and restarts == 20)


@pytest.mark.parametrize("sign", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_reaches_the_stage_and_only_a_warning_queues_again(stand_ins, sign):
    """USR1 warns of the time limit. TERM may be a scancel, which must not be undone."""
    job = task(stand_ins, "over_k.sbatch", "run.py", HOLD=1, **SEVENTH)
    wait_until(lambda: lines(stand_ins / "threads"))
    job.send_signal(sign)
    job.send_signal(sign)
    spoken = job.communicate(timeout=WAIT)
    assert job.returncode == 75, spoken
    asked = ["requeue 41_7"] if sign == signal.SIGUSR1 else []
    assert lines(stand_ins / "slurm") == asked


# The same on a real SLURM.


def shell(*command: object, **options: object) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=WAIT, **options
    )
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout


def no_slurm() -> str:
    """Why there is no SLURM to try this on; empty where there is one."""
    try:
        result = shell("sinfo", "-h", "-N", "-o", "%N %T")
    except (OSError, AssertionError, subprocess.TimeoutExpired):
        return "no SLURM answers here (`sinfo -h` fails); docs/cluster.md says how to start one"
    nodes = {line.split()[0] for line in result.splitlines()}
    if nodes != {socket.gethostname().partition(".")[0]}:
        return "this SLURM has other machines: its queue is not for tests"
    return ""


class Slurm:
    """The jobs of one test, below one name."""

    def __init__(self) -> None:
        self.name, self.ids = f"test-{uuid4().hex[:8]}", []

    def submit(
        self,
        work: Path,
        ids: str,
        batch: str,
        *flags: object,
        options: tuple = (),
        **variables: str,
    ) -> str:
        """The id of an array submitted in work, as a user does."""
        own = ["--parsable", f"--array={ids}", f"--job-name={self.name}", "--cpus-per-task=1"]
        own += ["--time=10", *options, f"configs/slurm/{batch}"]
        env = {**ENV, "PYTHON": sys.executable, **variables}
        self.ids.append(shell("sbatch", *own, *flags, cwd=work, env=env).strip())
        return self.ids[-1]

    def running(self) -> str:
        return shell("squeue", "-h", "-r", "-n", self.name, "-o", "%i %T %r")

    def wait(self) -> None:
        wait_until(lambda: not self.running(), self.running)

    def codes(self, job: str) -> dict[str, str]:
        """The state and exit code of each task: {"0": "COMPLETED 0:0"}."""
        result = {}
        for line in shell("scontrol", "show", "job", "-o", job).splitlines():
            fields = dict(field.split("=", 1) for field in line.split() if "=" in field)
            result[fields["ArrayTaskId"]] = f"{fields['JobState']} {fields['ExitCode']}"
        return result

    def assert_all_succeeded(self) -> None:
        self.wait()
        for job in self.ids:
            assert set(self.codes(job).values()) == {"COMPLETED 0:0"}, self.codes(job)


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    if reason := no_slurm():
        pytest.skip(reason)
    jobs = Slurm()
    yield jobs
    subprocess.run(["scancel", "-n", jobs.name], timeout=WAIT)
    jobs.wait()


def checkout(folder: Path, sets: Path | None = None) -> Path:
    """A folder where the commands of the README work, with its own results."""
    folder.mkdir()
    for name in ("configs", "run_distances.py", "train_unet.py"):
        (folder / name).symlink_to(ROOT / name)
    if sets is not None:
        shutil.copytree(sets, folder / "synthetics")
    return folder


def plainly(work: Path, *command: object) -> None:
    """A stage without SLURM."""
    shell(sys.executable, *command, cwd=work, env=ENV)


L2 = ("run_distances.py", "--synth-path", "synthetics", "--result-path", "dists", "--device", "cpu")
LPIPS = (*L2, "--use-lpips", "--network", "alex")


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Sets for each K, of noised training images; the first is in no other set."""
    if reason := no_slurm():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("sets")
    for k in SIZES:
        options = train_options(folder, "--train-size", k)
        args = training_args(options)
        train = training_subset(args).images.float() / 127.5 - 1
        noise = torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(k))
        samples = train[torch.arange(N) % k] + noise * (torch.arange(1, N + 1) % 3).view(
            -1, 1, 1, 1
        )
        save_synthetics(folder / "s" / f"{k}.npz", samples.clamp(-1, 1).numpy(), args)
    return folder / "s"


@pytest.fixture(scope="module")
def plain(sets, tmp_path_factory) -> dict[str, Path]:
    """One process for all K, for each metric."""
    folder = tmp_path_factory.mktemp("plain")
    for name, command in (("l2", L2), ("lpips", LPIPS)):
        plainly(checkout(folder / name, sets), *command)
    return {name: folder / name for name in ("l2", "lpips")}


def contents(work: Path, folder: str = "dists") -> dict[str, bytes]:
    """Every file, marks and parts too."""
    result = [path for path in sorted((work / folder).rglob("*")) if path.is_file()]
    return {str(path.relative_to(work)): path.read_bytes() for path in result}


def log(work: Path, job: str = "*", index: object = "*") -> str:
    return "\n".join(path.read_text() for path in sorted(work.glob(f"slurm-{job}_{index}.out")))


def assert_each_k_once(work: Path) -> None:
    for k in SIZES:
        line = f"K = {k}: dists/{k}.npz written"
        assert log(work).count(line) == 1, log(work)


@pytest.mark.slow
@pytest.mark.parametrize("metric, command, ids", [("l2", L2, "1-3%2"), ("lpips", LPIPS, "0-1")])
def test_an_array_over_k_equals_one_run(slurm, sets, plain, tmp_path, metric, command, ids):
    work = checkout(tmp_path / "work", sets)
    slurm.submit(work, ids, "over_k.sbatch", *command)
    slurm.assert_all_succeeded()
    assert contents(work) == contents(plain[metric])
    assert_each_k_once(work)


@pytest.mark.slow
def test_an_array_over_shards_equals_one_run(slurm, sets, plain, tmp_path):
    work = checkout(tmp_path / "work", sets)
    slurm.submit(work, "0-2", "over_shards.sbatch", *LPIPS)
    slurm.assert_all_succeeded()
    assert contents(work) == contents(plain["lpips"])  # and no parts are left
    for k in SIZES:
        assert all(log(work).count(f"K = {k}: shard {i}/3 written") == 1 for i in range(3))
        assert log(work).count(f"K = {k}: dists/{k}.npz merged from 3 parts") == 1


@pytest.mark.slow
def test_two_arrays_over_the_same_folders_do_nothing_twice(slurm, sets, plain, tmp_path):
    work = checkout(tmp_path / "work", sets)
    slurm.submit(work, "0-1", "over_k.sbatch", *LPIPS)
    slurm.submit(work, "1-2", "over_k.sbatch", *LPIPS)
    slurm.assert_all_succeeded()
    assert contents(work) == contents(plain["lpips"])
    assert_each_k_once(work)


@contextmanager
def held_back(work: Path, plain: Path) -> Iterator[None]:
    """While this lasts, nobody embeds the samples of K = HELD: whoever claimed that K waits."""
    samples = load_synthetics(work / "synthetics" / f"{HELD}.npz").samples
    (cache,) = (plain / "embeddings").iterdir()
    with claim(
        work / "embeddings" / cache.name / image_digests(torch.from_numpy(samples))[0].hex()
    ):
        yield


def worker_at(mark: Path, slurm: Slurm) -> int:
    """The process that works on the target of mark, once it does."""
    wait_until(mark.exists, slurm.running)
    return json.loads(mark.read_text())["pid"]


def wait_for_hold(work: Path, job: str, index: int) -> None:
    wait_until(lambda: "waiting for another job that works on embeddings" in log(work, job, index))


def restarts(work: Path, job: str, index: int) -> int:
    return log(work, job, index).count("(on ") - 1


@pytest.mark.slow
def test_tasks_stopped_in_the_middle_go_on(slurm, sets, plain, tmp_path):
    """By scontrol requeue, by the warning of the time limit, and by SIGKILL: then the task fails,
    and its claim is taken over."""
    work = checkout(tmp_path / "work", sets)
    with held_back(work, plain["lpips"]):
        job = slurm.submit(work, "0-2", "over_shards.sbatch", *LPIPS)
        parts = work / "dists" / "parts" / str(HELD)
        workers = [worker_at(parts / f"{i}-of-3" / f".{HELD}.npz.claim", slurm) for i in range(3)]
        for index in range(3):
            wait_for_hold(work, job, index)
        shell("scontrol", "requeue", f"{job}_0")
        shell("scancel", "--batch", "--signal=USR1", f"{job}_1")  # as by --signal=B:USR1
        os.kill(workers[2], signal.SIGKILL)
        wait_until(lambda: slurm.codes(job)["2"] == "FAILED 137:0", lambda: str(slurm.codes(job)))
        shell("scontrol", "requeue", f"{job}_2")
        wait_until(lambda: [restarts(work, job, i) for i in range(3)] == [1] * 3, slurm.running)
    slurm.assert_all_succeeded()
    assert contents(work) == contents(plain["lpips"])
    assert ["stopped: queued again" in log(work, job, i) for i in range(3)] == [False, True, False]


@pytest.mark.slow
def test_a_cancelled_task_stays_cancelled_and_is_made_up_for_alone(slurm, sets, plain, tmp_path):
    work = checkout(tmp_path / "work", sets)
    with held_back(work, plain["lpips"]):
        job = slurm.submit(work, "0-1", "over_k.sbatch", *LPIPS)
        worker_at(work / "dists" / f".{HELD}.npz.claim", slurm)
        wait_for_hold(work, job, 1)
        shell("scancel", f"{job}_1")
        slurm.wait()
        assert slurm.codes(job)["1"].startswith("CANCELLED")
        assert not (work / "dists" / f"{HELD}.npz").exists()
    slurm.ids.remove(job)
    slurm.submit(work, "1", "over_k.sbatch", *LPIPS, OF="2")
    slurm.assert_all_succeeded()
    assert contents(work) == contents(plain["lpips"])
    assert restarts(work, job, 1) == 0


@pytest.mark.slow
def test_a_mistake_is_a_failed_task(slurm, sets, tmp_path):
    """With sbatch --wait, which gives the highest exit code."""
    work = checkout(tmp_path / "work", sets)
    command = ["sbatch", "--wait", "--array=0-1", f"--job-name={slurm.name}", "--cpus-per-task=1"]
    command += ["configs/slurm/over_k.sbatch", *L2, "--k", "0"]
    env = {**ENV, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, timeout=WAIT)
    assert done.returncode == 2
    assert log(work).count("error: --k: found 0") == 2 and "Traceback" not in log(work)


STEPS = 20  # enough to stop in the middle
TRAINING = ["--config_path", DIGITS, *SMALL, "--model-path", "models", "--iterations", STEPS]


@pytest.mark.slow
def test_trainings_side_by_side_and_one_stopped_in_the_middle(slurm, tmp_path):
    plain, work = checkout(tmp_path / "plain"), checkout(tmp_path / "work")
    job = slurm.submit(work, "0-1", "train.sbatch", 2, 8, "--", *TRAINING)
    worker = worker_at(work / "results" / "8" / ".checkpoints.claim", slurm)
    wait_until(lambda: list((work / "results" / "8" / "checkpoints").glob("*.pt")), slurm.running)
    os.kill(worker, signal.SIGSTOP)  # it may not end before SLURM's signal is there
    shell("scontrol", "requeue", f"{job}_1")
    os.kill(worker, signal.SIGCONT)
    for k in (2, 8):
        flags = ["--train-size", k, "--results-path", f"results/{k}"]
        plainly(plain, "train_unet.py", *flags, *TRAINING)
    slurm.assert_all_succeeded()
    assert "stopped: " in log(work, job, 1) and restarts(work, job, 1) == 1
    assert contents(work, "models") == contents(plain, "models")
    assert len(contents(work, "models")) == 2


@pytest.mark.slow
def test_two_ranks_of_srun_stopped_in_the_middle(slurm, tmp_path):
    """By the warning of the time limit; the whole is as one that nobody stopped, bit for bit."""
    folders = {name: checkout(tmp_path / name) for name in ("whole", "work")}
    ranks = ("--ntasks=2",)
    for name, work in folders.items():
        job = slurm.submit(work, "0-0", "train.sbatch", 8, "--", *TRAINING, options=ranks)
        kept = work / "results" / "8" / "checkpoints"
        if name == "work":
            wait_until(lambda kept=kept: list(kept.glob("[0-9]*.pt")), slurm.running)
            shell("scancel", "--batch", "--signal=USR1", f"{job}_0")
        slurm.wait()
        text = log(work, job, 0)
        assert "+ srun" in text and text.count("run: device=") == 1 + (name == "work"), text
    slurm.assert_all_succeeded()
    assert text.count("stopped: saved at step") == 1 and "queued again" in text
    assert contents(folders["work"], "models") == contents(folders["whole"], "models")
    assert len(contents(folders["work"], "models")) == 1
