"""The work of the root scripts, and what it is built on (docs/architecture.md)."""

from pathlib import Path

import __main__
from utils.cli.signals import stop_while_loading

# Of a script of ours, and of nobody else's: from its first import on a signal ends in one line.
if Path(getattr(__main__, "__file__", "/")).resolve().parent == Path(__file__).resolve().parents[1]:
    stop_while_loading()
