"""Claims: two processes, on one host or on several, never work on the same target."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from utils.cli.errors import UserError
from utils.cli.signals import check_stopping
from utils.files.atomic import make_folder, part_of, reason, remove_leftovers, write_remedy
from utils.files.owners import clock_of, is_dead, this_host

CLAIM = ".claim"  # ending of the mark of a target that somebody works on
BEAT_SECONDS = 10.0
SURE_SECONDS = 3 * BEAT_SECONDS
STALE_SECONDS = 12 * BEAT_SECONDS  # a claim that is silent for so long belongs to a dead process
POLL_SECONDS = 1.0

Item = TypeVar("Item")


@contextmanager
def claim(target: Path) -> Iterator[bool]:
    """Yield whether this process may work on target; while it works, nobody else may.

    A claim names its owner and host and has a heartbeat (the mark's modification time). It is
    taken over where the owner is dead on this host, or has been silent (`_is_stale`): so whoever
    is refused asks again (`take_turns`)."""
    mark = Path(target).with_name(f".{Path(target).name}{CLAIM}")
    make_folder(mark.parent)
    owner = {"host": socket.gethostname(), "where": this_host(), "pid": os.getpid()}
    content = json.dumps({**owner, "id": uuid4().hex})
    if not _take(mark, content):
        yield False
        return
    stop = threading.Event()

    def is_ours() -> bool:
        with suppress(OSError):
            return _text(mark) == content
        return False

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            with suppress(OSError):
                if is_ours():
                    os.utime(mark)

    threading.Thread(target=beat, daemon=True).start()
    try:
        remove_leftovers(mark.parent, older_than=0, of=Path(target).name)  # only we may write it
        yield True
    finally:
        stop.set()
        with suppress(OSError):
            if is_ours():
                mark.unlink()


def take_turns(
    items: Iterable[Item],
    target: Callable[[Item], Path],
    done: Callable[[Item], bool],
    size: int | None = 1,
) -> Iterator[list[Item]]:
    """Yield the items that are not done, `size` at once (None: as many as are free), claimed.

    Other processes may go through the same items: what they hold is left for later, and waited
    for at the end, so that whoever returns finds everything done. done is asked before the claim
    and after it, since another may have ended in between."""
    pending, told = list(items), False
    while pending:
        held: list[Item] = []
        while pending:
            with ExitStack() as claims:
                group: list[Item] = []
                while pending and len(group) != size:
                    check_stopping()
                    item = pending.pop(0)
                    if done(item):
                        continue
                    if not claims.enter_context(claim(target(item))):
                        held.append(item)
                    elif not done(item):
                        group.append(item)
                if group:
                    yield group
        if held and not told:
            print(f"waiting for another job that works on {target(held[0])}", flush=True)
            told = True
        if held:
            time.sleep(POLL_SECONDS)
        pending = held


def clear_up(folder: Path) -> None:
    """Delete what killed processes have left in folder: parts, and the marks of the dead."""
    remove_leftovers(folder)
    for mark in Path(folder).glob(f".*{CLAIM}"):
        found = _read(mark)
        if found and is_dead(*found.owner):
            with suppress(OSError):
                _bury(mark, found.content)


def _take(mark: Path, content: str) -> bool:
    """Create the mark, after removing a stale one; False where a living owner holds it."""
    for _ in range(2):
        try:
            _create(mark, content)
            return True
        except FileExistsError:
            found = _read(mark)
            if found and not (_is_stale(mark, found) and _bury(mark, found.content)):
                return False
        except OSError as error:
            raise UserError(mark.parent, reason(error), write_remedy(error)) from error
    return False


def _create(mark: Path, content: str) -> None:
    """Make name and content appear together. Raises FileExistsError where the name is taken."""
    part = part_of(mark)
    try:
        part.write_text(content)
        os.link(part, mark)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        with mark.open("x") as file:  # a file system without links, as some network ones
            try:
                file.write(content)
                file.flush()
            except OSError:
                mark.unlink()
                raise
    finally:
        part.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Mark:
    """What a mark tells: its text, who made it, and when it was last touched."""

    content: str
    owner: tuple[object, object]  # host and process; nothing where a kill cut the text short
    beat: float


def _read(mark: Path) -> _Mark | None:
    """None where the mark is gone, or does not tell."""
    try:
        content, beat = _text(mark), mark.stat().st_mtime
    except OSError:
        return None
    try:
        told = json.loads(content)
        return _Mark(content, (told["where"], told["pid"]), beat)
    except (ValueError, KeyError, TypeError):
        return _Mark(content, ("", ""), beat)


def _text(mark: Path) -> str:
    return mark.read_bytes().decode(errors="replace")


_seen: dict[Path, tuple[_Mark, float]] = {}  # what was there, and since when we see it unchanged


def _is_stale(mark: Path, found: _Mark) -> bool:
    """Whether the owner is dead: known on this host; elsewhere by a heartbeat that has ended.

    Clocks may jump and differ between hosts. So an old mark counts only after it was watched
    without a beat for SURE_SECONDS of this process's own time, one that seems young after
    STALE_SECONDS."""
    if is_dead(*found.owner):
        return True
    before, since = _seen.get(mark, (None, 0.0))
    if before != found:
        since = time.monotonic()
        _seen[mark] = found, since
    watched = time.monotonic() - since
    old = clock_of(mark.parent) - found.beat > STALE_SECONDS
    return watched >= (SURE_SECONDS if old else STALE_SECONDS)


def _bury(mark: Path, stale: str) -> bool:
    """Remove the stale mark; False where another process took it over meanwhile."""
    grave = part_of(mark)
    try:
        os.rename(mark, grave)  # succeeds for one process alone
    except FileNotFoundError:
        return True
    if _text(grave) != stale:  # a living owner's, made since we looked: put it back
        with suppress(OSError):
            os.rename(grave, mark)
        return False
    grave.unlink()
    return True
