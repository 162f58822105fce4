"""Data sets, the crop, and the K-subset: the original's indices, real images, every complaint."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.images import noise, offline, save_image, small_cifar, write_lsun
from utils.cli.errors import UserError
from utils.data import image_files, lsun
from utils.data.datasets import load_image_set, to_float
from utils.data.image_files import center_crop
from utils.data.subsets import (
    fingerprint,
    held_out_images,
    permutation,
    split_indices,
    training_subset,
    validation_subset,
)
from utils.files.atomic import read_json


def complaint(*words: str):
    """The user's error whose message holds words in this order."""
    return pytest.raises(UserError, match=".*".join(map(re.escape, words)))


def digits_args(k: int = 16, v: int = 8, seed: int = 3407, **train) -> dict:
    train = {"train_size": k, "valid_size": v, "global_seed": seed, **train}
    return {
        "data": {"data_name": "digits"},
        "train": train,
        "model": {"image_size": 8, "in_channels": 1},
    }


def planes(pixels: np.ndarray) -> torch.Tensor:
    """[H, W, 3] as [3, H, W]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


# The K-subset


def test_the_indices_are_those_of_the_original_toolkit(shared):
    with np.load(shared / "reference" / "splits.npz") as reference:
        keys = [key for key in reference.files if key.endswith("_train")]
        assert len(keys) == 12
        for key in keys:
            n, k = map(int, key.split("_")[:2])
            train, valid = split_indices(n, k, 1000, 3407)
            assert len(train) == k and len(valid) == 1000
            np.testing.assert_array_equal(train[:64], reference[key])
            np.testing.assert_array_equal(valid[:64], reference[f"{n}_{k}_valid"])


def test_subsets_are_nested_disjoint_and_blind_to_the_validation_size():
    perm = permutation(100, 7)
    for k in (1, 10, 50, 99):
        train, valid = split_indices(100, k, 20, 7)
        assert train.dtype == valid.dtype == torch.int64
        assert torch.equal(train, perm[:k]) and torch.equal(valid, perm[k : k + 20])
        assert torch.equal(split_indices(100, k, 3, 7)[0], train)
    assert sorted(perm.tolist()) == list(range(100))
    assert not torch.equal(perm, permutation(100, 8))


@pytest.mark.parametrize("k", [100, 101, 50_000])
def test_k_of_the_whole_data_set_takes_it_in_natural_order(k):
    train, valid = split_indices(100, k, 20, 7)
    assert torch.equal(train, torch.arange(100))
    assert torch.equal(valid, permutation(100, 7)[80:])
    assert len(split_indices(100, k, 0, 7)[1]) == 0
    assert len(split_indices(100, k, 130, 7)[1]) == 100


def test_the_second_subset_shares_nothing_with_the_first():
    perm = permutation(100, 7)
    train, valid = split_indices(100, 50, 20, 7, "second")
    assert torch.equal(train, perm[50:]) and len(valid) == 0
    train, valid = split_indices(100, 40, 5, 7, "second")
    assert torch.equal(train, perm[40:80]) and torch.equal(valid, perm[80:85])
    with complaint("--subset", "K = 51 of 100", "--train-size 50"):
        split_indices(100, 51, 20, 7, "second")


def test_a_training_subset_is_the_images_at_its_indices():
    digits = load_image_set("digits", "", 8, 1)
    subset = training_subset(digits_args(k=16))
    assert torch.equal(subset.indices, permutation(1797, 3407)[:16])
    assert subset.images.shape == (16, 1, 8, 8) and subset.images.dtype == torch.uint8
    for image, index in zip(subset.images, subset.indices):
        assert torch.equal(image, digits.read([index])[0])
    larger = training_subset(digits_args(k=64, v=100))
    assert torch.equal(larger.images[:16], subset.images)
    held_out = validation_subset(digits_args(k=16, v=48))
    assert torch.equal(held_out, larger.images[16:])
    second = training_subset(digits_args(k=16, subset="second"))
    assert torch.equal(second.images, larger.images[16:32])
    assert second.fingerprint.startswith("digits seed=3407 K=16 second sha256=")
    held_out = validation_subset(digits_args(k=16, v=32, subset="second"))
    assert torch.equal(held_out, larger.images[32:])


def test_more_images_than_there_are_means_all_and_says_so(capsys):
    subset = training_subset(digits_args(k=50_000))
    assert torch.equal(subset.indices, torch.arange(1797)) and "K=1797" in subset.fingerprint
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "50000" in said and "1797" in said
    assert training_subset(digits_args(k=1797)).fingerprint == subset.fingerprint
    assert capsys.readouterr().out == ""


def test_options_that_an_older_file_lacks_take_their_defaults():
    args = digits_args()
    for name in ("valid_size", "global_seed"):  # defaults 1000 and 3407; subset is absent already
        del args["train"][name]
    assert training_subset(args).fingerprint == training_subset(digits_args()).fingerprint
    assert len(validation_subset(args)) == 1000


def test_a_fingerprint_tells_subsets_apart():
    images = torch.from_numpy(noise(4, 1, 8, 8))
    other = images.clone()
    other[3, 0, 7, 7] ^= 1
    prints = [
        fingerprint("digits", 1, 4, images),
        fingerprint("mnist", 1, 4, images),
        fingerprint("digits", 2, 4, images),
        fingerprint("digits", 1, 5, images),
        fingerprint("digits", 1, 4, other),
        fingerprint("digits", 1, 4, images.flip(0)),
        fingerprint("digits", 1, 4, images, "second"),
    ]
    assert len(set(prints)) == len(prints)
    assert re.fullmatch(r"digits seed=1 K=4 first sha256=[0-9a-f]{16}", prints[0])
    strided = images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert fingerprint("digits", 1, 4, strided) == prints[0]


def test_to_float_has_the_bits_of_torchvision():
    from torchvision.transforms import Compose, Normalize, ToTensor

    theirs = Compose([ToTensor(), Normalize(0.5, 0.5)])
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ours = to_float(torch.from_numpy(ramp)[None, None])
    assert ours.dtype == torch.float32
    assert torch.equal(ours[0], theirs(Image.fromarray(ramp)))
    assert ours.min() == -1 and ours.max() == 1


# Sets in memory


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    digits = load_image_set("digits", "no/such/folder", 8, 1)
    assert (digits.name, digits.shape, len(digits)) == ("digits", (1, 8, 8), 1797)
    values = load_digits().images
    images = digits.read(range(1797))
    # 255 v / 16 is within half of the pixel: 0, 16, 32, 48, 64, ...
    assert np.abs(images[:, 0].numpy() - values * 255 / 16).max() <= 0.5
    assert images.unique().tolist()[:5] == [0, 16, 32, 48, 64] and images.max() == 255
    assert torch.equal(digits.read([5, 3]), digits.read(torch.tensor([5, 3])))
    assert digits.read([]).shape == (0, 1, 8, 8)


def test_mnist_in_torchvisions_layout(shared):
    train = load_image_set("mnist", shared / "data", 28, 1)
    test = load_image_set("mnist", str(shared / "data"), 28, 1, split="test")
    assert (len(train), len(test), train.shape) == (5000, 500, (1, 28, 28))
    raw = (shared / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()
    pixels = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    np.testing.assert_array_equal(train.read([0, 4999]), pixels[[0, 4999]])


def test_mnist_cut_short_is_named(shared, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (shared / "data" / "MNIST" / "raw").iterdir():
        (raw / path.name).write_bytes(path.read_bytes()[:1000])
    with complaint(str(tmp_path / "MNIST"), "no readable MNIST", "delete it"):
        load_image_set("mnist", tmp_path, 28, 1)


@pytest.mark.parametrize(
    ("name", "folder", "size", "channels"),
    [
        ("mnist", "MNIST", 28, 1),
        ("fashionmnist", "FashionMNIST", 28, 1),
        ("cifar10", "cifar-10-batches-py", 32, 3),
    ],
)
def test_without_internet_one_line_says_what_to_copy(
    name, folder, size, channels, tmp_path, monkeypatch
):
    for module in ("mnist", "cifar"):
        where = f"torchvision.datasets.{module}.download_and_extract_archive"
        monkeypatch.setattr(where, offline)
    with complaint(str(tmp_path / folder), "no internet", f"copy {folder} there", "--data-path"):
        load_image_set(name, tmp_path, size, channels)
    assert list(tmp_path.iterdir()) == []  # nothing half done is left


def test_cifar10_in_its_own_format(tmp_path, monkeypatch):
    pixels = small_cifar(tmp_path, monkeypatch)
    train = load_image_set("cifar10", tmp_path, 32, 3)
    np.testing.assert_array_equal(train.read(range(10)), pixels[:10])
    test = load_image_set("cifar10", tmp_path, 32, 3, split="test")
    np.testing.assert_array_equal(test.read([1, 0]), pixels[[11, 10]])
    small = load_image_set("cifar10", tmp_path, 16, 3, centercrop=True)
    means = pixels[0].astype(float).reshape(3, 16, 2, 16, 2).mean((2, 4))
    assert np.abs(small.read([0])[0].numpy() - means).max() <= 1  # each axis rounds up


def test_a_download_arrives_whole(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    def fetch(url, root, **kwargs):
        small_cifar(Path(root), monkeypatch)

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    target = tmp_path / "data"
    assert len(load_image_set("cifar10", target, 32, 3)) == 10
    assert [path.name for path in target.iterdir()] == [CIFAR10.base_folder]


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


def test_sixteen_bits_are_refused_and_palettes_are_read(tmp_path):
    Image.fromarray(noise(8, 8).astype(np.uint16) * 256).save(tmp_path / "deep.png")
    palette = Image.fromarray(noise(8, 8)).convert("P")
    palette.info["transparency"] = bytes(range(256))
    palette.save(tmp_path / "palette.png")
    images = load_image_set("folder", tmp_path, 8, 1)
    with complaint("deep.png", "over 8 bits", "convert it"):
        images.read([0])
    np.testing.assert_array_equal(images.read([1])[0, 0], noise(8, 8))


def test_an_image_is_turned_upright(tmp_path):
    pixels = noise(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "lying.png", exif=exif)
    read = load_image_set("folder", tmp_path, 8, 1).read([0])
    np.testing.assert_array_equal(read[0, 0], np.rot90(pixels, -1))


# CelebA, CelebA-HQ, LSUN


def test_celeba_follows_its_partition(tmp_path):
    folder = tmp_path / "celeba" / "img_align_celeba"
    with complaint(str(folder), "no .jpg files", "--data-path"):
        load_image_set("celeba", tmp_path, 8, 3, centercrop=True)
    for i in range(4):
        save_image(folder / f"00000{i}.jpg", np.full((22, 18, 3), 60 * i, np.uint8))

    def brightness(split: str) -> list[int]:
        images = load_image_set("celeba", tmp_path, 8, 3, centercrop=True, split=split)
        return images.read(range(len(images))).float().mean((1, 2, 3)).round().int().tolist()

    assert brightness("train") == [0, 60, 120, 180]
    with complaint("list_eval_partition.txt", "no such file", "--pool-size"):
        brightness("test")
    parts = tmp_path / "celeba" / "list_eval_partition.txt"
    parts.write_text("000000.jpg 0\n000001.jpg 1\n000002.jpg 2\n000003.jpg 0\n")
    assert (brightness("train"), brightness("test")) == ([0, 180], [120])
    with complaint("000000.jpg", "18 x 22 pixels", "--centercrop"):
        load_image_set("celeba", tmp_path, 8, 3).read([0])
    parts.write_text("000000.jpg 0\n000009.jpg 0\n")
    with complaint("000009.jpg", "no such file"):
        brightness("train")
    parts.write_text("something else\nof three words\n")
    with complaint(str(parts), "lines of another kind"):
        brightness("train")


@pytest.mark.parametrize("inner", ["", "celebahq"])
def test_celebahq_takes_every_layout(tmp_path, inner):
    pixels = noise(4, 8, 8, 3)
    (tmp_path / inner).mkdir(exist_ok=True)
    first_channels = pixels.transpose(0, 3, 1, 2)
    layouts = [pixels[0], first_channels[1], first_channels[2:3], pixels[3:4]]
    for i, array in enumerate(layouts):
        np.save(tmp_path / inner / f"{i}.npy", array)
    images = load_image_set("celebahq", tmp_path, 8, 3)
    np.testing.assert_array_equal(images.read(range(4)), first_channels)
    assert load_image_set("celebahq", tmp_path, 4, 3, centercrop=True).read([1]).shape[2:] == (4, 4)
    with complaint("0.npy", "8 x 8 pixels", "--centercrop"):
        load_image_set("celebahq", tmp_path, 4, 3).read([0])
    with complaint("celebahq", "no official test split"):
        load_image_set("celebahq", tmp_path, 8, 3, split="test")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("low", [-1, 0])
def test_celebahq_floats_become_the_same_pixels(tmp_path, low, dtype):
    pixels = noise(2, 8, 8, 3)
    pixels[1] |= 128  # bright: in [-1, 1] it has no negative value, and must not pass for [0, 1]
    for i, image in enumerate(pixels):
        np.save(tmp_path / f"{i}.npy", (low + (1 - low) * (image / 255)).astype(dtype))
    images = load_image_set("celebahq", tmp_path, 8, 3)
    np.testing.assert_array_equal(images.read([0, 1]), pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((8, 8, 3), np.nan), ("nan", "[0, 1]")),
        (np.full((8, 8, 3), 255.0), ("255", "[0, 1]")),
        (np.full((8, 8, 3), -1.5), ("-1.5", "[-1, 1]")),
        (np.zeros((8, 8, 4)), ("shape [8, 8, 4]", "[H, W, 3]")),
        (np.zeros((2, 3, 8, 8), np.uint8), ("shape [2, 3, 8, 8]", "[3, H, W]")),
        (np.zeros((8, 8, 3), np.int64), ("int64", "uint8")),
        (np.zeros((8, 8, 3), np.uint16), ("uint16", "uint8")),
    ],
)
def test_celebahq_arrays_that_are_no_images_are_named(tmp_path, array, words):
    np.save(tmp_path / "bad.npy", array)
    with complaint("bad.npy", *words):
        load_image_set("celebahq", tmp_path, 8, 3).read([0])


def test_celebahq_without_arrays_or_with_damaged_ones(tmp_path):
    with complaint(str(tmp_path), "no .npy files", "--data-path"):
        load_image_set("celebahq", tmp_path, 8, 3)
    (tmp_path / "0.npy").write_bytes(b"\x93NUMPY cut")
    with complaint("0.npy"):
        load_image_set("celebahq", tmp_path, 8, 3)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's cache folder and a working directory, both empty, and a data folder."""
    for name in ("cache", "cwd", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


def test_lsun_keeps_its_keys_beside_the_data(home, monkeypatch):
    pixels = noise(40, 8, 8, 3)
    write_lsun(home / "data", pixels)
    images = load_image_set("lsun-church", home / "data", 8, 3)
    assert (images.name, images.shape, len(images)) == ("lsun-church", (3, 8, 8), 40)
    np.testing.assert_array_equal(images.read(range(40)), pixels.transpose(0, 3, 1, 2))
    cache = home / "data" / "church_outdoor_train_lmdb.keys.json"
    assert len(read_json(cache)["keys"]) == 40
    # reading leaves nothing in the data's own folder, which may be read-only
    assert [p.name for p in (home / "data" / "church_outdoor_train_lmdb").iterdir()] == ["data.mdb"]
    assert not list((home / "cwd").iterdir()) and not list((home / "cache").iterdir())
    with monkeypatch.context() as patch:  # the second time nothing is listed
        patch.setattr(lsun, "open_lmdb", offline)
        assert load_image_set("lsun-church", home / "data", 8, 3).keys == images.keys
    cache.write_text("{damaged")
    assert len(load_image_set("lsun-church", home / "data", 8, 3)) == 40
    write_lsun(home / "data", noise(43, 8, 8, 3))  # the database changed
    assert len(load_image_set("lsun-church", home / "data", 8, 3)) == 43


def test_lsun_where_the_data_are_read_only_caches_in_the_users_folder(home):
    write_lsun(home / "data", noise(3, 8, 8, 3))
    # A folder under the cache's name refuses the write, for root too.
    (home / "data" / "church_outdoor_train_lmdb.keys.json").mkdir()
    assert len(load_image_set("lsun-church", home / "data", 8, 3)) == 3
    (cache,) = (home / "cache" / "memorization-to-generalization").iterdir()
    assert len(read_json(cache)["keys"]) == 3
    cache.unlink()
    cache.mkdir()  # and with no place at all it works
    assert load_image_set("lsun-church", home / "data", 8, 3).read([2]).shape == (1, 3, 8, 8)
    assert not list((home / "cwd").iterdir())


def test_lsun_has_a_test_part_and_names_what_is_amiss(home, monkeypatch):
    with complaint("church_outdoor_train_lmdb", "no data.mdb", "--data-path"):
        load_image_set("lsun-church", home / "data", 8, 3)
    write_lsun(home / "data", noise(3, 8, 8, 3))
    write_lsun(home / "data", noise(2, 8, 8, 3), "val")
    assert len(load_image_set("lsun-church", home / "data", 8, 3, split="test")) == 2
    train = load_image_set("lsun-church", home / "data", 4, 3)
    with complaint("key 0001", "8 x 8 pixels", "--centercrop"):
        train.read([1])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "lmdb", None)
        with complaint("lsun-church", "no lmdb package", "pip install lmdb"):
            train.read([1])
    write_lsun(home / "data", [], "train")
    (home / "data" / "church_outdoor_train_lmdb" / "data.mdb").write_bytes(b"no database")
    with complaint("church_outdoor_train_lmdb", "no readable lmdb", "unpack it again"):
        load_image_set("lsun-church", home / "data", 8, 3)


# Flags


@pytest.mark.parametrize(
    ("name", "size", "channels", "words"),
    [
        ("imagenet", 8, 3, ("--data-name", "imagenet", "choose digits, mnist")),
        ("digits", 8, 3, ("--in-channels", "3", "choose 1: digits is grey")),
        ("mnist", 28, 3, ("--in-channels", "3", "choose 1: mnist is grey")),
        ("cifar10", 32, 1, ("--in-channels", "1", "choose 3: cifar10 is in colour")),
        ("celeba", 64, 1, ("--in-channels", "1", "choose 3")),
        ("folder", 8, 2, ("--in-channels", "2", "choose 1 (grey) or 3 (colour)")),
        ("digits", 28, 1, ("--image-size", "28", "choose 8", "--centercrop")),
        ("folder", 8, 3, ("--data-path", "no such folder", "png, jpg")),
    ],
)
def test_flags_that_do_not_fit(tmp_path, name, size, channels, words):
    with complaint(*words):
        load_image_set(name, tmp_path / "absent", size, channels)


def test_an_empty_folder_and_a_missing_test_split(tmp_path):
    with complaint("--data-path", str(tmp_path), "no images in it"):
        load_image_set("folder", tmp_path, 8, 3)
    with complaint("digits", "no official test split", "--pool-size"):
        load_image_set("digits", "", 8, 1, split="test")
    with pytest.raises(ValueError, match="neither train nor test"):
        load_image_set("digits", "", 8, 1, split="valid")


def test_held_out_images_are_those_that_neither_model_has_learnt():
    """perm[K:], perm[2K:] beside a twin on the second subset, and for such a twin itself."""
    data, perm = load_image_set("digits", "", 8, 1), permutation(1797, 3407)

    def held_out(k, count, both=False, subset="first"):
        train = {"train_size": k, "global_seed": 3407, "subset": subset}
        model = {"image_size": 8, "in_channels": 1}
        return held_out_images(
            {"data": {"data_name": "digits"}, "train": train, "model": model}, count, both
        )

    assert held_out(100, 7).equal(data.read(perm[100:107]))
    assert held_out(100, 7, both=True).equal(data.read(perm[200:207]))
    assert held_out(100, 7, subset="second").equal(data.read(perm[200:207]))
    assert len(held_out(1790, 50)) == 7
    for k, both in ((1797, False), (2000, False), (899, True)):
        with pytest.raises(UserError, match="held-out images: K: found .*choose a smaller K"):
            held_out(k, 2, both)
