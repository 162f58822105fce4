"""Files of every kind with bad bytes, arrays and options: one line that names the file, or an
answer that stages may work with; never a traceback, never a gigabyte for a file of kilobytes."""

from __future__ import annotations

import io
import os
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given

from models.noise import image_key
from tests.faults.kinds import (
    DIM,
    KINDS,
    TOY,
    Kind,
    circle,
    embed,
    sound_dists,
    sound_energies,
    sound_identified,
    sound_samples,
    sound_times,
    unchecked,
)
from tests.helpers.damage import spoilt
from tests.helpers.images import random_images
from tests.helpers.runs import train_options
from tests.helpers.sandbox import work
from tests.helpers.trials import FULL, TRIES, examples, outcome, told_in
from utils.cli.progress import QUIET
from utils.describe import describe
from utils.inputs.samples import load_synthetics
from utils.metrics import cache as embedding_cache
from utils.metrics.cache import Embedded, EmbeddingCache
from utils.stages.classify.files import load_identified
from utils.stages.critical_times.files import load_times, save_unfinished
from utils.stages.critical_times.search import Answer
from utils.stages.distances.files import load_dists
from utils.stages.energy.files import load_energies
from utils.stages.toy import analysis as toy_analysis
from utils.stages.train import stage as train

EXAMPLES = 12 * TRIES  # of each kind, read; the stages' runs are shared by the kinds


@pytest.fixture(scope="module", autouse=True)
def quick(no_pictures):
    """No bars and no pictures; on many tries they are drawn, and thrown away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(QUIET, "1")
        patch.setattr(toy_analysis, "SIDE", 15)
        patch.setattr(embedding_cache, "BLOCK_BYTES", 8 * DIM * 4)
        if not FULL:
            for drawing in ("savefig", "draw_without_rendering"):
                patch.setattr(f"matplotlib.figure.Figure.{drawing}", lambda *_, **__: None)
        else:
            patch.setattr("utils.figures.save.DOTS_PER_INCH", 20)
        yield


@pytest.fixture(scope="module")
def sound(tmp_path_factory, quick, made):
    """A folder with a sound file of every kind."""
    made, results = made
    folder = tmp_path_factory.mktemp("sound")
    for name in ("models", "s", "d", "run"):
        shutil.copytree(made / name, folder / name)
    shutil.copy(made / "ref.npz", folder)
    for stage, files in results.items():
        for name, data in files.items():
            path = folder / "outs" / stage / Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    with redirect_stdout(io.StringIO()):
        train.run(train_options(folder, "--iterations", 4, "--timesteps", 60))
        shutil.rmtree(folder / "models")
        shutil.copytree(made / "models", folder / "models")
        for share in ("1/2", "0/2"):
            work("distances", folder, "--shard", share)
            if share == "1/2":
                shutil.copytree(folder / "out", folder / "outs" / "parts")
        shutil.rmtree(folder / "out")
        for command in TOY:
            circle(command, folder / "toy")
    times = load_times(folder / "outs" / "critical times" / "8.npz")
    samples = torch.from_numpy(load_synthetics(folder / "s" / "8.npz").samples)[:2]
    arrays = {name: getattr(times, name) for name in Answer.__dataclass_fields__}
    arrays["image"] = np.array([image_key(image) for image in samples])
    path = folder / "outs" / "critical times" / "unfinished" / "8.npz"
    save_unfinished(path, arrays, times.args)
    (folder / "cache").mkdir()
    Embedded(
        *(random_images(8), embed, DIM, torch.device("cpu"), 4),
        EmbeddingCache(folder / "cache", DIM, embed),
    ).read(range(8))
    (folder / "celebahq").mkdir()
    np.save(folder / "celebahq" / "1.npy", np.zeros((8, 8, 3), np.uint8))
    return folder


def place_of(kind: Kind, folder: Path) -> str:
    """The file of a kind below folder; a block of embeddings is named by its content."""
    if kind.path == "cache/BLOCK":
        return f"cache/{next((folder / 'cache').glob('*.npy')).name}"
    return kind.path


def fresh(sound: Path, folder: Path, name: str, data: bytes) -> Path:
    """A copy of everything (links: who writes puts another file in its place) but one file."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(sound, folder, copy_function=os.link)
    path = folder / name
    path.unlink()
    path.write_bytes(data)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", KINDS)
def test_a_spoilt_file_is_one_line_or_a_sound_answer(sound, tally, tmp_path, name):
    kind = KINDS[name]
    place = place_of(kind, sound)
    data = (sound / place).read_bytes()
    path = fresh(sound, tmp_path / "own", place, data)
    kind.sound(kind.read(path))
    shown = [kind.read, describe] if path.suffix in (".npz", ".pt") else [kind.read]
    with told_in(tally, kind.stage, "bad bytes") as counted:

        @examples(EXAMPLES if FULL or len(data) < 10**6 else EXAMPLES // 5)
        @given(spoilt(path.suffix, data))
        def holds(content):
            with counted.attempt():
                for read in shown:
                    path.unlink(missing_ok=True)
                    path.write_bytes(content)
                    message, answer = outcome(lambda r=read: r(path), path.name)
                    if message is None and read is kind.read:
                        kind.sound(answer)

        holds()


RUN = [name for name in KINDS if KINDS[name].run]


def results_are_sound(folder: Path, spoilt: Path) -> None:
    """What a stage has written. What it has taken for finished, for its archive and options are
    whole, may also be refused by whoever reads its arrays."""
    loaders = {
        "data-dists": lambda path: sound_dists(load_dists(path)),
        "potential": lambda path: sound_energies(load_energies(path)),
        "scanned": lambda path: sound_times(load_times(path)),
        "train-nns": lambda path: sound_identified(load_identified(path)),
        "samples": lambda path: sound_samples(load_synthetics(path)),
    }
    for path in folder.glob("out/**/[1-9]*.npz"):
        keys = np.load(path).files
        load = next((loaders[key] for key in loaders if key in keys), unchecked)
        if str(path.relative_to(folder / "out")) in str(spoilt):
            outcome(lambda load=load, path=path: load(path), path.name)
        else:
            load(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", RUN)
def test_a_stage_that_meets_a_spoilt_file_says_so_or_works(sound, tally, tmp_path, name):
    kind = KINDS[name]
    data = (sound / kind.path).read_bytes()
    folder = tmp_path / "own"
    path = fresh(sound, folder, kind.path, data)
    assert outcome(lambda: kind.run(folder), "") == (None, None)
    with told_in(tally, kind.stage, "bad bytes") as counted:

        @examples(max(2, EXAMPLES // 10))
        @given(spoilt(path.suffix, data))
        def holds(content):
            with counted.attempt():
                fresh(sound, folder, kind.path, content)
                names = (path.name, "--", "data set", f"K = {path.stem}")
                if outcome(lambda: kind.run(folder), *names)[0] is None:
                    results_are_sound(folder, path)

        holds()
