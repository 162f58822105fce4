"""Images from anywhere: the same pixels whatever they are stored as, and nothing guessed."""

from __future__ import annotations

import os
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.images import write_mnist
from tests.helpers.runs import complaint
from tests.helpers.sources import (
    FORMS,
    encoded,
    every_form,
    picture,
    tiles,
    write_folder,
    write_parquet,
    write_tar,
    write_zip,
)
from utils.data.image_files import Form
from utils.data.sources.arrays import Range
from utils.data.sources.by_name import open_source
from utils.data.sources.opened import Opening
from utils.data.sources.scan import scan
from utils.inputs.samples import save_synthetics

IMAGES = tiles(23)
FORM = Form(16, 3, crop=True)


def opened(given, form=FORM, skip_damaged=False, **opening):
    return scan(open_source(given, Opening(**opening)), form, skip_damaged=skip_damaged)


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    return every_form(tmp_path_factory.mktemp("forms"), IMAGES)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_pixels(forms, name):
    images = opened(forms[name])
    assert images.shape == (23, 3, 16, 16) and images[:].dtype == torch.uint8
    np.testing.assert_array_equal(images[:].numpy(), IMAGES)
    np.testing.assert_array_equal(images[[4, 2]].numpy(), IMAGES[[4, 2]])
    assert images.fingerprint == opened(IMAGES).fingerprint


def test_images_kept_in_memory_are_those_that_are_read_again(forms):
    source = open_source(forms["zip"], Opening())
    kept, again = (scan(source, FORM, keep_bytes=size) for size in (10**9, 0))
    for part in (slice(3, 9), [5, 1, 1], np.array([22])):
        assert torch.equal(kept[part], again[part])


def test_values_between_the_levels_stay(tmp_path):
    """Outputs of a model are not rounded to 8 bits."""
    values = np.random.default_rng(0).uniform(-1, 1, (4, 1, 8, 8)).astype(np.float32)
    images = opened(values, Form(8, 1, True))
    assert images[:].dtype == torch.float32
    np.testing.assert_allclose(images[:].numpy(), values, atol=1e-7)


def test_our_own_sets_are_in_minus_one_to_one_however_bright(tmp_path):
    bright = np.random.default_rng(0).uniform(0.1, 0.9, (5, 1, 8, 8)).astype(np.float32)
    args = {"train": {"train_size": 5}}
    save_synthetics(tmp_path / "5.npz", bright, args)
    images = opened(tmp_path / "5.npz", Form(8, 1, True))
    np.testing.assert_allclose(images[:].numpy(), bright, atol=1e-7)


# Ranges


def uniform(low, high, *ends):
    values = np.random.default_rng(1).uniform(low, high, (6, 8, 8)).astype(np.float32)
    values.ravel()[: len(ends)] = ends
    return values


@pytest.mark.parametrize(
    "values",
    [uniform(0.01, 0.99), uniform(0, 1, 0), uniform(0.2, 0.9, 1), uniform(-5e-4, 0.9)],
    ids=["inside", "zero", "one", "rounding"],
)
def test_floats_inside_zero_to_one_are_asked_about(values):
    """They may be the bright half of [-1, 1]: guessed wrongly, every distance would be wrong."""
    with complaint("--samples", "bright half", "--samples-range=0,1"):
        opened(values, Form(8, 1, True))
    unit, signed = (
        opened(values, Form(8, 1, True), value_range=Range.parse(text, "--samples-range"))
        for text in ("0,1", "-1,1")
    )
    np.testing.assert_allclose(unit[:][:, 0].numpy(), np.clip(2 * values - 1, -1, 1), atol=1e-6)
    np.testing.assert_allclose(signed[:][:, 0].numpy(), values, atol=1e-6)


@pytest.mark.parametrize("values", [uniform(-2.1, 2.6), uniform(0, 1.5), uniform(-1.2, 1)])
def test_values_of_no_usual_range_are_asked_about(values):
    with complaint("--samples", "no range that images usually have", "--samples-range"):
        opened(values, Form(8, 1, True))


@pytest.mark.parametrize(
    ("values", "black", "white"),
    [(uniform(0, 1, 0, 1), 0, 1), (uniform(-0.3, 0.9), -1, 1), (uniform(0, 255), 0, 255)],
)
def test_clear_ranges_are_recognised_and_stated(values, black, white):
    images = opened(values, Form(8, 1, True))
    expected = 2 * (values - black) / (white - black) - 1
    np.testing.assert_allclose(images[:][:, 0].numpy(), expected, atol=1e-6)
    assert f"black and white [{black}, {white}]" in images.describe()


def test_values_beyond_a_range_that_was_asked_for_are_cut_off_with_a_word():
    values = uniform(-1.2, 1.1)
    images = opened(values, Form(8, 1, True), value_range=Range(-1, 1))
    np.testing.assert_allclose(images[:][:, 0].numpy(), values.clip(-1, 1), atol=1e-6)
    assert "cut off" in images.describe()


def test_nan_is_named():
    values = uniform(-1, 1)
    values[4, 2, 2] = np.nan
    with complaint("NaN", "image 4"):
        opened(values, Form(8, 1, True))


@pytest.mark.parametrize("text", ["1,0", "0", "a,b", "0,1,2", "nan,1", "0,inf"])
def test_a_range_that_is_none_is_refused(text):
    with complaint("--train-range", text, "0,1"):
        Range.parse(text, "--train-range")


# Layouts


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (5, 3, 8, 3), (3, 8, 8), (1, 8, 8)])
def test_axes_that_may_be_read_in_two_ways_are_asked_about(shape):
    with complaint(str(list(shape)), "--samples-layout"):
        opened(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(5, 4, 8, 8), (5, 8, 8, 2), (8,), (2, 3, 4, 5, 6), (0, 3, 8, 8)])
def test_arrays_that_are_no_images_are_refused(shape):
    with complaint(str(list(shape)), "C = 1 or 3"):
        opened(np.zeros(shape, np.uint8))


def test_the_axes_that_were_asked_for_are_taken():
    array = np.random.default_rng(0).integers(0, 256, (5, 3, 3, 3), np.uint8)
    first, last = (opened(array, Form(3, 3, True), layout=one) for one in ("nchw", "nhwc"))
    np.testing.assert_array_equal(first[:].numpy(), array)
    np.testing.assert_array_equal(last[:].numpy(), array.transpose(0, 3, 1, 2))
    with complaint("--samples-layout", "nhw", "nchw"):
        opened(array, layout="nhw")


# Sizes and channels


def test_arrays_are_resized_as_pictures_are(tmp_path):
    """The same crop and filter, whatever the form."""
    large = tiles(4, size=37)
    folder = write_folder(tmp_path / "large", large)
    for form in (FORM, Form(16, 1, True)):
        expected = opened(folder, form)[:]
        assert torch.equal(opened(large, form)[:], expected)
        assert torch.equal(opened(2 * (large / 255) - 1, form)[:], expected)
    assert opened(folder).resized and not opened(IMAGES).resized


def test_grey_images_become_colour_by_repetition():
    grey = IMAGES[:, :1]
    assert torch.equal(opened(grey)[:], torch.from_numpy(grey).expand(-1, 3, -1, -1))
    assert torch.equal(opened([picture(image) for image in grey])[:], opened(grey)[:])


# Data sets by name


def test_known_data_sets_are_opened_by_name(tmp_path):
    train, test = (np.random.default_rng(i).integers(0, 256, (9, 28, 28), np.uint8) for i in (0, 1))
    write_mnist(tmp_path, train, test)
    for split, expected in (("train", train), ("test", test)):
        images = opened(f"mnist:{split}", Form(28, 1, True), data_path=tmp_path)
        np.testing.assert_array_equal(images[:][:, 0].numpy(), expected)
    assert opened("photos:test", size=16).shape[0] > 100


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("mnist", ("say which part", "mnist:test")),
        ("mnist:valid", ("mnist:valid", "mnist:train")),
        ("digits:test", ("no official test split",)),
        ("photos:train", ("--image-size", "nothing")),
        ("folder:train", ("give the path itself",)),
        ("nothing.here", ("no such file", "give a folder")),
    ],
)
def test_names_that_are_not_clear_end_in_one_line(given, words):
    with complaint(*words):
        opened(given)


# Damaged and hostile files


def test_damaged_pictures_are_named_and_counted(tmp_path):
    folder = write_folder(tmp_path / "some", IMAGES)
    (folder / "0000" / "00003.png").write_bytes(encoded(IMAGES[3])[:200])
    (folder / "0001" / "00012.png").write_bytes(b"<svg></svg>")
    with complaint("2 damaged", "0000/00003.png", "0001/00012.png", "--skip-damaged"):
        opened(folder)
    images = opened(folder, skip_damaged=True)
    sound = [i for i in range(23) if i not in (3, 12)]
    np.testing.assert_array_equal(images[:].numpy(), IMAGES[sound])
    assert len(images.names) == 21 and images.damaged == ["0000/00003.png", "0001/00012.png"]


def zip_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**28 + 1))


def overlapping(path):
    """One stored member that the directory lists twenty times."""
    write_zip(path, {"a.png": bytes(2000)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.filelist += [archive.filelist[0]] * 20
        archive._didModify = True


def huge_header(path):
    np.save(path, np.zeros((2, 8, 8), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(2, 8, 8), }", b"(10**12,8,8)"))


def huge_claim(path):
    np.save(path, np.zeros((2, 8, 8), np.uint8))
    old, new = b"(2, 8, 8), }      ", b"(1000000000, 8, 8)"
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old + b"  ", new + b"}  ")[: len(data)])


def linked_tar(path):
    import tarfile

    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)


def linked_folder(path):
    path.mkdir()
    outside = path.parent / "outside.png"
    outside.write_bytes(encoded(IMAGES[0]))
    (path / "a.png").symlink_to(outside)


HOSTILE = {
    "up.zip": (lambda p: write_zip(p, {"../a.png": encoded(IMAGES[0])}), "out of the archive"),
    "root.zip": (lambda p: write_zip(p, {"/a.png": encoded(IMAGES[0])}), "out of the archive"),
    "up.tar": (lambda p: write_tar(p, {"x/../../a.png": b""}), "out of the archive"),
    "link.tar": (linked_tar, "a link"),
    "bomb.zip": (zip_bomb, "268435457 bytes"),
    "overlap.zip": (overlapping, "overlap"),
    "pickled.npy": (lambda p: np.save(p, np.array([{}], object), allow_pickle=True), "pickle"),
    "pickled.npz": (lambda p: np.savez(p, samples=np.array([{}], object)), "pickled objects"),
    "huge.npy": (huge_header, "no readable .npy"),
    "claim.npy": (huge_claim, "claims"),
    "a.svg": (lambda p: p.write_bytes(b"<svg></svg>"), ".svg"),
    "links": (linked_folder, "symbolic link"),
    "text.zip": (lambda p: p.write_bytes(b"no zip"), "no readable .zip"),
    "text.tar": (lambda p: p.write_bytes(b"no tar"), "no readable .tar"),
    "text.parquet": (lambda p: p.write_bytes(b"no table"), "no readable Parquet"),
    "text.safetensors": (lambda p: p.write_bytes(b"none"), "no readable .safetensors"),
    "text.pt": (lambda p: p.write_bytes(b"none"), "no whole .pt"),
    "a.tar.gz": (lambda p: p.write_bytes(b"none"), "uncompress it"),
    "empty": (lambda p: p.mkdir(), "no pictures"),
    "empty.zip": (lambda p: write_zip(p, {"a.txt": b""}), "no pictures in it (it holds 1 .txt)"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_and_broken_files_end_in_one_line(tmp_path, name):
    make, words = HOSTILE[name]
    make(tmp_path / name)
    with complaint(words):
        opened(tmp_path / name)


def test_a_cell_without_an_image_is_named(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"image": [{"bytes": None, "path": "a.png"}]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with complaint("no encoded image", "not their paths"):
        opened(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["pyarrow.parquet", "datasets"])
def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch, name):
    given = write_parquet(tmp_path / "a.parquet", IMAGES)
    if name == "datasets":
        given = tmp_path / "saved"
        given.mkdir()
        for file in ("state.json", "dataset_info.json"):
            (given / file).write_text("{}")
    monkeypatch.setitem(sys.modules, name, None)
    with complaint("pip install datasets"):
        opened(given)


def test_a_folder_of_the_package_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [picture(image) for image in IMAGES], "label": list(range(23))}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    np.testing.assert_array_equal(opened(tmp_path / "saved")[:].numpy(), IMAGES)


def test_hidden_files_are_passed_over_and_others_are_counted(tmp_path):
    folder = write_folder(tmp_path / "some", IMAGES)
    for name in ("._a.png", ".hidden.png", "labels.csv", "a.svg"):
        (folder / name).write_bytes(b"none")
    images = opened(folder)
    assert len(images) == 23 and "2 files left out: 1 .csv, 1 .svg" in images.describe()


def test_the_order_in_which_a_folder_is_listed_does_not_matter(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "some", IMAGES)
    expected, listed = opened(folder), os.walk

    def reversed_walk(*args, **options):
        return (
            (top, folders[::-1], names[::-1]) for top, folders, names in listed(*args, **options)
        )

    monkeypatch.setattr(os, "walk", reversed_walk)
    assert opened(folder).names == expected.names


def test_pictures_of_16_bits_and_arrays_of_16_bits_are_scaled_alike(tmp_path):
    values = np.random.default_rng(0).integers(0, 65_536, (4, 16, 16), np.uint16)
    for i, one in enumerate(values):
        Image.fromarray(one).save(tmp_path / f"{i}.png")
    form = Form(16, 1, True)
    assert torch.equal(opened(tmp_path, form)[:], opened(values, form)[:])


def test_large_arrays_are_read_a_block_at_a_time(tmp_path, monkeypatch):
    """The same pixels; what is not read takes no memory."""
    np.save(tmp_path / "a.npy", IMAGES.astype(">f4"))
    expected = opened(tmp_path / "a.npy")[:]
    monkeypatch.setattr("utils.data.sources.opened.LARGE", 0)
    assert torch.equal(opened(tmp_path / "a.npy")[:], expected)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(IMAGES))
    with complaint("fortran.npy", "Fortran"):
        opened(tmp_path / "fortran.npy")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-9])
    with complaint("a.npy", "claims"):
        opened(tmp_path / "a.npy")


def test_arrays_of_one_image_each_must_be_of_one_kind(tmp_path):
    for i, image in enumerate([*IMAGES[:3], IMAGES[3, :, :8]]):
        np.save(tmp_path / f"{i}.npy", image)
    with complaint("3.npy", "[3, 8, 16]", "images of one kind"):
        opened(tmp_path)
