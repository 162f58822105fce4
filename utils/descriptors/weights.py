"""Where the weights of a network are searched for: a named place, a cache, the internet."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import getproxies

import torch

from utils.cli.errors import UserError

HUB = "huggingface.co"
DOWNLOAD_SECONDS = 20  # without an answer; a cluster without internet often gives none


def hub_folder() -> Path:
    """The folder of the downloads of PyTorch's hub, which torchvision uses too."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def first_file(folder: Path, patterns: Iterable[str]) -> Path | None:
    """The first file of a folder, by pattern and then by name; None where there is none."""
    for pattern in patterns:
        if files := sorted(folder.glob(pattern)):
            return files[0]
    return None


def named_file(given: Path, patterns: Iterable[str], flag: str = "--metric-weights") -> Path:
    """The file that a flag names, or the first of the folder that it names.

    Raises UserError where there is none."""
    given, patterns = Path(given).expanduser(), list(patterns)
    if given.is_file():
        return given
    path = first_file(given, patterns) if given.is_dir() else None
    if path is None:
        what = f", which holds no {' and no '.join(patterns)}" if given.is_dir() else ": no file"
        raise UserError(flag, f"{given}{what}", "give the file, or the folder that has it")
    return path


def download(url: str, folder: Path, hash_prefix: str | None, remedy: str, what: str) -> Path:
    """Load the file of a URL into a folder, where it stays. hash_prefix: of its sha256.

    Raises UserError with `remedy` where it cannot be loaded."""
    path = folder / url.rsplit("/", 1)[1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with time_limit(DOWNLOAD_SECONDS):
            torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=True)
    except (OSError, RuntimeError) as error:  # no internet, or a download that was cut short
        raise UserError(what, f"no weights ({error})", remedy.format(file=path.name)) from error
    return path


def of_hub(repository: str, names: Iterable[str], remedy: str, what: str) -> Path | None:
    """The first of these files of a model that the cache of huggingface_hub holds; None where it
    holds none but the Hub can be asked.

    Raises UserError where it cannot: huggingface_hub would try for a minute."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return Path(path)
    if not getproxies():  # behind a proxy a connection of one's own may be refused
        try:
            socket.create_connection((HUB, 443), DOWNLOAD_SECONDS).close()
        except OSError as error:
            raise UserError(what, f"no weights ({error})", remedy) from error
    return None


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let a connection wait so long for an answer, and no longer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
