"""`python -m utils.describe`: what a file is, in one screen."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.images import digits_args
from tests.helpers.runs import ROOT, assert_one_line, run_here, run_script, train_options
from tests.helpers.sandbox import run_stage, train_toy
from utils.cli.errors import UserError
from utils.data.origin import pack_names
from utils.describe import describe
from utils.inputs.samples import save_synthetics
from utils.stages.train import stage as train


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A trained model of 8 digits and 6 samples of it."""
    root = tmp_path_factory.mktemp("sweep")
    train.run(train_options(root))
    flags = ["--ckpt-path", root / "models" / "8.pt", "--result-path", root / "g", "--synth-path"]
    flags += [root / "s", "--num-samples", 6, "--sampler", "ddim", "--steps", 2]
    run_stage("generate", *flags)
    return root


def text_of(path):
    return "\n".join(describe(path)[0])


def command(*flags):
    return run_here("utils/describe.py", *flags)


def test_a_checkpoint_of_ours(sweep):
    text = text_of(sweep / "models" / "8.pt")
    state = torch.load(sweep / "models" / "8.pt", weights_only=True)
    numbers = sum(value.numel() for value in state["ema"].values())
    for words in (
        "8.pt: a checkpoint, ",
        "K = 8 of digits, seed 3407, 8 x 8 grey",
        "steps: 4",
        f"ema: {numbers:,} numbers in {len(state['ema'])} tensors",
        "dim_mults=[1]",
        "global_batch_size=4",
    ):
        assert words in text, words
    assert "clip_grad" not in text  # a default


def test_a_checkpoint_and_a_set_of_the_original(shared):
    text = text_of(shared / "reference" / "16.pt")
    assert "a checkpoint of the original toolkit" in text and "K = 16 of mnist" in text
    text = text_of(shared / "reference" / "synthetics_128.npz")
    assert "K = 128 of mnist, seed 3407, 28 x 28 grey" in text
    assert "samples: float32 [48, 1, 28, 28], -1 to 1" in text


def test_a_synthetic_set_and_its_pictures(sweep, tmp_path):
    path, grid = sweep / "s" / "8.npz", tmp_path / "grid.png"
    code = "import runpy; runpy.run_module('utils.describe', run_name='__main__')"
    done = run_script("-c", code, path, "--grid", grid)
    assert done.returncode == 0, done.stderr
    assert "images (synthetics/K.npz, or references)" in done.stdout
    assert "sampler=ddim" in done.stdout and "samples: float32 [6, 1, 8, 8]" in done.stdout
    assert f"wrote {grid}: 6 of 6 images" in done.stdout
    with Image.open(grid) as image:
        assert min(image.size) >= 8 and image.convert("L").getextrema()[0] < 128


def test_files_of_the_toy(tmp_path):
    root = train_toy(tmp_path, "--sample_size", "2")
    text = text_of(root / "2" / "checkpoints" / "60.pt")
    assert "a network of the toy circle" in text and "k=2" in text and "steps: 60" in text
    text = text_of(root / "data.npz")
    assert "points of the toy circle" in text and "[60000, 2], -1 to 1" in text


@pytest.mark.parametrize(
    ("arrays", "kind"),
    [
        ({"potential": np.zeros((2, 3))}, "relative energies"),
        ({"data-dists": np.zeros((2, 3))}, "distances to neighbours"),
        ({"time": np.zeros((2, 3)), "samples": np.zeros(3)}, "critical times"),
        ({"train-nns": np.zeros(2), "samples": np.zeros(3)}, "samples of one class"),
        ({"seeds": np.zeros(2), "samples": np.zeros(3)}, "a shard"),
        ({"x": np.zeros(2)}, "arrays"),
    ],
)
def test_kinds_of_files_are_recognized_by_their_keys(tmp_path, arrays, kind):
    np.savez(tmp_path / "3.npz", **arrays)
    assert f"3.npz: {kind}" in text_of(tmp_path / "3.npz")


def test_values_are_described_with_their_faults(tmp_path):
    np.savez(
        tmp_path / "3.npz",
        a=np.array([[1.0, np.nan], [3.5, np.inf]]),
        b=np.array([True, False, True]),
        c=np.array(0.25),
        d=np.empty((0, 3)),
    )
    lines = describe(tmp_path / "3.npz")[0]
    assert lines[1:] == [
        "a: float64 [2, 2], 1 to 3.5, 2 not finite",
        "b: bool [3], 2 true",
        "c: float64, 0.25",
        "d: float64 [0, 3]",
    ]


def test_long_records_are_shortened(tmp_path):
    """The names of the images of a folder, and the alpha_bar of a schedule without a name."""
    names = pack_names([f"{i:05}-{hash(i * 7919)}.png" for i in range(3000)])
    images = {"count": 3000, "sha256": "0123456789abcdef", "names": names}
    args = {**digits_args(k=8), "images": images, "alpha_bar": [0.5] * 1000}
    save_synthetics(tmp_path / "8.npz", np.zeros((2, 1, 8, 8), np.float32), args)
    text = text_of(tmp_path / "8.npz")
    assert f"images: count=3000 sha256=0123456789abcdef names=({len(names)} characters)" in text
    assert len(text) < 1500


def test_mistakes_end_in_one_line(sweep, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.pt").write_bytes(b"PK")
    np.savez(tmp_path / "c.npz", x=np.zeros(3))
    assert_one_line(command(), "--path: found nothing")
    assert_one_line(command(tmp_path / "a.txt"), "ending in '.txt'", "a .pt or a .npz")
    assert_one_line(command(tmp_path / "b.pt"), "b.pt: found no whole .pt file")
    assert_one_line(command(tmp_path / "none.npz"), "none.npz", "No such file")
    assert_one_line(command(tmp_path / "c.npz", "--grid", tmp_path / "g.png"), "no images")
    assert_one_line(command(sweep / "models" / "8.pt", "--grid", "g.png"), "no images")
    torch.save({"x": 1}, tmp_path / "d.pt")
    with pytest.raises(UserError, match="no checkpoint of these stages"):
        describe(tmp_path / "d.pt")
    assert not (ROOT / "g.png").exists()
