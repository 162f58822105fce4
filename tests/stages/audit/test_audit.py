"""The audit of real photographs, in Python: copies, controls, duplicates, every form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.runs import complaint
from tests.helpers.sources import FORMS, as_jpeg, every_form, tiles
from utils.audit import as_text, audit
from utils.stages.audit.files import csv_text

TRAIN, TEST = tiles(110, size=32), tiles(110, "test", size=32)


def shifted(image):
    """One pixel to the right; the left column is repeated."""
    return np.concatenate([image[:, :, :1], image[:, :, :-1]], axis=2)


def table_of(result):
    columns = list(result.table)
    return csv_text(columns, zip(*result.table.values(), strict=True))


def verdicts(result):
    """bool [N] in the order of the samples."""
    numbers = np.array(result.table["sample"], int)
    return np.array(result.table["verdict"])[np.argsort(numbers)] == "copy"


def draws(count):
    """Of train and test tiles: 40 copies as JPEG, 30 shifted ones and 50 new tiles as samples."""
    train_all, test_all = tiles(10_000, size=32), tiles(10_000, "test", size=32)
    for seed in range(count):
        draw = np.random.default_rng(seed)
        train = train_all[draw.permutation(len(train_all))[:110]]
        test = test_all[draw.permutation(len(test_all))[:110]]
        copies = [as_jpeg(image) for image in train[:40]]
        moved = [shifted(image) for image in train[40:70]]
        yield np.stack([*copies, *moved, *test[60:]]), train, test[:60]


def found_in(result):
    """Copies among the JPEG ones, the shifted ones and the new ones."""
    copies = verdicts(result)
    return copies[:40].sum(), copies[40:70].sum(), copies[70:].sum()


def test_copies_are_found_and_new_tiles_are_not_accused():
    """At least what was found by hand with p-values and ratios, over ten draws."""
    counts = np.array([found_in(audit(*sets)) for sets in draws(10)])
    jpeg, moved, new = counts.T
    assert jpeg.min() >= 38 and moved.mean() >= 7
    # False discoveries are 5 % of the discoveries at most, on average.
    assert new.sum() <= 0.05 * counts.sum() + 3 * np.sqrt(0.05 * counts.sum())


def test_shifted_copies_are_found_by_comparing_with_shifted_images():
    for sets in draws(3):
        jpeg, moved, _ = found_in(audit(*sets, shifts=1))
        assert jpeg == 40 and moved >= 27


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_copies_are_found_by_lpips(network):
    sets = next(draws(1))
    result = audit(*sets, metric=network)
    # LPIPS is the square of a distance, and ratios are those of distances.
    columns = (result.table[name] for name in ("ratio", "distance_1", "distance_2"))
    for ratio, first, second in zip(*columns, strict=True):
        assert ratio == pytest.approx(np.sqrt(first / second), rel=1e-5)
    jpeg, moved, new = found_in(result)
    assert jpeg >= 39 and moved >= 11 and new <= 5


def test_mirrored_copies_are_found_by_comparing_with_mirrored_images():
    samples = np.concatenate([TRAIN[:30, :, :, ::-1], TEST[60:]])
    plain, mirrored = (audit(samples, TRAIN, TEST[:60], flips=one) for one in (False, True))
    assert verdicts(plain)[:30].sum() <= 3 and verdicts(mirrored)[:30].all()


@pytest.mark.parametrize("shift", [(1, 2), (-2, 0)])
def test_a_shift_is_compared_pixel_by_pixel(shift):
    """The distance to a training image that was moved is exactly 0."""
    moved = np.roll(TRAIN[:5], shift, axis=(2, 3))
    result = audit(moved, TRAIN, shifts=2)
    assert max(result.table["distance_1"]) == 0
    assert sorted(result.table["train_1"]) == [str(i) for i in range(5)]
    assert min(audit(moved, TRAIN).table["distance_1"]) > 0


def test_neighbours_are_those_of_all_variants():
    """Against all distances to all mirrored and shifted training images."""
    images, s = tiles(20, size=16), 1
    samples, train = images[:6], images[6:]
    result = audit(samples, train, flips=True, shifts=s, k=3)
    inner = slice(s, 16 - s)
    cut = (samples / 127.5 - 1)[:, :, inner, inner].reshape(6, -1)
    apart = np.full((6, 14), np.inf)
    for images in (train, train[:, :, :, ::-1]):
        for top in range(3):
            for left in range(3):
                part = (images / 127.5 - 1)[:, :, top : top + 14, left : left + 14]
                one = np.linalg.norm(cut[:, None] - part.reshape(14, -1)[None], axis=2)
                apart = np.minimum(apart, one)
    order = np.argsort(apart, axis=1)[:, :3]
    for row, name in enumerate(result.table["sample"]):
        i = int(name)
        for j in range(3):
            assert result.table[f"train_{j + 1}"][row] == str(order[i, j])
            expected = pytest.approx(apart[i, order[i, j]], rel=1e-5)
            assert result.table[f"distance_{j + 1}"][row] == expected


def test_equal_images_are_copies_and_say_so():
    samples = np.concatenate([TRAIN[:4], TEST[:20]])
    result = audit(samples, TRAIN, TEST[20:])
    assert result.copies["by"]["equal"] == 4
    assert all("equal" in by for by in result.table["by"][:4])
    assert sorted(result.table["sample"][:4]) == ["0", "1", "2", "3"]


def test_without_held_out_images_the_ratio_alone_finds_copies_and_says_what_is_missing():
    samples = np.stack([*map(as_jpeg, TRAIN[:20]), *TEST[:20]])
    result = audit(samples, TRAIN)
    assert verdicts(result)[:20].sum() >= 18 and not verdicts(result)[20:].any()
    assert result.control is None and result.findings == {}
    assert set(result.table["p_value"]) == {None}
    for name in ("p-values", "control", "C_T", "authenticity"):
        assert name in as_text(result).split("--held-out:")[1]


def test_samples_that_are_held_out_images_give_the_stated_share_of_false_alarms():
    """Copies among new images: as many as among the control, and rarely any by p-values."""
    test = tiles(10_000, "test", size=32)
    copies = control = by_p = 0
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(test))
        result = audit(test[order[:100]], TRAIN, test[order[100:400]])
        copies += result.copies["by"]["ratio"]
        control += result.control["by"]["ratio"] / 3
        by_p += result.copies["by"]["p-value"] > 0
    assert by_p <= 4  # 5 % of 20 draws, or fewer: P(more than 4) = 0.3 %
    assert abs(copies - control) <= 3 * np.sqrt(copies + control + 1)


def test_the_control_is_judged_by_the_distance_at_which_p_values_end():
    """Copies with more and more noise: the last discoveries are as far as some new images are."""
    scale = np.linspace(2, 40, 100)[:, None, None, None]
    noise = np.random.default_rng(0).normal(size=(100, 3, 32, 32)) * scale
    samples = (TRAIN[:100] + noise).clip(0, 255).round().astype(np.uint8)
    result = audit(samples, TRAIN, TEST)
    known = torch.from_numpy(TRAIN).flatten(1) / 127.5 - 1
    new = torch.cdist(torch.from_numpy(TEST).flatten(1) / 127.5 - 1, known).min(1).values
    by_p = [d for d, by in zip(result.table["distance_1"], result.table["by"]) if "p-value" in by]
    expected = int((new <= max(by_p) * (1 + 1e-5)).sum())
    assert result.control["by"]["p-value"] == expected > 0


def test_duplicates_of_the_training_set_are_reported_and_do_not_hide_copies():
    twice = np.concatenate([TRAIN, TRAIN[:3], [as_jpeg(TRAIN[5])]])
    copies = np.stack([as_jpeg(TRAIN[i], 80) for i in (0, 1, 5, 9)])
    result = audit(copies, twice, TEST[:60])
    assert result.duplicates["exact_groups"] == 3 and result.duplicates["exact_images"] == 6
    assert result.duplicates["near_groups"] == 4 and result.duplicates["near_images"] == 8
    assert result.copies["by"]["ratio"] == 4
    assert {int(row["train"]) for row in result.groups} == {0, 1, 2, 5, 110, 111, 112, 113}
    times = {one["train"]: one["times_in_train"] for one in result.copied}
    assert times["0"] == times["1"] == 2 and times["9"] == 1


def test_states_of_the_samples_are_counted():
    repeated = np.concatenate([TEST[:10], *([as_jpeg(TEST[0], q)[None] for q in (90, 92, 94, 96)])])
    states = audit(repeated, TRAIN).states
    assert states["distinct"] == 10 and states["largest"] == 5


def test_the_most_copied_training_images_come_first():
    samples = np.stack([as_jpeg(TRAIN[i], q) for i, q in ((7, 90), (7, 91), (7, 93), (2, 90))])
    result = audit(np.concatenate([samples, TEST[:30]]), TRAIN, TEST[30:])
    assert [(one["train"], one["copies"]) for one in result.copied[:2]] == [("7", 3), ("2", 1)]


def test_held_out_images_that_are_training_images_are_warned_of():
    result = audit(TEST[:20], TRAIN, np.concatenate([TEST[20:], TRAIN[:2]]))
    assert any("2 of 92 held-out images are training images" in text for text in result.warnings)


def test_a_small_held_out_set_is_warned_of_with_what_it_can_find():
    result = audit(TEST[:50], TRAIN, TEST[50:])
    text = " ".join(result.warnings)
    # 60 images: the least p-value is 1/61, and 17 copies of 50 are needed: 0.05 * 17 / 50 > 1/61
    assert "fewer than 17 copies among 50 samples" in text and "1000 held-out images" in text
    enough = audit(TEST[:2], TRAIN, TEST[2:])
    assert not any("p-value" in one for one in enough.warnings)


def test_different_resizing_is_warned_of():
    large = tiles(30, size=64)
    result = audit(TEST[:20], large, TEST[20:])
    assert any("resized differently" in text and "64 x 64" in text for text in result.warnings)
    assert not audit(TEST[:20], TRAIN, TEST[20:], image_size=16).warnings[:-1]


# The same answer in every form


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    samples = np.stack([*map(as_jpeg, TRAIN[:8]), *TEST[:12]])
    folder = tmp_path_factory.mktemp("forms")
    return every_form(folder / "samples", samples), table_of(audit(samples, TRAIN, TEST[60:]))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_samples_gives_the_same_table(forms, name):
    given, expected = forms
    result = audit(given[name], TRAIN, TEST[60:])
    names = sorted(set(result.table["sample"]))
    result.table["sample"] = [str(names.index(one)) for one in result.table["sample"]]
    if "/" not in names[0] and not names[0].endswith(".npy"):  # numbers, as in the array
        numbers = sorted(names, key=int)
        order = [int(names[int(one)]) for one in result.table["sample"]]
        assert numbers == [str(i) for i in range(20)]
        result.table["sample"] = list(map(str, order))
    assert table_of(result) == expected


def test_order_batches_and_memory_change_nothing():
    samples = np.stack([*map(as_jpeg, TRAIN[:8]), *TEST[:12]])
    expected = table_of(audit(samples, TRAIN, TEST[60:]))
    for options in ({"eval_batch_size": 3}, {"memory_bytes": 2**20}):
        assert table_of(audit(samples, TRAIN, TEST[60:], **options)) == expected
    order = np.random.default_rng(0).permutation(20)
    result = audit(samples[order], TRAIN, TEST[60:][::-1].copy())
    result.table["sample"] = [str(order[int(i)]) for i in result.table["sample"]]
    assert table_of(result) == expected


def test_floats_and_bytes_may_be_mixed():
    noisy = torch.from_numpy(TEST[:20]).float() / 127.5 - 1
    noisy = (noisy + 0.01 * torch.randn(noisy.shape, generator=torch.manual_seed(0))).clamp(-1, 1)
    result = audit(noisy, TRAIN, TEST[20:])
    apart = torch.cdist(noisy.flatten(1), torch.from_numpy(TRAIN).flatten(1) / 127.5 - 1)
    nearest = dict(zip(result.table["sample"], result.table["distance_1"], strict=True))
    for i, distance in enumerate(apart.min(1).values.tolist()):
        assert nearest[str(i)] == pytest.approx(distance, rel=1e-4)


def test_what_is_wrong_is_said():
    with complaint("--metric", "l3"):
        audit(TEST, TRAIN, metric="l3")
    with complaint("--train", "nothing"):
        audit(TEST, None)
    with complaint("--image-size", "32 x 24"):
        audit(TEST[:, :, :24], TRAIN)
