"""Images from anywhere as a data set: `--data-name images` in training, `--train` elsewhere."""

import csv

import numpy as np
import pytest
import torch

from tests.helpers.images import noise, save_image, write_mnist
from tests.helpers.runs import FAST, assert_one_line, complaint, ok, run_here
from utils.data.datasets import load_image_set

CPU = ["--device", "cpu"]


def opened(path, **options):
    return load_image_set("images", path, 8, 1, **options)


def test_every_form_gives_the_same_images(tmp_path):
    pixels = noise(12, 8, 8)
    np.save(tmp_path / "bytes.npy", pixels)
    np.savez(tmp_path / "floats.npz", x=(pixels / 255).astype(np.float32)[..., None])
    torch.save(torch.from_numpy(pixels)[:, None], tmp_path / "tensor.pt")
    for i, image in enumerate(pixels):
        save_image(tmp_path / "folder" / f"{i:02}.png", image)
    for name in ("bytes.npy", "floats.npz", "floats.npz:x", "tensor.pt", "folder"):
        images = opened(tmp_path / name)
        assert (len(images), images.shape) == (12, (1, 8, 8))
        read = images.read([3, 0])
        assert read.dtype == torch.uint8 and read[:, 0].numpy().tolist() == pixels[[3, 0]].tolist()


def test_real_numbers_are_rounded_with_a_line(tmp_path, capsys):
    values = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8))
    np.save(tmp_path / "x.npy", values)
    read = opened(tmp_path / "x.npy").read(range(5))
    assert np.abs(read[:, 0].numpy() / 127.5 - 1 - values).max() <= 0.5 / 127.5 + 1e-6
    assert capsys.readouterr().out.count("real numbers are rounded to 8 bits") == 1


def test_what_is_not_clear_is_refused(tmp_path):
    np.save(tmp_path / "dark.npy", np.random.default_rng(0).uniform(0, 0.9, (5, 8, 8)))
    with complaint("dark.npy", "range is not clear", "8 bits (uint8)"):
        opened(tmp_path / "dark.npy")
    np.save(tmp_path / "large.npy", noise(5, 12, 12))
    with complaint("large.npy", "12 x 12 pixels, --image-size 8", "--centercrop"):
        opened(tmp_path / "large.npy")
    assert opened(tmp_path / "large.npy", centercrop=True).read([0]).shape == (1, 1, 8, 8)
    with complaint("--train", "none.npy", "no such file"):
        opened(tmp_path / "none.npy")
    with complaint("no official test split"):
        opened(tmp_path / "large.npy", split="test")


def test_training_and_distances_on_an_array(tmp_path):
    """Train on images of a .npy file, sample, and find the nearest among them."""
    np.save(tmp_path / "own.npy", noise(30, 8, 8))

    def run(script, *flags):
        return ok(script, *flags, *CPU, run=lambda *a: run_here(*a, cwd=tmp_path))

    data = ["--data-name", "images", "--data-path", "own.npy", "--train-size", 4]
    run("train_unet.py", *FAST, *data, "--results-path", "r", "--model-path", "m")
    sampling = ["--num-samples", 4, "--sampler", "ddim", "--steps", 2]
    run(
        "run_generate.py",
        "--ckpt-path",
        "m/4.pt",
        *sampling,
        *["--result-path", "g", "--synth-path", "s"],
    )
    run("run_distances.py", "--synth-path", "s", "--result-path", "d")
    np.save(tmp_path / "own.npy", noise(30, 8, 8, seed=1))
    again = ["--synth-path", "s", "--result-path", "other", *CPU]
    failed = run_here("run_distances.py", *again, cwd=tmp_path)
    assert_one_line(failed, "--data-path", "30 images, some of them altered")


def test_samples_and_their_training_images_alone_are_enough(tmp_path):
    """`--train`: K is the number of images, and no seed has chosen them."""
    train = noise(20, 8, 8)
    np.save(tmp_path / "train.npy", train)
    np.save(tmp_path / "samples.npy", np.concatenate([train[[7, 2]], noise(3, 8, 8, seed=5)]))
    flags = ["--synth-path", "samples.npy", "--train", "train.npy", "--result-path", "d", *CPU]
    near = ok("run_distances.py", *flags, run=lambda *a: run_here(*a, cwd=tmp_path))
    assert "K = 20" in near.stdout
    with np.load(tmp_path / "d" / "20.npz") as file:
        assert file["data-indices"][:2, 0].tolist() == [7, 2]
        assert file["data-dists"][:2, 0].tolist() == [0, 0] and (file["data-dists"][2:] > 1).all()
    judged = ["--dist-path", "d", "--eval-path", "samples.npy", "--result-path", "c"]
    judged += ["--criterion", "ratio", *CPU]
    ok("run_classify.py", *judged, run=lambda *a: run_here(*a, cwd=tmp_path))
    rows = list(csv.DictReader((tmp_path / "c" / "summary.csv").read_text().splitlines()))
    assert [row["memorized"] for row in rows] == ["2"]
    both = [*flags, "--data-name", "digits"]
    failed = run_here("run_distances.py", *both, cwd=tmp_path)
    assert_one_line(failed, "--train", "beside --data-name digits", "leave one of them out")


@pytest.mark.parametrize("said", [["--data-name", "mnist"], ["--train", "mnist:train"]])
def test_samples_of_mnist_beside_its_folder(tmp_path, said):
    """28 x 28 pixels, which cannot be halved three times, and a --data-path."""
    train = noise(20, 28, 28)
    write_mnist(tmp_path / "sets", train, train[:4])
    np.save(tmp_path / "samples.npy", train[:6])
    flags = ["--synth-path", "samples.npy", *said, "--data-path", "sets", "--global-seed", 1]
    flags += ["--train-size", 20, "--result-path", "d", *CPU]
    ok("run_distances.py", *flags, run=lambda *a: run_here(*a, cwd=tmp_path))
    with np.load(tmp_path / "d" / "20.npz") as file:
        assert (file["data-dists"][:, 0] == 0).all()
