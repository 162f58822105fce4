"""Grids and sheets of images."""

import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.figures import assert_nothing_is_cut_off, texts
from tests.helpers.images import real_digits
from utils.figures.images import image_grid, sample_sheet_figure


@pytest.fixture(scope="module")
def digits():
    """Real digits, [32, 1, 8, 8] in [-1, 1]."""
    return real_digits(32).numpy()


def test_sheet_has_a_row_for_each_K(digits):
    fig = sample_sheet_figure({1500: digits[:3], 2: digits}, columns=5)
    assert [text for text in texts(fig)] == ["K = 2", "K = 1500"]
    assert len(fig.axes[0].images) == 5 + 3
    assert_nothing_is_cut_off(fig)


def test_grid_pixels():
    """Three 2 x 2 images: two columns, white lines, every pixel 16 times as long and wide."""
    images = np.stack([np.full((1, 2, 2), level, np.float32) for level in (-1, 0, 1)])
    images[0, 0, 0, 1] = 1
    small = np.full((7, 7), 255)  # the third image and the empty place are white as the lines
    small[1:3, 1:3], small[1:3, 4:6] = [[0, 255], [0, 0]], 128
    grid = image_grid(images)
    assert grid.dtype == np.uint8 and grid.shape == (7 * 16, 7 * 16, 3)
    np.testing.assert_array_equal(grid[::16, ::16], np.repeat(small[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(grid[15::16, 15::16], grid[::16, ::16])


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((64, 1, 8, 8), (73 * 4, 73 * 4)),
        ((5, 3, 32, 32), (67, 100)),
        ((1, 1, 28, 28), (60, 60)),
        ((2, 3, 64, 48), (66, 99)),
    ],
)
def test_grid_size(shape, size):
    assert image_grid(np.zeros(shape)).shape == (*size, 3)


def test_a_grid_keeps_colours_and_accepts_samples_that_are_not_finite():
    image = np.full((1, 3, 32, 32), np.nan, np.float32)
    image[0, 1], image[0, 2] = np.inf, -7
    assert (image_grid(image)[1:-1, 1:-1] == (0, 255, 0)).all()


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (1, 0, 8, 8), (1, 8, 8), (8, 8)])
def test_grid_refuses_what_are_no_images(shape):
    with pytest.raises(ValueError, match="images: found shape"):
        image_grid(np.zeros(shape))


@pytest.mark.parametrize(("channels", "shown"), [(2, [0, 0, 0]), (4, [0, 1, 2]), (16, [0, 1, 2])])
def test_of_latents_the_first_channels_are_shown(channels, shown):
    """Three, or the first one where there are two."""
    latents = np.random.default_rng(0).uniform(-1, 1, (1, channels, 32, 32))
    grid = image_grid(latents)[1:-1, 1:-1]
    assert grid.shape == (32, 32, 3)
    np.testing.assert_allclose(
        grid, latents[0, shown].transpose(1, 2, 0) * 127.5 + 127.5, atol=0.51
    )


def test_a_grid_needs_neither_matplotlib_nor_torch():
    code = (
        "import sys, numpy; from utils.figures.images import image_grid; "
        "image_grid(numpy.zeros((1, 1, 8, 8))); "
        "print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
