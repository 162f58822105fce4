"""The layout of --help."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import get_origin

from utils.cli.options.sections import option_type
from utils.cli.yaml_files import CONFIG_FLAG

WORDS = {bool: "BOOL", int: "N", float: "X", Path: "PATH", str: "NAME"}
WORDS_OF_NAMES = {"shard": "I/N", "part": "I/N", "memory": "SIZE"}


class HelpFormatter(argparse.HelpFormatter):
    """Help that fits a terminal, shows defaults, and names each flag once."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)

    def start_section(self, heading: str | None) -> None:
        """simple-parsing's "TrainOptions ['options.train']" becomes "train", as in YAML."""
        super().start_section(re.sub(r"^.*\['options\.?(\w*)'\]$", r"\1", heading or ""))

    def add_text(self, text: str | None) -> None:
        if text and text.strip():
            super().add_text(text)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        names = sorted({name.replace("_", "-") for name in action.option_strings})
        if action.dest == "config_path":
            names = [CONFIG_FLAG]
        shown = [name for name in names if name.replace("--no", "--", 1) not in set(names) - {name}]
        return f"{max(shown, key=len)} {value_word(action)}"  # --k rather than -k

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").replace("(default: %(default)s)", "").strip()
        default = action.default
        if action.nargs == 0 or action.dest == "config_path" or default in (None, ()):
            return text
        if isinstance(default, (list, tuple)):
            default = ",".join(map(str, default))
        return f"{text} [{str(default).replace('%', '%%')}]"


def value_word(action: argparse.Action) -> str:
    """The word that stands for a flag's value: X for `lr: float`, PATH for `ckpt_path: Path`."""
    if action.dest == "config_path":
        return "PATH"
    _, section, name = action.dest.split(".")  # options.train.lr
    kind, _ = option_type(section, name)
    if get_origin(kind) is tuple:
        return "N,N"
    return WORDS_OF_NAMES.get(name) or WORDS[kind]
