"""From a command line to a stage's options: flags before YAML files before defaults."""

from __future__ import annotations

import argparse
import dataclasses
import io
import re
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.help import HelpFormatter
from utils.cli.options.sections import SECTIONS, flag_sections
from utils.cli.yaml_files import CONFIG_FLAG, read_configs


def parse(stage_class: type, arguments: list[str], doc: str = "", prog: str | None = None) -> Any:
    """An instance of stage_class from flags, then YAML, then defaults. Raises UserError."""
    configs = read_configs(_config_paths(arguments), stage_class)
    with_flags = flag_sections(stage_class)
    parser = _parser(stage_class, configs, doc, prog)
    output = io.StringIO()
    try:
        # simple-parsing prints its complaint of `--noflag False` and exits with 0.
        with redirect_stdout(output), redirect_stderr(output):
            parsed = parser.parse_args(arguments).options
    except SystemExit:
        if {"-h", "--help"} & set(arguments):
            print(output.getvalue(), end="")
            raise
        raise UserError("command line", output.getvalue(), "see --help") from None
    sections = {}
    for field in dataclasses.fields(stage_class):
        if field.name in with_flags:
            sections[field.name] = getattr(parsed, field.name)
        else:
            sections[field.name] = SECTIONS[field.name](**configs.get(field.name, {}))
    return stage_class(**sections)


def _config_paths(arguments: list[str]) -> list[Path]:
    """The YAML files that a command line names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(CONFIG_FLAG, nargs="*", default=[], action="extend", type=Path)
    return parser.parse_known_args(arguments)[0].config_path


def _parser(
    stage_class: type, configs: dict[str, dict[str, Any]], doc: str, prog: str | None
) -> argparse.ArgumentParser:
    """The parser of a stage's flags; values of YAML files are their defaults."""
    from simple_parsing import ArgumentParser, DashVariant, NestedMode

    # A new class for each call: simple-parsing changes the one that it gets.
    fields = [
        (name, kind, dataclasses.field(default_factory=partial(kind, **configs.get(name, {}))))
        for name, kind in flag_sections(stage_class).items()
    ]
    root = dataclasses.make_dataclass(stage_class.__name__, fields)
    root.__doc__ = " "
    parser = ArgumentParser(
        prog=prog,
        usage=f"%(prog)s [{CONFIG_FLAG} FILE.yaml] [flags below; they are keys of the YAML too]",
        description=doc.strip().replace("%", "%%"),
        nested_mode=NestedMode.WITHOUT_ROOT,
        add_option_string_dash_variants=DashVariant.UNDERSCORE_AND_DASH,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.error = _refuse  # type: ignore[method-assign]
    parser.add_argument(
        CONFIG_FLAG, nargs="*", type=Path, help="YAML files; the last wins, a flag beats them all"
    )
    parser.add_arguments(root, dest="options")
    return parser


def _refuse(message: str) -> None:
    """argparse's complaint in the shape of ours: the flag, what was found, the remedy."""
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown != message:
        raise UserError("command line", unknown, "see --help for the flags")
    flag_at_fault = re.match(r"argument (--?[\w-]+)[^:]*: (.*)", message, re.DOTALL)
    where, found = flag_at_fault.groups() if flag_at_fault else ("command line", message)
    where = where.replace("_", "-") if where != CONFIG_FLAG else where
    raise UserError(where, found, "see --help for what it takes")
