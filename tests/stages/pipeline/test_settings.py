"""The pipeline checks all settings before it trains."""

import pytest

from tests.helpers.runs import DIGITS, SMALL, assert_one_line, run_here

NOWHERE = ["--data-path", "{}/none"]
PIPELINE = ["--config_path", DIGITS, *SMALL, "--iterations", "2", "--timesteps", "60"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sizes", "2,1798"], ("--train-size", "1798", "1797 or less")),
        (["--sizes", "2,1797"], ("1797", "without a test part")),
        (["--sizes", "2,1700"], ("--false-positive-rate", "97 held-out", "0.0103 or more")),
        (["--samples", "2000"], ("2000 samples, 1797 real images",)),
        (["--criterion", "ratio", "--sizes", "1,8"], ("--criterion ratio", "K = 1")),
        (["--metric", "squeeze", "--lpips-weights", "{}/none"], ("--lpips-weights",)),
        (["--image-size", "16"], ("--image-size", "16", "8")),
        (["--in-channels", "3"], ("--in-channels", "3", "1")),
        (
            [*("--data-name", "celeba", "--in-channels", "3", "--image-size", "32"), *NOWHERE],
            ("--data-path",),
        ),
        (["--data-name", "folder", "--data-path", "{}/none"], ("--data-path",)),
        (["--timesteps", "20"], ("--steps", "50", "20 or less")),
        (
            ["--class-conditional", "--dim", "64", "--nobasins", "--machines"],
            ("--class-conditional", "--machines too", "--nobasins alone"),
        ),
        (["--machines", "--timesteps", "300"], ("--t", "400", "0 to 299")),
    ],
)
def test_the_pipeline_complains_before_it_trains(tmp_path, flags, words):
    own = ["--sizes", "2,8", "--root", tmp_path / "p", *(f.format(tmp_path) for f in flags)]
    done = run_here("run_pipeline.py", *PIPELINE, *own)
    assert_one_line(done, *words)
    assert not list(tmp_path.iterdir())
