"""Quality of images: the measures of their embeddings, as columns of summary.csv and audit.json."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from tests.helpers.images import digits_args, real_digits
from tests.helpers.judged import judged_counts
from tests.helpers.runs import ok, run_here
from utils.audit import audit
from utils.data.subsets import held_out_images, training_subset
from utils.descriptors.embedders import load_metric
from utils.evidence.image_quality import (
    MEASURES,
    QUALITY_COLUMNS,
    image_quality,
    measure_text,
    quality_columns,
)
from utils.evidence.quality import LEAST, frechet_distance, measure_quality
from utils.inputs.samples import save_synthetics
from utils.metrics.nearest import SearchSettings
from utils.stages.classify.figures import quality_figure
from utils.stages.classify.files import load_judged, read_summary, save_judged
from utils.stages.classify.summary import table

K = 64
DIGITS = real_digits(700)


@pytest.fixture(scope="module")
def l2():
    return load_metric("l2", None, "cpu")


def measured(embedder, samples, train=DIGITS[:K], new=DIGITS[200:500], most=500):
    return image_quality(embedder, samples, train, new, most, SearchSettings())


def test_the_measures_are_those_of_the_embeddings(l2):
    samples = DIGITS[500:580]
    found = measured(l2, samples)
    pixels = [x.flatten(1).numpy() for x in (samples, DIGITS[:K], DIGITS[200:360])]
    assert found == measure_quality(*pixels)
    assert list(MEASURES) == sorted(found, key=list(MEASURES).index) and len(found) == len(MEASURES)
    assert found["frechet"].n == 80 and measured(l2, samples, most=30)["frechet"].n == 30


def test_copies_lie_outside_of_what_real_images_give(l2):
    real, copies = (measured(l2, x) for x in (DIGITS[500:564], DIGITS[:K]))
    assert copies["frechet_gap"].low > 0 and copies["sample_gap"].low > 0
    assert real["sample_gap"].low < 0 < real["sample_gap"].high


def test_the_interval_of_recall_of_copies(l2):
    """Recall of 256 samples of 20 images is about 0. It is more over half of them, which must not
    make the interval wide."""
    noise = torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    samples = DIGITS[:20].repeat(13, 1, 1, 1)[:256] + 0.2 * noise
    found = measured(l2, samples, train=DIGITS[:20], new=DIGITS[80:])["recall"]
    assert found.n == 256 and found.value < 0.02 and found.high < 0.4  # 0.6 to 0.9 by p alone


@pytest.mark.parametrize("samples, new", [(LEAST - 1, 300), (100, 2 * LEAST - 1)])
def test_with_too_few_images_there_is_nothing(l2, samples, new):
    found = measured(l2, DIGITS[500 : 500 + samples], new=DIGITS[:new])
    assert found == {}
    columns = quality_columns(found)
    assert tuple(columns) == QUALITY_COLUMNS and set(columns.values()) == {None}
    assert measure_text(columns, "frechet") == "-"


def test_a_small_memory_takes_fewer_images(l2):
    for memory, n in ((2 * 24 * 8 * 60**2, 60), (2 * 24 * 8 * 40**2, 40), (1, LEAST)):
        settings = SearchSettings(memory_bytes=memory)
        found = image_quality(l2, DIGITS[:100], DIGITS[:K], DIGITS[200:500], 500, settings)
        assert found["frechet"].n == n
    wide = DIGITS.repeat(1, 1, 6, 6)  # of 2,304 numbers each
    settings = SearchSettings(memory_bytes=2 * 16 * 4 * 2304 * 20)
    found = image_quality(l2, wide[:100], wide[:K], wide[200:500], 500, settings)
    assert found["frechet"].n == 20


def test_summary_and_terminal(tmp_path):
    args = digits_args(K)
    train = training_subset(args).images.float() / 127.5 - 1
    draw = np.random.default_rng(0)
    samples = np.tile(train.numpy()[:20], (4, 1, 1, 1))
    samples = (samples + 0.05 * draw.standard_normal(samples.shape)).clip(-1, 1)
    save_synthetics(tmp_path / "s" / f"{K}.npz", samples.astype(np.float32), args)
    folders = ["--synth-path", tmp_path / "s", "--result-path", tmp_path / "d"]
    ok("run_distances.py", *folders, "--device", "cpu", run=run_here)
    paths = ["--dist-path", tmp_path / "d", "--eval-path", tmp_path / "s"]
    ok("run_classify.py", *paths, "--result-path", tmp_path / "i", "--device", "cpu", run=run_here)
    with (tmp_path / "i" / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    new = (held_out_images(args, 1000).float() / 127.5 - 1).flatten(1).numpy()
    expected = measure_quality(
        samples.reshape(80, -1).astype(np.float32), train.flatten(1).numpy(), new[:160]
    )
    assert int(row["quality_n"]) == 80
    for name, one in expected.items():
        for end, value in (("", one.value), ("_low", one.low), ("_control", one.control)):
            assert float(row[name + end]) == pytest.approx(value, rel=1e-4, abs=1e-9)
    assert float(row["frechet_gap_low"]) > 0 > float(row["frechet_gap_control"]) - 1
    none = ["--quality-size", 0, "--overwrite", "--result-path", tmp_path / "none"]
    done = ok("run_classify.py", *paths, *none, "--device", "cpu", run=run_here)
    assert "quality by" not in table([load_judged(tmp_path / "none" / "summary" / f"{K}.json")])
    assert done.stdout.count("error") == 0


def test_files_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "summary" / "64.json"
    save_judged(path, judged_counts(64, 20, 10))
    content = json.loads(path.read_text())
    content["row"] = {k: v for k, v in content["row"].items() if k not in QUALITY_COLUMNS}
    path.write_text(json.dumps(content))
    assert read_summary(path)["row"]["frechet"] is None


def test_table_and_figure_of_a_sweep(l2):
    rows = []
    for k, copied in ((2, 2), (16, 16), (200, 64)):
        samples = torch.cat([DIGITS[:copied].repeat(-(-64 // copied), 1, 1, 1)])[:64]
        found = measured(l2, samples, train=DIGITS[:k])
        one = judged_counts(k, 20, 10)
        one.row.update(quality_columns(found))
        rows.append(one)
    shown = table(rows)
    assert "quality by l2" in shown and f"{rows[0].row['frechet']:.3g} (" in shown
    figure = quality_figure([one.row for one in rows])
    points = figure.axes[0].lines[0].get_xydata()
    assert points.tolist() == [
        [100 * one.row["memorized_share"], one.row["frechet"]] for one in rows
    ]


def test_audit():
    pixels = ((DIGITS + 1) * 127.5).round().byte().numpy()
    result = audit(pixels[500:560], pixels[:200], pixels[200:400])
    sets = pixels[500:560], pixels[:60], pixels[200:320]
    expected = measure_quality(*((x / 127.5 - 1).reshape(len(x), -1) for x in sets))
    for name in ("frechet", "frechet_gap", "sample_gap"):
        assert result.quality[name] == pytest.approx(expected[name].value, rel=1e-4)
    assert result.quality["quality_n"] == 60
    assert audit(pixels[500:560], pixels[:200]).quality == {}
    assert audit(pixels[:60], pixels[:200], pixels[200:400], quality_size=0).quality == {}


def test_a_sweep_shows_it(sweep):
    root, _, printed = sweep
    assert "quality by l2" in printed
    assert (root / "identified" / "figures" / "quality.png").exists()
    page = (root / "report.html").read_text()
    row = load_judged(root / "identified" / "summary" / "8.json").row
    assert "Quality against the memorized share" in page
    assert measure_text(row, "recall") in page


def test_the_distance_is_independent_of_the_order_of_the_sets():
    a, b = DIGITS[:80].flatten(1).numpy(), DIGITS[80:200].flatten(1).numpy()
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
