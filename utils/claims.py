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
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from utils.errors import UserError
from utils.storage import PART, make_folder, reason, write_remedy

CLAIM = ".claim"  # ending of the mark of a target that somebody works on
STALE_SECONDS = 120.0  # a claim whose heartbeat is older belongs to a dead process
BEAT_SECONDS = 10.0
POLL_SECONDS = 1.0

Item = TypeVar("Item")


@contextmanager
def claim(target: Path) -> Iterator[bool]:
    """Yield whether this process may work on target; while it works, nobody else may.

    A claim names its owner and host and has a heartbeat (the mark's modification time). It is
    taken over where the owner is dead on this host, or silent for STALE_SECONDS."""
    mark = Path(target).with_name(f".{Path(target).name}{CLAIM}")
    make_folder(mark.parent)
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid4().hex}
    if not _take(mark, owner):
        yield False
        return
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(mark)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield True
    finally:
        stop.set()
        with suppress(OSError, ValueError):
            if json.loads(mark.read_text()).get("id") == owner["id"]:
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


def _take(mark: Path, owner: dict) -> bool:
    """Create the mark, after removing a stale one; False where a living owner holds it."""
    for _ in range(2):
        try:
            _create(mark, json.dumps(owner))
            return True
        except FileExistsError:
            stale = _stale_content(mark)
            if stale is None or not _bury(mark, stale):
                return False
        except OSError as error:
            raise UserError(mark.parent, reason(error), write_remedy(error)) from error
    return False


def _create(mark: Path, content: str) -> None:
    """Make name and content appear together. Raises FileExistsError where the name is taken."""
    part = mark.with_name(f"{mark.name}.{uuid4().hex}{PART}")
    try:
        part.write_text(content)
        os.link(part, mark)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        with mark.open("x") as file:  # a file system without links, as some network ones
            file.write(content)
    finally:
        part.unlink(missing_ok=True)


def _stale_content(mark: Path) -> str | None:
    """The content of a mark whose owner is dead or silent; None where the owner may live."""
    try:
        content, silent = mark.read_text(), time.time() - mark.stat().st_mtime
        other = json.loads(content)
        if other["host"] == socket.gethostname():
            os.kill(int(other["pid"]), 0)
    except (FileNotFoundError, ProcessLookupError) as error:
        return content if isinstance(error, ProcessLookupError) else ""
    except (OSError, ValueError, KeyError, TypeError):
        # Not ours to ask, or cut short by a kill between creation and content: age decides.
        return content if silent > STALE_SECONDS else None
    return content if silent > STALE_SECONDS else None


def _bury(mark: Path, stale: str) -> bool:
    """Remove the stale mark; False where another process took it over meanwhile."""
    grave = mark.with_name(f"{mark.name}.{uuid4().hex}{PART}")
    try:
        os.rename(mark, grave)  # succeeds for one process alone
    except FileNotFoundError:
        return True
    if grave.read_text() != stale:  # a living owner's, made since we looked: put it back
        with suppress(OSError):
            os.rename(grave, mark)
        return False
    grave.unlink()
    return True
