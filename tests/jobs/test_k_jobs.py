"""Folders of K-named files, and two processes that go through the same one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.runs import ROOT
from utils.cli.errors import UserError
from utils.cli.options.run import SliceOptions
from utils.files.k_files import k_files, k_of
from utils.jobs.k_jobs import Job, plan_jobs, work_through


@pytest.fixture
def folder(tmp_path):
    for name in ("2.npz", "10.npz", "1000.npz", "summary.npz", "007a.npz", "5.pt", "-3.npz"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("")
    return tmp_path


def test_files_come_by_k_not_by_name(folder):
    assert list(k_files(folder / "in", ".npz", "--synth-path", "")) == [2, 10, 1000]


@pytest.mark.parametrize(
    ("start", "final", "ks"),
    [(0, -1, [2, 10, 1000]), (1, 2, [10]), (1, -1, [10, 1000]), (2, 2, []), (7, -1, [])],
)
def test_slices(folder, capsys, start, final, ks):
    files = k_files(folder / "in", ".npz", "--synth-path", "")
    jobs = plan_jobs(files, folder / "out", SliceOptions(start, final))
    assert [job.k for job in jobs] == ks
    assert all(job.target == folder / "out" / f"{job.k}.npz" for job in jobs)
    assert ("nothing to do" in capsys.readouterr().out) == (not ks)


@pytest.mark.parametrize(
    ("name", "k"), [("16.pt", 16), ("0.pt", None), ("x.pt", None), ("١.pt", None)]
)
def test_k_of(name, k):
    assert k_of(Path(name)) == k


def test_missing_and_empty_folders_name_the_flag(tmp_path):
    with pytest.raises(UserError, match="--synth-path .*none: found no such folder; make one"):
        k_files(tmp_path / "none", ".npz", "--synth-path", "make one")
    with pytest.raises(UserError, match="found no K.npz"):
        k_files(tmp_path, ".npz", "--synth-path", "make one")


def test_finished_jobs_are_left_out(folder, capsys):
    jobs = plan_jobs(k_files(folder / "in", ".npz", "", ""), folder / "out", SliceOptions())
    (folder / "out").mkdir()
    jobs[1].target.write_text("")
    assert [job.k for job in work_through(jobs, lambda job: job.target.exists())] == [2, 1000]
    assert "K = 10" in capsys.readouterr().out


WORKER = """
import sys, time
from pathlib import Path
from utils.files.k_files import k_files
from utils.jobs.k_jobs import Job, plan_jobs, work_through
from utils.cli.options.run import SliceOptions
folder = Path(sys.argv[1])
jobs = plan_jobs(k_files(folder / "in", ".npz", "", ""), folder / "out", SliceOptions())
for job in work_through(jobs, lambda job: job.target.exists()):
    time.sleep(0.3)
    with (folder / "log").open("a") as log:
        log.write(f"{job.k}\\n")
    job.target.write_text("done")
assert all(job.target.exists() for job in jobs)
"""


def test_two_processes_compute_each_k_once_and_both_wait_for_all(folder):
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(folder)], cwd=ROOT) for _ in range(3)
    ]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0, 0]
    assert sorted((folder / "log").read_text().split(), key=int) == ["2", "10", "1000"]
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["10.npz", "1000.npz", "2.npz"]


def test_the_claim_of_a_killed_process_is_taken_over(folder):
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(folder)], cwd=ROOT)
    mark = folder / "out" / ".2.npz.claim"
    while not mark.exists():
        assert worker.poll() is None
    worker.kill()
    worker.wait()
    done = subprocess.run([sys.executable, "-c", WORKER, str(folder)], cwd=ROOT, timeout=60)
    assert done.returncode == 0 and not mark.exists()


def test_a_job_that_another_ended_just_before_the_claim_is_not_done_again(tmp_path):
    job, answers = Job(2, tmp_path, tmp_path / "2.npz"), iter([False, True])
    assert list(work_through([job], lambda _: next(answers))) == []
    assert next(answers, None) is None  # it was asked before the claim and after
