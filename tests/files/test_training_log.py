"""The training log: the last row is that of all rows, whatever else the file holds."""

import json

import pytest

from utils.files.training_log import LAST_BYTES, TrainingLog, last_row, read_stats


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_the_last_row_is_the_last_of_all(tmp_path, count):
    (tmp_path / "logs").mkdir()
    log = TrainingLog(tmp_path, 0)
    for step in range(count):
        log.write(step=step, loss=1 / (1 + step))
    rows = read_stats(tmp_path)
    assert len(rows) == count
    assert last_row(tmp_path) == (rows[-1] if rows else None)


def test_lines_cut_short_are_passed_over(tmp_path):
    (tmp_path / "logs").mkdir()
    row = json.dumps({"step": 7, "loss": 0.5})
    text = f"{'x' * 2 * LAST_BYTES}\n{row}\n{row[:9]}"
    (tmp_path / "logs" / "stats.jsonl").write_text(text)
    assert last_row(tmp_path) == {"step": 7, "loss": 0.5} == read_stats(tmp_path)[-1]


def test_without_a_log_there_is_no_row(tmp_path):
    assert last_row(tmp_path) is None and read_stats(tmp_path) == []
