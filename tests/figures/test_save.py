"""Saving a figure: PNG and PDF, the same bytes each time, whatever the user's style."""

import io
import os
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from tests.helpers.figures import (
    DISTANCES,
    assert_files_of_a_figure,
    panel,
    sweep,
)
from tests.helpers.images import real_digits
from tests.helpers.judged import judged_distances
from tests.helpers.runs import ROOT
from utils.cli.errors import UserError
from utils.figures import save as figures
from utils.figures.images import sample_sheet_figure
from utils.figures.save import figure_files, save_figure
from utils.stages.classify.figures import histogram_figure, transition_figure
from utils.stages.train.figures import loss_figure


@pytest.fixture(scope="module")
def digits():
    """Real digits, [32, 1, 8, 8] in [-1, 1]."""
    return real_digits(32).numpy()


LOSSES = {2: [{"step": s, "loss": 1 / s, "valid_loss": 2 / s} for s in (1, 2)]}


@pytest.mark.parametrize(
    "draw",
    [
        lambda digits: transition_figure(sweep(2, 16)),
        lambda digits: histogram_figure(*judged_distances(16, *DISTANCES)),
        lambda digits: panel(digits, 2, 2, 1, metric="l2"),
        lambda digits: sample_sheet_figure({2: digits[:3], 16: digits[:3]}),
        lambda digits: loss_figure(LOSSES),
    ],
    ids=["transition", "histogram", "panel", "sheet", "losses"],
)
def test_saved_as_png_and_pdf(digits, tmp_path, draw):
    assert_files_of_a_figure(lambda: draw(digits), tmp_path)


def test_saved_again_a_figure_stays_as_it_was(tmp_path):
    """No part moves from one drawing to the next: the PDF shows what the PNG shows."""
    fig = histogram_figure(*judged_distances(16, *DISTANCES))
    files = figure_files(tmp_path / "distances-16.png")
    save_figure(fig, files[0])
    once = [path.read_bytes() for path in files]
    save_figure(fig, files[0])
    assert [path.read_bytes() for path in files] == once


def test_bytes_of_a_figure_are_those_of_any_process(tmp_path):
    """Names of fonts in a PDF are made of hashes."""
    code = (
        "import pathlib, sys; from tests.helpers.figures import sweep; "
        "from utils.figures.save import save_figure; "
        "from utils.stages.classify.figures import transition_figure; "
        "save_figure(transition_figure(sweep(2, 16)), pathlib.Path(sys.argv[1]))"
    )
    mine, theirs = (figure_files(tmp_path / name / "figure.png") for name in ("mine", "theirs"))
    save_figure(transition_figure(sweep(2, 16)), mine[0])
    command, environment = (
        [sys.executable, "-c", code, theirs[0]],
        {**os.environ, "PYTHONHASHSEED": "1"},
    )
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    for one, other in zip(mine, theirs):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(("side", "kept"), [(8, 2), (64, 2), (300, 0)])
def test_a_pdf_holds_small_images_pixel_by_pixel_and_large_ones_made_smaller(tmp_path, side, kept):
    images = np.random.default_rng(side).uniform(-1, 1, (2, 3, side, side))
    save_figure(sample_sheet_figure({2: images}), tmp_path / "samples.png")
    pdf = (tmp_path / "samples.pdf").read_bytes()
    sizes = re.findall(rb"/Width (\d+) /Height (\d+)", pdf)
    assert sizes.count((b"%d" % side,) * 2) == kept and sizes
    assert len(pdf) < 300_000


def test_a_figure_has_one_name_with_two_endings(tmp_path):
    files = figure_files(tmp_path / "circle-t0.15.png")
    assert files == (tmp_path / "circle-t0.15.png", tmp_path / "circle-t0.15.pdf")
    for name in ("circle-t0.15", "circle.pdf"):
        with pytest.raises(ValueError, match=r"picture: found .*; give a name that ends with .png"):
            save_figure(loss_figure({}), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_saved_nowhere(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose a folder that you may write"):
        save_figure(loss_figure({}), tmp_path / "file" / "loss.png")


def test_the_users_matplotlib_style_stays_as_it_was_and_out():
    """Same bytes under another style, which is untouched afterwards."""

    def picture():
        file = io.BytesIO()
        figures.styled(lambda fig: fig.savefig(file))(transition_figure(sweep(2, 16)))
        return file.getvalue()

    plain = picture()
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9}):
        assert picture() == plain
        assert matplotlib.rcParams["font.size"] == 30
