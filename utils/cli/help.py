"""How --help looks."""

from __future__ import annotations

import argparse
import re

CONFIG_FLAG = "--config_path"


class _Formatter(argparse.HelpFormatter):
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
        return f"{max(shown, key=len)} {_kind(action)}"  # --k rather than -k

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").replace("(default: %(default)s)", "").strip()
        default = action.default
        if action.nargs == 0 or action.dest == "config_path" or default in (None, ()):
            return text
        if isinstance(default, (list, tuple)):
            default = ",".join(map(str, default))
        return f"{text} [{str(default).replace('%', '%%')}]"


def _kind(action: argparse.Action) -> str:
    if isinstance(action.default, bool):
        return "BOOL"
    kind = getattr(action.type, "__name__", "") or ""
    for mark, name in (("ints", "N,N"), ("int", "N"), ("float", "X"), ("Path", "PATH")):
        if mark in kind or isinstance(action.default, {"N": int, "X": float}.get(name, ())):
            return name
    return "PATH" if "path" in action.dest or "weights" in action.dest else _guess(action)


def _guess(action: argparse.Action) -> str:
    if isinstance(action.default, str):
        return "NAME"
    return {"shard": "I/N", "part": "I/N", "memory": "SIZE"}.get(action.dest.split(".")[-1], "N")
