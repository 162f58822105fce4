"""Python imports this by itself in the processes of the fault tests, which put it on their path.

M2G_FAULT names what happens, and at which of the process's changes of files below its working
folder: `kill:7`. M2G_EVENTS is a file that takes their list. M2G_HOST is a host name to go
by, M2G_HURRY makes waiting short."""

import errno
import os
import signal
import sys

FAULT, EVENTS = os.environ.pop("M2G_FAULT", ""), os.environ.pop("M2G_EVENTS", "")
HOST, HURRY = os.environ.pop("M2G_HOST", ""), os.environ.pop("M2G_HURRY", "")
CHANGES = {"os.rename": 0, "os.link": 0, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0}
HERE = os.getcwd()


def changed(event, arguments):
    """The path that an event of Python's changes; None for what only looks."""
    if event == "open":
        path, mode, flags = arguments
        writes = (flags or 0) & (os.O_WRONLY | os.O_RDWR) or set(str(mode)) & set("wxa+")
        return path if writes else None
    return arguments[CHANGES[event]] if event in CHANGES else None


def full_disk():
    """What needs no room still works."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only():
    """The working folder and all below it, from now on."""
    for folder, _, _ in os.walk(HERE):
        os.chmod(folder, 0o555)


def jump(seconds):
    """The clock of this process is another one from now on."""
    import time

    before = time.time
    time.time = lambda: before() + seconds


def send(name):
    return lambda: os.kill(os.getpid(), getattr(signal, name))


ACTIONS = {
    "kill": send("SIGKILL"),
    "term": send("SIGTERM"),
    "int": send("SIGINT"),
    "full": full_disk,
    "readonly": read_only,
    "later": lambda: jump(3600),
    "earlier": lambda: jump(-3600),
}


def install():
    what, _, place = (FAULT or "nothing:0").partition(":")
    count = 0

    def hook(event, arguments):
        nonlocal count
        path = changed(event, arguments)
        if path is None or isinstance(path, int):
            return
        name = os.path.abspath(os.fsdecode(path))
        if not name.startswith(HERE + os.sep) or "__pycache__" in name:
            return
        count += 1
        if EVENTS:
            os.write(log, f"{event} {os.path.relpath(name, HERE)}\n".encode())
        due = count >= int(place) if what == "full" else count == int(place)
        if due and (what != "full" or event in ("open", "os.link", "os.mkdir")):
            ACTIONS[what]()

    log = os.open(EVENTS, os.O_CREAT | os.O_WRONLY | os.O_APPEND) if EVENTS else -1
    sys.addaudithook(hook)


if HOST:
    import socket

    socket.gethostname = lambda: HOST
if HURRY:  # waiting goes by 20 times as fast
    import time

    time.monotonic = lambda before=time.monotonic: 20 * before()
if FAULT == "cut":  # past the limit of a file's size the kernel ends the process in mid-write
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
elif FAULT or EVENTS:
    install()
