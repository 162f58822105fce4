"""Folders of image files, and the centre crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.images import (
    digits_args,
    noise,
    planes,
    save_image,
)
from tests.helpers.runs import complaint
from utils.data import image_files
from utils.data.datasets import load_image_set
from utils.data.image_files import center_crop
from utils.data.subsets import (
    training_subset,
    validation_subset,
)
from utils.files.atomic import save_png

# The crop


@pytest.mark.parametrize("size", [(16, 16), (37, 64), (100, 33), (5, 9)])
def test_a_constant_image_stays_constant(size):
    cropped = center_crop(Image.new("RGB", size, (10, 200, 77)), 16)
    assert np.unique(np.array(cropped).reshape(-1, 3), axis=0).tolist() == [[10, 200, 77]]
    assert cropped.size == (16, 16)


def test_the_crop_of_an_image_of_its_size_is_that_image():
    pixels = noise(16, 16, 3)
    np.testing.assert_array_equal(center_crop(Image.fromarray(pixels), 16), pixels)


@pytest.mark.parametrize("times", [1, 2])
def test_an_exact_halving_is_the_mean_of_boxes(times):
    side = 8 * 2**times
    # Pillow rounds after each axis; multiples of 16 have whole means up to four averagings on.
    pixels = noise(side, side) // 16 * 16
    means = pixels.reshape(8, 2**times, 8, 2**times).mean((1, 3))
    np.testing.assert_array_equal(center_crop(Image.fromarray(pixels), 8), means)


def test_a_long_image_is_cut_in_its_middle():
    wide = noise(8, 15)  # 7 columns too many: 3 go left, 4 right
    np.testing.assert_array_equal(center_crop(Image.fromarray(wide), 8), wide[:, 3:11])
    np.testing.assert_array_equal(center_crop(Image.fromarray(wide.T.copy()), 8), wide.T[3:11])


def test_halving_stops_short_of_the_target():
    """31 is less than 2 x 16: bicubic alone."""
    image = Image.fromarray(noise(31, 31))
    bicubic = image.resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(center_crop(image, 16), bicubic)


def test_digits_and_mnist_are_cropped_to_another_size(shared):
    mnist = load_image_set("mnist", shared / "data", 14, 1, centercrop=True)
    whole = load_image_set("mnist", shared / "data", 28, 1, centercrop=True).read([3])
    assert mnist.shape == (1, 14, 14)
    halved = center_crop(Image.fromarray(whole[0, 0].numpy()), 14)
    np.testing.assert_array_equal(mnist.read([3])[0, 0], halved)
    # More images than the thread pool's threshold give the same as one by one.
    alone = torch.cat([mnist.read([i]) for i in range(40)])
    assert torch.equal(mnist.read(range(40)), alone)


# Folders of images


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    pixels = noise(6, 8, 8, 3)
    names = ["a/10.png", "a/9.png", "a.bmp", "b/c/x.PNG", "b/y.webp", "z.png"]
    # By the text of the whole path: "a.bmp" comes before "a/10.png".
    order = ["a.bmp", "a/10.png", "a/9.png", "b/c/x.PNG", "b/y.webp", "z.png"]
    for name, image in zip(names, pixels):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        lossless = {"lossless": True} if name.endswith("webp") else {}
        Image.fromarray(image).save(tmp_path / name, **lossless)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._z.png").write_bytes(b"a Mac's leftover")
    (tmp_path / "b" / "up").symlink_to(tmp_path)  # must not be followed round and round
    images = load_image_set("folder", tmp_path, 8, 3)
    assert (images.name, images.shape, len(images)) == ("folder", (3, 8, 8), 6)
    for place, name in enumerate(order):
        assert torch.equal(images.read([place])[0], planes(pixels[names.index(name)])), name
    grey = load_image_set("folder", tmp_path, 8, 1).read([5])
    luma = pixels[5] @ [0.299, 0.587, 0.114]
    assert np.abs(grey[0, 0].numpy() - luma).max() <= 1


def test_a_folder_with_train_and_test(tmp_path):
    pixels = noise(2, 8, 8)
    save_image(tmp_path / "train" / "0.png", pixels[0])
    images = load_image_set("folder", tmp_path, 8, 1)
    assert torch.equal(images.read([0])[0, 0], torch.from_numpy(pixels[0]))
    with complaint("folder", "no official test split", "--pool-size"):
        load_image_set("folder", tmp_path, 8, 1, split="test")
    save_image(tmp_path / "test" / "0.png", pixels[1])
    for split, image in zip(("train", "test"), pixels):
        images = load_image_set("folder", tmp_path, 8, 1, split=split)
        assert len(images) == 1
        assert torch.equal(images.read([0])[0, 0], torch.from_numpy(image))


def test_training_decodes_the_k_images_alone(tmp_path, monkeypatch):
    pixels = noise(50, 8, 8)
    for i, image in enumerate(pixels):
        save_image(tmp_path / f"{i:02}.png", image)
    decoded, decode = [], image_files.decode
    monkeypatch.setattr(
        image_files, "decode", lambda file, *rest: decoded.append(file) or decode(file, *rest)
    )
    args = digits_args(k=5, v=3)
    args["data"] = {"data_name": "folder", "data_path": str(tmp_path)}
    subset = training_subset(args)
    assert len(decoded) == 5
    np.testing.assert_array_equal(subset.images[:, 0], pixels[subset.indices])
    decoded.clear()
    assert len(validation_subset(args)) == 3 == len(decoded)
    # with many, in threads
    np.testing.assert_array_equal(
        load_image_set("folder", tmp_path, 8, 1).read(range(49, -1, -1))[:, 0], pixels[::-1]
    )


def test_images_of_another_size_are_refused_or_cropped(tmp_path):
    save_image(tmp_path / "odd.png", noise(20, 16, 3))
    with complaint("odd.png", "16 x 20 pixels, --image-size 8", "--centercrop"):
        load_image_set("folder", tmp_path, 8, 3).read([0])
    assert load_image_set("folder", tmp_path, 8, 3, centercrop=True).read([0]).shape[2:] == (8, 8)


@pytest.mark.parametrize("count", [1, 40])
def test_a_damaged_image_is_named(tmp_path, count):
    for i in range(count):
        save_image(tmp_path / f"{i:02}.png", noise(8, 8, 3))
    whole = (tmp_path / "00.png").read_bytes()
    (tmp_path / "00.png").write_bytes(whole[: len(whole) // 2])
    images = load_image_set("folder", tmp_path, 8, 3)
    with complaint("00.png", "no readable image", "copy it again"):
        images.read(range(count))
    (tmp_path / "00.png").write_text("not an image")
    with complaint("00.png", "no readable image"):
        images.read(range(count))
    (tmp_path / "00.png").unlink()
    with complaint("00.png", "no readable image"):
        images.read(range(count))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_their_whole_range(tmp_path, ending):
    values = np.random.default_rng(0).integers(0, 65_536, (8, 8)).astype(np.uint16)
    values.flat[:4] = 0, 65_535, 257, 128
    Image.fromarray(values).save(tmp_path / f"deep.{ending}")
    read = load_image_set("folder", tmp_path, 8, 1).read([0])[0, 0].numpy()
    assert read.flat[:4].tolist() == [0, 255, 1, 0]
    assert np.abs(read - values / 257).max() <= 0.5


def test_real_numbers_and_32_bits_are_refused(tmp_path):
    Image.fromarray(noise(8, 8).astype(np.float32) / 255).save(tmp_path / "real.tif")
    Image.fromarray(noise(8, 8).astype(np.int32) * 70_000).save(tmp_path / "whole.tif")
    images = load_image_set("folder", tmp_path, 8, 1)
    for i, name in enumerate(("real.tif", "whole.tif")):
        with complaint(name, "over 16 bits", "convert it"):
            images.read([i])


def test_transparent_pixels_are_white(tmp_path):
    pixels = noise(8, 8, 4)
    pixels[..., 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "0-opaque.png")
    pixels[:4, :, 3], pixels[4, :, 3] = 0, 128
    Image.fromarray(pixels, "RGBA").save(tmp_path / "1-half.png")
    palette = Image.fromarray(noise(8, 8)).convert("P")
    palette.info["transparency"] = 7  # one colour of the palette
    palette.save(tmp_path / "2-palette.png")
    Image.fromarray(noise(8, 8)).save(tmp_path / "3-grey.gif", transparency=int(noise(8, 8)[0, 0]))
    opaque, half = load_image_set("folder", tmp_path, 8, 3).read([0, 1])
    assert torch.equal(opaque, planes(pixels[..., :3]))
    assert torch.equal(half[:, 5:], planes(pixels[..., :3])[:, 5:])
    assert (half[:, :4] == 255).all()
    mixed = 255 + (pixels[4, :, :3] - 255.0) * 128 / 255
    assert np.abs(half[:, 4].T.numpy() - mixed).max() <= 1
    grey = load_image_set("folder", tmp_path, 8, 1).read([2, 3])[:, 0].numpy()
    expected = noise(8, 8).copy()
    expected[noise(8, 8) == 7] = 255
    np.testing.assert_array_equal(grey[0], expected)
    assert grey[1][0, 0] == 255 and (grey[1] == noise(8, 8)).mean() > 0.9


def test_damaged_metadata_are_ignored_with_a_line(tmp_path, capsys):
    pixels = noise(8, 8)
    Image.fromarray(pixels).save(tmp_path / "0.png", exif=b"Exif\0\0no such header")
    read = load_image_set("folder", tmp_path, 8, 1).read([0])
    np.testing.assert_array_equal(read[0, 0], pixels)
    assert "0.png: damaged EXIF data are ignored" in capsys.readouterr().out


def test_a_huge_image_is_to_be_shrunk(tmp_path, monkeypatch):
    save_image(tmp_path / "huge.png", noise(64, 64, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with complaint("huge.png", "more than 2000 pixels", "shrink it"):
        load_image_set("folder", tmp_path, 8, 3, centercrop=True).read([0])


def test_it_says_how_many_there_are_and_what_is_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("M2G_QUIET", raising=False)
    for name in ("a.png", "b.jfif", "c.TIFF", "notes.txt", "more/d.txt", "README", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise(8, 8, 3)).save(tmp_path / name, "PNG")
    for _ in range(2):
        assert len(load_image_set("folder", tmp_path, 8, 3)) == 3
    assert (
        capsys.readouterr().out
        == f"{tmp_path}: 3 images; 3 files left out: 2 .txt, 1 without an ending\n"
    )


def test_an_image_is_turned_upright(tmp_path):
    pixels = noise(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "lying.png", exif=exif)
    read = load_image_set("folder", tmp_path, 8, 1).read([0])
    np.testing.assert_array_equal(read[0, 0], np.rot90(pixels, -1))


def test_pictures_that_a_stage_has_written_are_no_data(tmp_path, capsys):
    """With --data-path . the grids in results/ would become training images, and change K."""
    for i in range(4):
        save_image(tmp_path / f"{i}.png", noise(8, 8))
    save_png(tmp_path / "results" / "samples" / "10.png", noise(8, 8, 3))
    (tmp_path / "results" / "samples" / "deeper").mkdir()
    save_image(tmp_path / "results" / "samples" / "deeper" / "a.png", noise(8, 8))
    assert len(load_image_set("folder", tmp_path, 8, 1)) == 4
    assert "4 images; 1 files left out: 1 written by a stage" in capsys.readouterr().out
    with complaint("no images in it"):
        load_image_set("folder", tmp_path / "results", 8, 1)
