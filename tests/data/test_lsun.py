"""LSUN databases and the stored list of their keys."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.helpers.images import noise, offline, write_lsun
from tests.helpers.runs import complaint
from utils.data import lsun
from utils.data.datasets import load_image_set
from utils.files.atomic import read_json


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


def test_lsun_has_a_test_part_and_names_what_is_wrong(home, monkeypatch):
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
