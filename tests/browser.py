"""The browser that the report is tested in: `python -m tests.browser` installs one if need be.

M2G_BROWSER names a Chrome or Chromium that lies elsewhere. Where none is found, Debian's is
installed if that is allowed (as root, as in a container), else one line says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PLACES = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",)
REMEDY = (
    "no Chrome or Chromium found: install one (Debian: apt-get install chromium), or name it in"
    " M2G_BROWSER; the report is tested in it"
)
# Nothing but the page: no updates, no look-ups, and a root user may start it.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


def find() -> str | None:
    """The path of a Chrome or Chromium; None where there is none."""
    named = os.environ.get("M2G_BROWSER")
    result = (shutil.which(name) for name in ([named] if named else NAMES))
    return next(filter(None, result), next((p for p in PLACES if Path(p).exists()), None))


@contextmanager
def started() -> Iterator[Any]:
    """The browser, without a window, under Playwright."""
    from playwright.sync_api import sync_playwright

    path = find()
    assert path, REMEDY
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def main() -> None:
    may_install = hasattr(os, "getuid") and os.getuid() == 0 and shutil.which("apt-get")
    if not find() and may_install:
        print("installing Debian's chromium: the report is tested in it", flush=True)
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], check=False)
    if not find():
        print(REMEDY, file=sys.stderr)


if __name__ == "__main__":
    main()
