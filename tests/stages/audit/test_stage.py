"""run_audit.py as a user types it: what it writes, tells and refuses."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.helpers.runs import assert_one_line, run_here
from tests.helpers.sources import as_jpeg, encoded, tiles, write_folder, write_zip
from utils.audit import audit
from utils.stages.audit.files import load_audit

TRAIN, TEST = tiles(60), tiles(90, "test")
SAMPLES = np.stack([*map(as_jpeg, TRAIN[:12]), *TEST[:28]])
TABLES = ("neighbours.csv", "copied.csv", "duplicates.csv")
FILES = {*TABLES, "audit.json", "report.html", "figures"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Flags of three folders."""
    folder = tmp_path_factory.mktemp("sets")
    write_folder(folder / "samples", SAMPLES)
    write_folder(folder / "train", np.concatenate([TRAIN, TRAIN[:2]]))
    write_folder(folder / "test", TEST[28:])
    names = ("samples", "train", "test")
    flags = zip(("--samples", "--train", "--held-out"), names, strict=True)
    return [word for flag, name in flags for word in (flag, folder / name)]


def run(sets, result, *more):
    return run_here("run_audit.py", *sets, "--result-path", result, "--device", "cpu", *more)


@pytest.fixture(scope="module")
def done(sets, tmp_path_factory):
    result = tmp_path_factory.mktemp("done")
    return result, run(sets, result)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_answer_is_told_in_a_few_lines_and_written(done):
    result, process = done
    assert process.returncode == 0, process.stderr
    assert {path.name for path in result.iterdir()} == FILES
    names = {f"{name}.{kind}" for name in ("pairs", "distances") for kind in ("png", "pdf")}
    assert {path.name for path in (result / "figures").glob("[!.]*")} == names
    told = process.stdout
    assert re.search(r"copies: +\d+ of 40 samples \(.* 95 % interval .*Control: \d+ of 62", told)
    for word in ("samples: ", "held-out: ", "found by:", "most copied:", "tests:", "report.html"):
        assert word in told
    assert len([line for line in told.splitlines() if "=" not in line]) <= 16


def test_the_tables_say_what_python_says(done, sets):
    result, _ = done
    expected = audit(sets[1], sets[3], sets[5], device="cpu")
    table = rows(result / "neighbours.csv")
    assert [row["sample"] for row in table] == expected.table["sample"]
    assert list(table[0])[:7] == [
        *("sample", "verdict", "by", "p_value", "ratio", "train_1", "distance_1"),
    ]
    assert sum(row["verdict"] == "copy" for row in table) == expected.copies["count"] >= 12
    stored, args = load_audit(result / "audit.json")
    assert stored.copies == expected.copies and stored.control == expected.control
    assert stored.findings == expected.findings and set(stored.findings) >= {"c-t", "ratio"}
    copied = rows(result / "copied.csv")
    assert int(copied[0]["copies"]) == max(int(row["copies"]) for row in copied)
    doubles = rows(result / "duplicates.csv")
    assert {row["kind"] for row in doubles} == {"exact"} and len(doubles) == 4
    assert args["audit"]["k"] == 5


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen, self.sources, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        values = dict(attributes)
        self.sources += [values[key] for key in ("src", "href") if values.get(key)]
        if tag == "img":
            assert values["alt"]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_carries_everything_inside(done):
    result, _ = done
    page = Page((result / "report.html").read_text())
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    text = " ".join(page.words)
    for word in ("of 40 samples", "held-out images", "C_T", "Copied most", "0000/00000.png"):
        assert word in text
    assert page.seen.count("img") == 2 and page.seen.count("table") >= 4


def test_a_finished_audit_is_told_again_and_not_made_again(done, sets):
    result, first = done
    before = {path.name: path.stat().st_mtime_ns for path in result.iterdir()}
    again = run(sets, result)
    assert again.returncode == 0 and "audit.json is finished" in again.stdout
    for line in first.stdout.splitlines():
        assert line in again.stdout
    assert {path.name: path.stat().st_mtime_ns for path in result.iterdir()} == before


def test_other_options_or_images_are_refused_without_overwrite(done, sets, tmp_path):
    result, _ = done
    assert_one_line(run(sets, result, "--k", 3), "audit.json", "k 5 (now 3)", "--overwrite")
    fewer = [*sets[:4], "--held-out", write_folder(tmp_path / "test", TEST[40:])]
    assert_one_line(run(fewer, result), "audit.json", "held-out", "--overwrite")


def test_a_release_check_ends_with_3(done, sets):
    result, _ = done
    failed = run(sets, result, "--fail-above", 0.01)
    assert failed.returncode == 3
    last = failed.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"failed: at least \d+ % of the samples are copies, --fail-above 0.01", last
    )
    assert run(sets, result, "--fail-above", 0.9).returncode == 0
    copies = load_audit(result / "audit.json")[0].copies
    assert copies["low"] < copies["share"]  # that the share is above is not sure
    between = (copies["low"] + copies["share"]) / 2
    assert run(sets, result, "--fail-above", between).returncode == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_give_the_bytes_of_one_job(done, sets, tmp_path, order):
    whole, _ = done
    for i in order:
        part = run(sets, tmp_path, "--shard", f"{i}/3")
        assert part.returncode == 0, part.stderr
        last = i == order[-1]
        assert ("job of the last one ends the audit" in part.stdout) != last
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_job_that_was_stopped_keeps_its_searches(sets, tmp_path, monkeypatch):
    from utils.stages.audit import stage

    def stopped(*_):
        raise RuntimeError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr(stage, "write", stopped)
        with pytest.raises(RuntimeError):
            run(sets, tmp_path)
    parts = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert set(parts) == {"nearest.npz", "train.npz", "samples.npz"}
    monkeypatch.setattr("utils.stages.audit.neighbours.nearest", stopped)
    assert run(sets, tmp_path).returncode == 0  # no search is made again


def test_parts_of_other_images_are_made_again(sets, tmp_path):
    run(sets, tmp_path / "out", "--shard", "0/2")
    other = [*sets[:4], "--held-out", write_folder(tmp_path / "test", TEST[40:])]
    last = run(other, tmp_path / "out", "--shard", "1/2")
    assert "job of the last one" in last.stdout
    assert run(other, tmp_path / "out", "--shard", "0/2").returncode == 0
    assert (tmp_path / "out" / "audit.json").exists()


def test_a_damaged_part_is_named(sets, tmp_path):
    run(sets, tmp_path, "--shard", "0/2")
    part = next(tmp_path.rglob("train.npz"))
    part.write_bytes(part.read_bytes()[:-40])
    assert_one_line(run(sets, tmp_path, "--shard", "0/2"), str(part))


def test_dry_run_writes_nothing(sets, tmp_path):
    planned = run(sets, tmp_path / "none", "--dry-run")
    assert planned.returncode == 0 and "write" in planned.stdout
    assert not (tmp_path / "none").exists()


def test_without_held_out_images(sets, tmp_path):
    told = run(sets[:4], tmp_path).stdout
    assert "there is no control" in told and "--held-out:" in told
    assert set(json.loads((tmp_path / "audit.json").read_text())["needs_held_out"])
    page = (tmp_path / "report.html").read_text()
    assert "Held-out images" in page and "held-out images</th>" not in page


def test_names_of_files_are_text_in_the_page_and_one_cell_in_the_tables(tmp_path):
    nasty = '<script>alert("x")</script>,\n".png'.replace("/", "_")
    given = write_zip(tmp_path / "a.zip", {nasty: encoded(TRAIN[0]), "b.png": encoded(TEST[0])})
    np.save(tmp_path / "train.npy", TRAIN)
    flags = ["--samples", given, "--train", tmp_path / "train.npy"]
    assert run(flags, tmp_path / "out").returncode == 0
    assert "<script>alert" not in (tmp_path / "out" / "report.html").read_text()
    assert {row["sample"] for row in rows(tmp_path / "out" / "neighbours.csv")} == {nasty, "b.png"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), ("--result-path", "nothing")),
        (("--result-path", "x"), ("--samples", "nothing")),
        (("--result-path", "x", "--samples", "digits:train"), ("--train", "nothing")),
        (("--shifts", "-1"), ("--shifts", "-1")),
        (("--shifts", "40"), ("--shifts", "40")),
        (("--fail-above", "2"), ("--fail-above", "2")),
        (("--duplicates", "all"), ("--duplicates", "all", "near")),
        (("--shard", "3/3"), ("--shard", "3/3")),
        (("--memory", "1"), ("--memory",)),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, flags, words):
    assert_one_line(run_here("run_audit.py", *flags, cwd=tmp_path), *words)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--samples", "none"), ("none", "no such file")),
        (("--samples-range", "3"), ("--samples-range", "0,1")),
        (("--train-layout", "abc"), ("--train-layout", "nhwc")),
        (("--held-out", "mnist"), ("--held-out", "mnist:train")),
    ],
)
def test_inputs_that_are_none_end_in_one_line(sets, tmp_path, flags, words):
    done = run(sets, tmp_path / "out", *flags)
    assert_one_line(done, *words)
    assert not list(tmp_path.rglob("*.json"))


def test_small_shifted_images_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8))
    flags = ["--samples", tmp_path / "a.npy", "--train", tmp_path / "a.npy", "--shifts", "4"]
    assert_one_line(run(flags, tmp_path / "out"), "--shifts", "4", "8 x 8")
