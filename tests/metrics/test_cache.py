"""The embedding cache: each image once, to the same bits; no corrupt block is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.images import random_images
from tests.helpers.runs import ROOT
from utils.cli.errors import UserError
from utils.cli.options.run import CacheOptions
from utils.data.views import image_digests
from utils.descriptors.embedders import load_metric
from utils.files.arrays import map_npy, save_npy
from utils.metrics import cache as embedding_cache
from utils.metrics.cache import Embedded, EmbeddingCache, open_cache
from utils.metrics.nearest import SearchSettings, nearest_images

CPU = torch.device("cpu")


def embed(x: Tensor) -> Tensor:
    """A stand-in for a network: 128 numbers an image, of that image alone."""
    x = x.flatten(1).double()
    return torch.cat([x.sin(), x.square().cos()], dim=1).float()


@pytest.fixture(autouse=True)
def ten_rows(monkeypatch):
    """Blocks of ten images."""
    monkeypatch.setattr(embedding_cache, "BLOCK_BYTES", 10 * 128 * 4)


def opened(folder: Path) -> EmbeddingCache:
    return EmbeddingCache(folder, 128, embed)


def vectors(x: Tensor, cache: EmbeddingCache | None, batch: int = 4) -> Embedded:
    return Embedded(x, embed, 128, CPU, batch, cache)


def test_nested_sets_embed_each_image_once(tmp_path):
    x, cache = random_images(57), opened(tmp_path)
    for k in (2, 9, 10, 31, 57, 40):
        result = vectors(x[:k], cache).read(range(k))
        assert torch.equal(result, embed(x[:k]))
    assert cache.embedded == 57
    again = opened(tmp_path)  # another run
    assert torch.equal(vectors(x, again).read(range(13, 44)), embed(x[13:44]))
    mixed = x[torch.randperm(57, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(vectors(mixed, again).read(range(57)), embed(mixed))
    assert again.embedded == 0


def test_copies_are_embedded_once(tmp_path):
    x, cache = random_images(3)[torch.tensor([0, 1, 0, 2, 2, 2, 1] * 5)], opened(tmp_path)
    assert torch.equal(vectors(x, cache).read(range(35)), embed(x))
    assert cache.embedded == 3


def test_any_span_and_batch_gives_the_same(tmp_path):
    x = random_images(35)
    for place, (start, stop, batch) in enumerate(
        [(0, 35, 7), (9, 12, 1), (30, 35, 100), (4, 4, 3)]
    ):
        for cache in (None, opened(tmp_path / str(place))):
            result = vectors(x, cache, batch).read(range(start, stop))
            assert torch.equal(result, embed(x[start:stop]))


def test_what_is_held_is_read_from_memory():
    counts: list[int] = []
    x = random_images(20)
    result = Embedded(x, embed, 128, CPU, 8, None, counts.append)
    held = result.hold(range(5, 15))
    assert counts == [8, 2]
    assert torch.equal(result.read(range(7, 12)), held[2:7]) and counts == [8, 2]
    assert torch.equal(result.read(range(0, 6)), embed(x[:6])) and counts == [8, 2, 6]


def flip_a_number(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # in the last embedding
    path.write_bytes(content)


def flip_a_digest(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = len(content) - map_npy(path).nbytes  # behind the header: the digests come first
    content[start + 3] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_plain_array(path: Path) -> None:
    np.save(path, np.zeros(7))


def replace_by_other_record(path: Path) -> None:
    save_npy(path, np.zeros(1, [("other", np.float32, (3,))]))


@pytest.mark.parametrize(
    "harm",
    [flip_a_number, cut_short, empty, replace_by_plain_array, replace_by_other_record],
)
def test_a_corrupt_block_is_reported_in_one_line_and_made_again(tmp_path, capsys, harm):
    x = random_images(25)
    vectors(x, opened(tmp_path)).read(range(25))
    blocks = sorted(tmp_path.glob("*.npy"))
    assert len(blocks) == 3
    harm(blocks[1])
    cache = opened(tmp_path)
    result = vectors(x, cache).read(range(25))
    assert torch.equal(result, embed(x))
    assert cache.embedded in (5, 10)  # that block's images alone
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and str(blocks[1]) in lines[0] and "made again" in lines[0]
    assert sorted(tmp_path.glob("*.npy")) == blocks  # under its own name
    assert torch.equal(vectors(x, opened(tmp_path)).read(range(25)), embed(x))
    assert capsys.readouterr().err == ""


def test_a_changed_digest_never_gives_another_images_embedding(tmp_path, capsys):
    x = random_images(10)
    vectors(x, opened(tmp_path)).read(range(10))
    (block,) = tmp_path.glob("*.npy")
    flip_a_digest(block)
    assert torch.equal(vectors(x, opened(tmp_path)).read(range(10)), embed(x))
    assert "checksum" in capsys.readouterr().err


def test_a_disk_that_keeps_nothing_ends_in_the_users_error(tmp_path, monkeypatch):
    save = embedding_cache.save_npy

    def worn_out(path: Path, array: np.ndarray, lasting: bool) -> None:
        save(path, array, lasting)
        flip_a_number(path)

    monkeypatch.setattr(embedding_cache, "save_npy", worn_out)
    with pytest.raises(UserError, match="do not stay as written; check the disk"):
        vectors(random_images(5), opened(tmp_path)).read(range(5))


def test_a_block_that_vanishes_is_made_again(tmp_path):
    x, cache = random_images(25), opened(tmp_path)
    result = vectors(x, cache)
    result.read(range(25))
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    assert torch.equal(result.read(range(25)), embed(x))


FILLER = """
import sys, time
from pathlib import Path
from tests.helpers.images import random_images
from tests.metrics import test_cache as here
from utils.metrics import cache as embedding_cache
embedding_cache.BLOCK_BYTES = 10 * 128 * 4
folder, k = Path(sys.argv[1]), int(sys.argv[2])
def slow(x):
    time.sleep(0.02 * len(x))
    return here.embed(x)
cache = embedding_cache.EmbeddingCache(folder, 128, slow)
x = random_images(64)[:k]
found = embedding_cache.Embedded(x, slow, 128, here.CPU, 4, cache).read(range(k))
assert here.torch.equal(found, here.embed(x))
print("embedded", cache.embedded)
"""


def filler(folder: Path, k: int) -> subprocess.Popen:
    command = [sys.executable, "-c", FILLER, str(folder), str(k)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_several_processes_with_nested_sets_embed_each_image_once(tmp_path):
    workers = [filler(tmp_path, k) for k in (64, 37, 15)]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sum(int(text.rsplit("embedded", 1)[1]) for text in outputs) == 64
    assert not list(tmp_path.glob(".*"))  # no claims, no parts


def test_a_killed_process_loses_its_block_alone(tmp_path):
    worker = filler(tmp_path, 64)
    while not list(tmp_path.glob("*.npy")) or not list(tmp_path.glob(".*.claim")):
        assert worker.poll() is None
    worker.kill()
    worker.communicate()
    whole = len(list(tmp_path.glob("*.npy")))
    cache = opened(tmp_path)
    assert torch.equal(vectors(random_images(64), cache).read(range(64)), embed(random_images(64)))
    assert cache.embedded == 64 - 10 * whole


def test_digests_of_different_images_differ():
    x = random_images(50)
    assert len(set(image_digests(x))) == 50
    assert image_digests(x) == image_digests(x.clone()) == image_digests(x[:, :, :, :])
    assert not set(image_digests(x)) & set(image_digests(x.float()))
    wide = x.view(50, 1, 4, 16)
    assert not set(image_digests(x)) & set(image_digests(wide))
    # The view of a larger tensor, whose bytes lie elsewhere.
    assert image_digests(x[3:5]) == image_digests(x)[3:5]
    assert image_digests(x.transpose(2, 3)) == image_digests(x.transpose(2, 3).contiguous())


@pytest.fixture(scope="module")
def alex():
    return load_metric("alex", None, "cpu")


def test_cached_equals_uncached(tmp_path, monkeypatch, alex):
    monkeypatch.setattr(embedding_cache, "BLOCK_BYTES", 7 * 5760 * 4)
    samples, train = random_images(20).float() / 127.5 - 1, random_images(33, seed=1)
    expected = nearest_images(alex, samples, train, 4)
    beside = tmp_path / "dists"
    for _ in range(2):
        cache = open_cache(alex, CacheOptions(), beside, samples, 53)
        result = nearest_images(alex, samples, train, 4, SearchSettings(16, 5, cache=cache))
        for key, array in expected.items():
            np.testing.assert_array_equal(result[key], array)
    assert cache.embedded == 0
    assert cache.folder.parent == tmp_path / "embeddings"


def test_its_size_is_said_before_it_is_written(tmp_path, capsys, alex):
    x = random_images(20)
    cache = open_cache(alex, CacheOptions(), tmp_path / "dists", x, 1000)
    said = capsys.readouterr().out
    assert f"embeddings of 5,760 numbers in {cache.folder}: up to 22M more, " in said
    Embedded(x, alex, 5760, CPU, 8, cache).fill(range(20))
    open_cache(alex, CacheOptions(), tmp_path / "dists", x, 20)
    assert capsys.readouterr().out == f"embeddings of 5,760 numbers in {cache.folder}\n"


def test_without_the_space_there_is_no_cache(tmp_path, capsys, monkeypatch, alex):
    monkeypatch.setattr("utils.metrics.cache.free_space", lambda folder: 10 * 5760 * 4 - 1)
    options = CacheOptions(cache_path=tmp_path / "here")
    assert open_cache(alex, options, tmp_path / "dists", random_images(1), 10) is None
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and "--cache-path" in said.err
    assert open_cache(alex, options, tmp_path / "dists", random_images(1), 9) is not None


def test_no_cache_where_none_is_wanted(tmp_path, alex):
    assert (
        open_cache(alex, CacheOptions(no_cache=True), tmp_path / "d", random_images(1), 10) is None
    )
    l2 = load_metric("l2", None, "cpu")
    assert open_cache(l2, CacheOptions(), tmp_path / "d", random_images(1), 10) is None
    assert not list(tmp_path.iterdir())


def test_networks_and_shapes_do_not_share(tmp_path, alex):
    folders = {
        open_cache(metric, CacheOptions(), tmp_path / "d", x, 1).folder
        for metric in (alex, load_metric("vgg", None, "cpu"))
        for x in (random_images(1), torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 16, 8))
    }
    assert len(folders) == 6
    other = load_metric("alex", None, "cpu")
    with torch.no_grad():
        next(other.phi.features.parameters())[0, 0, 0, 0] += 1e-3
    from utils.files.provenance import digest

    changed = digest(*(t.numpy() for t in other.phi.state_dict().values()))
    assert changed != alex.fingerprint
