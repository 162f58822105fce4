"""From a command line to a stage: flags above YAML above defaults, one line for every mistake.

The only importer of simple_parsing, and the only place that exits."""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import re
import typing
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.help import CONFIG_FLAG, _Formatter
from utils.cli.options.checks import parse_ints
from utils.cli.options.sections import SECTIONS

MOST_VALUES, MOST_DEPTH = 10_000, 20  # of a YAML file: configs/ have about 40 and 2
# Keys that one section may take from another when neither flag nor YAML gives them.
INHERITED = {"data_path": ("data", "data_path")}


def _exposed(stage_class: type) -> dict[str, type]:
    """The sections of a stage whose fields are its flags; the others come from YAML alone."""
    fields = dataclasses.fields(stage_class)
    return {f.name: SECTIONS[f.name] for f in fields if f.metadata.get("flags", True)}


def parse(stage_class: type, arguments: list[str], doc: str = "", prog: str | None = None) -> Any:
    """An instance of stage_class from flags, then YAML, then defaults. Raises UserError."""
    from simple_parsing import ArgumentParser, DashVariant, NestedMode

    given = _read_configs(arguments, stage_class)
    exposed = _exposed(stage_class)
    # Built again on each call: simple-parsing changes what it is given.
    root = dataclasses.make_dataclass(
        stage_class.__name__,
        [
            (name, kind, dataclasses.field(default_factory=_default(kind, given.get(name, {}))))
            for name, kind in exposed.items()
        ],
    )
    root.__doc__ = " "
    parser = ArgumentParser(
        prog=prog,
        usage=f"%(prog)s [{CONFIG_FLAG} FILE.yaml] [flags below; they are keys of the YAML too]",
        description=doc.strip().replace("%", "%%"),
        nested_mode=NestedMode.WITHOUT_ROOT,
        add_option_string_dash_variants=DashVariant.UNDERSCORE_AND_DASH,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.error = _refuse  # type: ignore[method-assign]
    parser.add_argument(
        CONFIG_FLAG, nargs="*", type=Path, help="YAML files; the last wins, a flag beats them all"
    )
    parser.add_arguments(root, dest="options")
    complaint = io.StringIO()
    try:
        # simple-parsing prints its complaint of `--noflag False` and exits with 0.
        with redirect_stdout(complaint), redirect_stderr(complaint):
            parsed = parser.parse_args(arguments).options
    except SystemExit:
        if {"-h", "--help"} & set(arguments):
            print(complaint.getvalue(), end="")
            raise
        raise UserError("command line", complaint.getvalue(), "see --help") from None
    values = {name: getattr(parsed, name) for name in exposed}
    for field in dataclasses.fields(stage_class):
        if field.name not in values:
            values[field.name] = _default(SECTIONS[field.name], given.get(field.name, {}))()
    return stage_class(**values)


def _default(kind: type, values: dict) -> Callable[[], Any]:
    return lambda: kind(**values)


def _refuse(message: str) -> None:
    """argparse's complaint in the shape of ours: the flag, what was found, the remedy."""
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown != message:
        raise UserError("command line", unknown, "see --help for the flags")
    flag_at_fault = re.match(r"argument (--?[\w-]+)[^:]*: (.*)", message, re.DOTALL)
    where, found = flag_at_fault.groups() if flag_at_fault else ("command line", message)
    where = where.replace("_", "-") if where != CONFIG_FLAG else where
    raise UserError(where, found, "see --help for what it takes")


def _read_configs(arguments: list[str], stage_class: type) -> dict[str, dict[str, Any]]:
    """Values of the YAML files named on the command line, checked, by section and key."""
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument(CONFIG_FLAG, nargs="*", default=[], action="extend", type=Path)
    paths = before.parse_known_args(arguments)[0].config_path
    given: dict[str, dict[str, Any]] = {}
    for path in paths:
        for section, values in _read_config(path, stage_class).items():
            given.setdefault(section, {}).update(values)
    for section, kind in SECTIONS.items():
        for key, (other, other_key) in INHERITED.items():
            if section != other and key in kind.__dataclass_fields__:
                value = given.get(other, {}).get(other_key)
                if value is not None:
                    given.setdefault(section, {}).setdefault(key, value)
    return given


def _read_config(path: Path, stage_class: type) -> dict[str, dict[str, Any]]:
    content = _read_yaml(path)
    if content is None:
        raise UserError(path, "an empty file", "give sections as in configs/digits.yaml")
    if not isinstance(content, dict):
        raise UserError(path, type(content).__name__, "give sections as in configs/digits.yaml")
    result: dict[str, dict[str, Any]] = {}
    for name, values in content.items():
        section, values = _section(path, name, values, stage_class)
        for key, value in values.items():
            if key not in SECTIONS[section].__dataclass_fields__:
                known = ", ".join(SECTIONS[section].__dataclass_fields__)
                raise UserError(f"{path}: {section}", f"the key {key!r}", f"known are {known}")
            where = f"{path}: {section}: {key}"
            result.setdefault(section, {})[key] = _converted(section, key, value, where)
    return result


def _read_yaml(path: Path) -> Any:
    """The file's content, of plain values. Raises UserError where it is no YAML, or names a key
    twice, of which YAML would drop the first in silence."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            seen = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in seen:
                    found = f"the key {key.value!r} twice, again in line {key.start_mark.line + 1}"
                    raise UserError(path, found, "keep one of them")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(path.read_bytes(), Loader)
        _check_size(content, path, [MOST_VALUES])
        return content
    except UserError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"{CONFIG_FLAG} {path}", reason, "check the path") from error
    except Exception as error:  # values such as a day 99 raise anything
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise UserError(path, f"no YAML{line}", "mend the file") from error


def _check_size(value: Any, path: Path, left: list[int], depth: int = 0) -> None:
    """Refuse what is endless once its aliases are written out: nine lists of nine lists of ...

    left: how many values there may still be."""
    left[0] -= 1
    if left[0] < 0 or depth > MOST_DEPTH:
        raise UserError(path, "values without end", "give sections as in configs/digits.yaml")
    inside = [*value, *value.values()] if isinstance(value, dict) else value
    for item in inside if isinstance(inside, (list, tuple, set)) else ():
        _check_size(item, path, left, depth + 1)


def _section(path: Path, name: Any, values: Any, stage_class: type) -> tuple[str, dict]:
    """A section, or a single key at the top level, which belongs to the stage's own sections."""
    if name in SECTIONS:
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise UserError(f"{path}: {name}", values, "give keys below it, as `key: value`")
        return name, values
    own = list(_exposed(stage_class))
    for section in own + [other for other in SECTIONS if other not in own]:
        if name in SECTIONS[section].__dataclass_fields__:
            return section, {name: values}
    remedy = "known are " + ", ".join(SECTIONS)
    raise UserError(path, f"the section {name!r}", remedy)


def _converted(section: str, key: str, value: Any, where: str) -> Any:
    """A YAML value in the type of its option; what would be silently wrong is refused."""
    kind = typing.get_type_hints(SECTIONS[section])[key]
    choices = typing.get_args(kind)
    if value is None and type(None) in choices:
        return None
    if type(None) in choices:
        kind = next(choice for choice in choices if choice is not type(None))
    try:
        if typing.get_origin(kind) is tuple:
            if isinstance(value, str):
                return parse_ints(value)
            items = value if isinstance(value, (list, tuple)) else [value]
            if any(isinstance(item, bool) or int(item) != item for item in items):
                raise ValueError
            return tuple(int(item) for item in items)
        if kind is bool and isinstance(value, bool):
            return value
        if kind is int and not isinstance(value, bool) and int(value) == float(value):
            return int(value)
        if kind is float and not isinstance(value, bool):
            return float(value)  # YAML reads 2e-4 as a word: it wants a point
        if kind is str and isinstance(value, (str, int)) and not isinstance(value, bool):
            return str(value)
        if kind is Path and isinstance(value, str) and "\0" not in value:
            os.fsencode(value)  # raises where no file can have this name
            return Path(value)
    except (ValueError, TypeError, OverflowError, argparse.ArgumentTypeError):
        pass
    names = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}
    if type(value) is int and abs(value) > 10**100:
        value = "a number of too many digits"  # Python refuses to write it out
    raise UserError(where, value, f"give {names.get(kind, 'a word' if kind is str else 'numbers')}")
