"""Claims: two processes, on one host or on several, never work on the same target at once."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from utils.cli.errors import Interrupted, UserError
from utils.cli.signals import check_stopping
from utils.files.atomic import make_folder, part_of, reason, remove_leftovers, write_remedy
from utils.files.owners import clock_of, is_dead, this_host

CLAIM = ".claim"  # ending of the file that marks a target as being worked on
BEAT_SECONDS = 10.0
SURE_SECONDS = 3 * BEAT_SECONDS
STALE_SECONDS = 12 * BEAT_SECONDS  # without a heartbeat for so long the owner is dead
POLL_SECONDS = 1.0
TELL_SECONDS = 5.0  # until a line says what is waited for
COME_MINUTES = 10.0  # for ranks that neither write nor claim anything

Item = TypeVar("Item")


@contextmanager
def claim(target: Path) -> Iterator[bool]:
    """Yield whether this process may work on target; while it works, nobody else may.

    A claim names its owner and host and has a heartbeat (the modification time of its file). It is
    taken over if the owner is dead on this host, or without a heartbeat (`_is_stale`). A process
    that is refused tries again later (`take_turns`)."""
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

    Other processes may go through the same items: those that they work on are left for later, and
    waited for at the end, so that all items are done when this returns. done is checked before
    the claim and after it, since another process may have finished in between."""
    pending, is_reported = list(items), False
    while pending:
        claimed_elsewhere: list[Item] = []
        while pending:
            with ExitStack() as claims:
                group: list[Item] = []
                while pending and len(group) != size:
                    check_stopping()
                    item = pending.pop(0)
                    if done(item):
                        continue
                    if not claims.enter_context(claim(target(item))):
                        claimed_elsewhere.append(item)
                    elif not done(item):
                        group.append(item)
                if group:
                    yield group
        if claimed_elsewhere and not is_reported:
            first = target(claimed_elsewhere[0])
            print(f"waiting for another job that works on {first}", flush=True)
            is_reported = True
        if claimed_elsewhere:
            time.sleep(POLL_SECONDS)
        pending = claimed_elsewhere


def wait_for(files: Sequence[Path], is_there: Callable[[Path], bool], who: str) -> None:
    """Wait until other ranks have written files, each of which one of them claims while it works.

    who: names the ranks in the line that is printed after TELL_SECONDS. Raises Interrupted where
    for COME_MINUTES none of the missing files has been written or claimed: no rank is there."""
    start = idle_since = time.monotonic()
    count, is_reported = len(files), False
    while missing := [path for path in files if not is_there(path)]:
        check_stopping()
        now = time.monotonic()
        if len(missing) < count or any(map(_is_claimed, missing)):
            count, idle_since = len(missing), now
        if now - idle_since > 60 * COME_MINUTES:
            problem = f"{len(missing)} of {len(files)} ranks never came ({who})"
            raise Interrupted(f"{problem}; run the same command again, or without the launcher")
        if now - start > TELL_SECONDS and not is_reported:
            print(f"waiting for {len(missing)} of {len(files)} ranks ({who})", flush=True)
            is_reported = True
        time.sleep(POLL_SECONDS)


def _is_claimed(target: Path) -> bool:
    mark = target.with_name(f".{target.name}{CLAIM}")
    owner = _read(mark)
    return owner is not None and not _is_stale(mark, owner)


def clear_up(folder: Path) -> None:
    """Delete what killed processes left in folder: parts of files, and claims."""
    remove_leftovers(folder)
    for mark in Path(folder).glob(f".*{CLAIM}"):
        claim_found = _read(mark)
        if claim_found and is_dead(*claim_found.owner):
            with suppress(OSError):
                _remove_stale(mark, claim_found.content)


def _take(mark: Path, content: str) -> bool:
    """Create the claim file, after removing a stale one; False where its owner is alive."""
    for _ in range(2):
        try:
            _create(mark, content)
            return True
        except FileExistsError:
            other = _read(mark)
            if other and not (_is_stale(mark, other) and _remove_stale(mark, other.content)):
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
        with mark.open("x") as file:  # a file system without links, as some network file systems
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
    """The content of a claim file: its text, its owner, and its last heartbeat."""

    content: str
    owner: tuple[object, object]  # host and process; empty where a kill cut the text short
    beat: float


def _read(mark: Path) -> _Mark | None:
    """None where the claim file is missing or cannot be read."""
    try:
        content, beat = _text(mark), mark.stat().st_mtime
    except OSError:
        return None
    try:
        owner = json.loads(content)
        return _Mark(content, (owner["where"], owner["pid"]), beat)
    except (ValueError, KeyError, TypeError):
        return _Mark(content, ("", ""), beat)


def _text(mark: Path) -> str:
    return mark.read_bytes().decode(errors="replace")


_seen: dict[Path, tuple[_Mark, float]] = {}  # the last content, and since when it is unchanged


def _is_stale(mark: Path, now: _Mark) -> bool:
    """Whether the owner is dead: on this host the process is gone, elsewhere the heartbeat ended.

    Clocks may jump and differ between hosts. So an old claim counts as stale only after this
    process has watched it without a heartbeat for SURE_SECONDS of its own time; one that seems
    recent after STALE_SECONDS."""
    if is_dead(*now.owner):
        return True
    before, since = _seen.get(mark, (None, 0.0))
    if before != now:
        since = time.monotonic()
        _seen[mark] = now, since
    watched = time.monotonic() - since
    old = clock_of(mark.parent) - now.beat > STALE_SECONDS
    return watched >= (SURE_SECONDS if old else STALE_SECONDS)


def _remove_stale(mark: Path, stale: str) -> bool:
    """Remove the stale claim; False where another process took it over meanwhile."""
    removed = part_of(mark)
    try:
        os.rename(mark, removed)  # succeeds for one process alone
    except FileNotFoundError:
        return True
    if _text(removed) != stale:  # made by a living owner since we looked: put it back
        with suppress(OSError):
            os.rename(removed, mark)
        return False
    removed.unlink()
    return True
