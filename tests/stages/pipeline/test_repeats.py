"""Several trainings of each K: their seeds and folders, and the spread between them."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.figures import assert_nothing_is_cut_off
from tests.helpers.judged import judged_counts, real_sets
from tests.helpers.runs import QUICK, SMALL, ok, run_here
from utils.cli.options.sections import SECTIONS, PipelineStage
from utils.inputs.checkpoints import load_checkpoint
from utils.stages.classify.figures import repeats_figure
from utils.stages.classify.summary import repeats_csv, repeats_rows, repeats_table
from utils.stages.pipeline.settings import repeat


@pytest.fixture
def runs():
    """Two trainings of K = 2, 8 and 32; the second memorizes less, and lacks K = 32."""
    real = real_sets(2, 200)
    first = [judged_counts(k, m, 20, 200, real) for k, m in ((2, 180), (8, 100), (32, 0))]
    return [first, [judged_counts(k, m, 40, 200, real) for k, m in ((2, 160), (8, 60))]]


def test_the_spread_is_between_the_runs(runs):
    rows = repeats_rows(runs)
    assert [row["K"] for row in rows] == [2, 8] and rows[0]["runs"] == 2
    shares = [rows[1][f"memorized_{part}"] for part in ("mean", "smallest", "largest")]
    assert shares == pytest.approx([0.4, 0.3, 0.5])
    assert repeats_csv(rows).splitlines()[0].startswith("K,runs,memorized_mean,memorized_smallest")
    words = repeats_table(runs)
    assert "40.0 (30.0 to 50.0)" in words and "half memorized up to K = 8.0" in words


def test_every_run_is_drawn(runs):
    fig = repeats_figure(runs)
    (ax,) = fig.axes
    means = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(means["memorized"], [85, 40])
    assert len(ax.containers) == 6  # two runs of three classes
    assert_nothing_is_cut_off(fig)


@pytest.mark.parametrize("subsets", [False, True])
def test_other_seeds_in_a_folder_of_its_own(subsets):
    options = PipelineStage(**{f.name: SECTIONS[f.name]() for f in fields(PipelineStage)})
    options.pipeline.repeats, options.pipeline.repeat_subsets = 3, subsets
    third = repeat(options, 3)
    assert third.pipeline.root == Path("results/repeats/3") and third.pipeline.repeats == 1
    assert third.train.run_seed == 3409
    assert third.train.global_seed == (3409 if subsets else 3407)
    assert options.train.run_seed is None


@pytest.mark.slow
def test_a_sweep_of_two_trainings(tmp_path):
    flags = [
        *QUICK,
        *SMALL,
        "--iterations",
        2,
        "--sizes",
        "2,8",
        "--samples",
        120,
        "--basins",
        "False",
    ]
    done = ok("run_pipeline.py", *flags, "--root", tmp_path, "--repeats", 2, run=run_here)
    assert "2 trainings of each K: mean (smallest to largest)" in done.stdout
    models = [load_checkpoint(tmp_path / p / "models" / "8.pt") for p in (".", "repeats/2")]
    weights = [next(iter(model.ema.values())) for model in models]
    assert not np.array_equal(*weights) and models[1].args["train"]["run_seed"] == 3408
    assert (tmp_path / "identified" / "repeats.csv").is_file()
    assert (tmp_path / "identified" / "figures" / "repeats.png").is_file()
    assert "Several trainings of each K" in (tmp_path / "report.html").read_text()
