"""The K training images, the validation images and the held-out images of a data set."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.images import digits_args, noise, save_image
from tests.helpers.runs import FAST, QUICK, assert_one_line, complaint, run_here
from utils.cli.errors import UserError
from utils.data.datasets import load_image_set
from utils.data.origin import pack_names, unpack_names
from utils.data.subsets import (
    fingerprint,
    held_out_images,
    permutation,
    split_indices,
    training_subset,
    validation_subset,
)
from utils.inputs.checkpoints import load_checkpoint


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


def test_fingerprints_of_different_subsets_differ():
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


# Other images under the same name


def folder_args(folder, k=4):
    args = digits_args(k=k)
    args["data"] = {"data_name": "folder", "data_path": str(folder)}
    return args


def test_other_training_images_are_refused(tmp_path):
    for i in range(12):
        save_image(tmp_path / f"{i:02}.png", noise(12, 8, 8)[i])
    args = folder_args(tmp_path)
    subset = training_subset(args)
    assert subset.origin["count"] == 12
    known = {**args, "images": subset.origin}
    assert torch.equal(training_subset(known).images, subset.images)
    first = {**known, "images": {key: subset.origin[key] for key in ("count", "sha256")}}
    save_image(tmp_path / "new.png", noise(8, 8))
    with complaint("--data-path", "12 images then, 13 now", "put the images of that time there"):
        training_subset(first)  # of our first versions: without names
    save_image(tmp_path / f"{subset.indices[0]:02}.png", noise(8, 8))
    with complaint("--data-path", "12 images, some of them altered"):
        training_subset(known)
    (tmp_path / "05.png").unlink()
    with complaint("--data-path", "12 images then, 12 now; 1 are gone, as 05.png"):
        held_out_images(known, 2)
    assert len(training_subset(args).images) == 4  # nothing is known: nothing is refused


def test_the_old_images_are_found_among_more_files(tmp_path, capsys):
    """A new file would change the whole permutation: K images, held-out ones, second subset."""
    for i in range(12):
        save_image(tmp_path / "b" / f"{i:02}.png", noise(12, 8, 8)[i])
    args = folder_args(tmp_path)
    known = {**args, "images": training_subset(args).origin}
    second = {**known, "train": {**known["train"], "subset": "second"}}

    def drawn(args):
        return [*training_subset(args).images, *held_out_images(args, 6), *validation_subset(args)]

    before = torch.stack(drawn(known))
    seconds = validation_subset(second)
    save_image(tmp_path / "a.png", noise(8, 8))
    save_image(tmp_path / "b" / "z.png", noise(8, 8))
    capsys.readouterr()
    assert torch.stack(drawn(known)).equal(before)
    assert validation_subset(second).equal(seconds)
    line = "the 12 images of the model's training are used; 2 newer ones, as a.png, are left out"
    assert capsys.readouterr().out.count(line) == 1
    assert not torch.stack(drawn(args)).equal(before)  # a new training takes them all


def test_a_record_in_another_order_is_followed(tmp_path):
    """Only a file that somebody has changed has one; it must not end in a traceback."""
    for i in range(6):
        save_image(tmp_path / f"{i}.png", noise(6, 8, 8)[i])
    args = folder_args(tmp_path, k=6)
    record = {
        "count": 6,
        "sha256": "0" * 16,
        "names": pack_names([f"{i}.png" for i in range(6)][::-1]),
    }
    with complaint("--data-path", "6 images, some of them altered"):
        training_subset({**args, "images": record})


def test_names_of_any_kind_are_recorded_unless_they_are_many():
    names = ["a b/1.png", "\u00e4.png", "\udcff.png"]
    assert unpack_names(pack_names(names)) == names
    assert pack_names([]) == "" and unpack_names("") == [] and unpack_names("no names") == []
    assert unpack_names(None) == [] and unpack_names(3) == []
    rng = np.random.default_rng(0)
    assert pack_names([rng.bytes(32).hex() for _ in range(20_000)]) == ""


def test_an_image_that_is_not_trained_on_may_change(tmp_path):
    for i in range(12):
        save_image(tmp_path / f"{i:02}.png", noise(12, 8, 8)[i])
    subset = training_subset(folder_args(tmp_path))
    other = min({*range(12)} - {*subset.indices.tolist()})
    save_image(tmp_path / f"{other:02}.png", noise(8, 8))
    training_subset({**folder_args(tmp_path), "images": subset.origin})


def test_what_is_recorded_is_of_the_bytes_of_files(tmp_path):
    """Another version of a decoder may give other pixels for the same file."""
    for i in range(6):
        save_image(tmp_path / f"{i}.png", noise(6, 8, 8)[i])
    before = training_subset(folder_args(tmp_path)).origin
    for i in range(6):
        Image.fromarray(noise(6, 8, 8)[i]).save(tmp_path / f"{i}.png", compress_level=0)
    after = training_subset(folder_args(tmp_path)).origin
    assert before["count"] == after["count"] and before["sha256"] != after["sha256"]


def test_images_of_any_other_set_are_hashed_by_their_pixels(monkeypatch):
    """A set that somebody adds has what `ImageSet` asks for, and no more."""

    class Own:
        name, shape = "own", (1, 8, 8)
        pixels = torch.from_numpy(noise(12, 1, 8, 8))

        def __len__(self):
            return 12

        def read(self, indices):
            return self.pixels[torch.as_tensor(indices)]

    own = Own()
    monkeypatch.setattr("utils.data.subsets.open_images", lambda args: own)
    known = {**digits_args(k=4), "images": training_subset(digits_args(k=4)).origin}
    training_subset(known)
    own.pixels = 255 - own.pixels
    with complaint("--data-path", "12 images, some of them altered"):
        training_subset(known)


@pytest.mark.parametrize("images", [None, {}, {"count": 1797}, "text", {"sha256": "0"}])
def test_files_that_record_nothing_are_taken_as_before(images):
    subset = training_subset({**digits_args(), "images": images})
    assert torch.equal(subset.images, training_subset(digits_args()).images)
    assert training_subset(digits_args(k=17)).origin != subset.origin


def test_every_stage_finds_or_refuses_the_images_of_the_training(tmp_path):
    """One more file in the folder would choose other images, at every K."""
    pictures = tmp_path / "pictures"
    for i, image in enumerate(noise(40, 8, 8)):
        save_image(pictures / f"{i:02}.png", image)
    data = ["--data-name", "folder", "--data-path", pictures]
    quick = [*FAST, *data, "--train-size", "4"]
    flags = [*quick, "--results-path", tmp_path / "r", "--model-path", tmp_path / "models"]
    assert run_here("train_unet.py", *flags).returncode == 0
    sets = ["--result-path", tmp_path / "g", "--synth-path", tmp_path / "s", "--num-samples", "4"]
    own = tmp_path / "own.yaml"
    own.write_text(f"data: {{data_name: folder, data_path: {pictures}}}\n")
    exact = ["--exact", *QUICK, own, "--train-size", "4", "--sampler", "ddim", "--steps", "2"]
    drawn = run_here("run_generate.py", *exact, *sets)
    assert drawn.returncode == 0, drawn.stderr
    near = ["--synth-path", tmp_path / "s", "--device", "cpu", "--result-path"]
    assert run_here("run_distances.py", *near, tmp_path / "d").returncode == 0
    save_image(pictures / "0-new.png", noise(8, 8))
    again = run_here("run_distances.py", *near, tmp_path / "d-again")
    assert "the 40 images of the model's training are used" in again.stdout
    assert_same_arrays(tmp_path / "d" / "4.npz", tmp_path / "d-again" / "4.npz")
    assert run_here("train_unet.py", *flags, "--iterations", "22").returncode == 0
    stored = [load_checkpoint(path).args["images"] for path in tmp_path.glob("r/checkpoints/*")]
    assert len(stored) > 1 and all(record == stored[0] for record in stored)
    (pictures / "00.png").unlink()
    words = ("--data-path", "40 images then, 40 now; 1 are gone, as 00.png")
    assert_one_line(run_here("train_unet.py", *flags, "--iterations", "40"), *words)
    assert_one_line(run_here("run_distances.py", *near, tmp_path / "d2"), *words)
    times = ["--ckpt-path", tmp_path / "models", "--result-path", tmp_path / "t", "--device", "cpu"]
    assert_one_line(run_here("run_critical_times.py", *times), *words)
    assert not [*tmp_path.glob("d2/*.npz"), *tmp_path.glob("t/*.npz")]


def assert_same_arrays(first, second):
    with np.load(first) as a, np.load(second) as b:
        assert sorted(a.files) == sorted(b.files)
        for key in {*a.files} - {"args"}:
            np.testing.assert_array_equal(a[key], b[key])
