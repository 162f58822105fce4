"""Options in YAML files: `section: {key: value}`, each value checked against its option's type."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, get_origin

from utils.cli.errors import UserError
from utils.cli.options.checks import flag, parse_ints
from utils.cli.options.sections import SECTIONS, flag_sections, option_type
from utils.cli.options.training import COMMAND_LINE_ONLY

CONFIG_FLAG = "--config_path"
MOST_VALUES, MOST_DEPTH = 10_000, 20  # of a YAML file: configs/ have about 40 and 2
LIKE_OURS = "give sections as in configs/digits.yaml"
Values = dict[str, dict[str, Any]]  # by section and key


def read_configs(paths: Sequence[Path], stage_class: type) -> Values:
    """The options of YAML files by section and key; of a key in two files the last one counts.

    `data_path` of the section `data` serves every section that does not name its own.
    Raises UserError for files that are no YAML, unknown names, and values of another type."""
    options: Values = {}
    for path in paths:
        for section, values in _read_config(path, stage_class).items():
            options.setdefault(section, {}).update(values)
    data_path = options.get("data", {}).get("data_path")
    if data_path is not None:
        for section, kind in SECTIONS.items():
            if "data_path" in kind.__dataclass_fields__:
                options.setdefault(section, {}).setdefault("data_path", data_path)
    return options


def _read_config(path: Path, stage_class: type) -> Values:
    content = read_yaml(path, CONFIG_FLAG)
    if not isinstance(content, dict):
        problem = "an empty file" if content is None else type(content).__name__
        raise UserError(path, problem, LIKE_OURS)
    options: Values = {}
    for name, value in content.items():
        section, values = _section(path, name, value, stage_class)
        for key, item in values.items():
            known = SECTIONS[section].__dataclass_fields__
            if key not in known:
                remedy = f"known are {', '.join(known)}"
                raise UserError(f"{path}: {section}", f"the key {key!r}", remedy)
            where = f"{path}: {section}: {key}"
            if COMMAND_LINE_ONLY in known[key].metadata:
                raise UserError(where, item, f"give {flag(key)} on the command line: it runs code")
            options.setdefault(section, {})[key] = _converted(section, key, item, where)
    return options


def read_yaml(path: Path, option: str) -> Any:
    """The file's content, of plain values. Raises UserError where it is no YAML, or names a key
    twice: PyYAML would drop the first one without a word. option: the flag that names the file."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            seen = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in seen:
                    problem = (
                        f"the key {key.value!r} twice, again in line {key.start_mark.line + 1}"
                    )
                    raise UserError(path, problem, "keep one of them")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

        def construct_whole_number(self, node: Any) -> int | str:
            # YAML 1.1 reads 20:3 as 20 * 60 + 3.
            return node.value if ":" in node.value else self.construct_yaml_int(node)

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_whole_number)
    try:
        content = yaml.load(path.read_bytes(), Loader)
        _check_size(content, path, [MOST_VALUES])
        return content
    except UserError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"{option} {path}", reason, "check the path") from error
    except yaml.reader.ReaderError as error:
        raise UserError(path, "characters that are no UTF-8", "save it as UTF-8") from error
    except Exception as error:  # values such as a day 99 raise anything
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UserError(path, f"no YAML{line}", "correct the file") from error


def _check_size(value: Any, path: Path, left: list[int], depth: int = 0) -> None:
    """Refuse content that is endless once its aliases are expanded: nine lists of nine lists ...

    left: a list with one number, how many more values there may be."""
    left[0] -= 1
    if left[0] < 0 or depth > MOST_DEPTH:
        raise UserError(path, "values without end", LIKE_OURS)
    items = [*value, *value.values()] if isinstance(value, dict) else value
    for item in items if isinstance(items, (list, tuple, set)) else ():
        _check_size(item, path, left, depth + 1)


def _section(path: Path, name: Any, value: Any, stage_class: type) -> tuple[str, dict]:
    """A section and its values; a key at the top level belongs to the stage's sections first."""
    if name in SECTIONS:
        if value is not None and not isinstance(value, dict):
            raise UserError(f"{path}: {name}", value, "give keys below it, as `key: value`")
        return name, value or {}
    for section in [*flag_sections(stage_class), *SECTIONS]:
        if name in SECTIONS[section].__dataclass_fields__:
            return section, {name: value}
    raise UserError(path, f"the section {name!r}", "known are " + ", ".join(SECTIONS))


def _converted(section: str, key: str, value: Any, where: str) -> Any:
    """A YAML value in the type of its option. Raises UserError where it is of another type, also
    where Python would convert it silently: 1.5 or true is no whole number."""
    kind, optional = option_type(section, key)
    if value is None and optional:
        return None
    try:
        if get_origin(kind) is tuple:
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
            return float(value)  # YAML reads 2e-4, which has no point, as a word
        if kind is str and isinstance(value, bool):
            return "on" if value else "off"  # YAML's on and off are true and false
        if kind is str and isinstance(value, (str, int)):
            return str(value)
        if kind is Path and type(value) is date:
            return Path(str(value))  # a folder named by its day
        if kind is Path and isinstance(value, str) and "\0" not in value:
            os.fsencode(value)  # raises where no file can have this name
            return Path(os.path.expanduser(os.path.expandvars(value)))  # no shell has done it
    except (ValueError, TypeError, OverflowError, ArgumentTypeError):
        pass
    if type(value) is int and abs(value) > 10**100:
        value = "a number of too many digits"  # Python refuses to write it out
    names = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}
    names[str] = "a word"
    raise UserError(where, value, f"give {names.get(kind, 'numbers')}")
