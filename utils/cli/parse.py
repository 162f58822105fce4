"""From a command line to a stage: flags above YAML above defaults, one line for every mistake.

The only importer of simple_parsing, and the only place that exits."""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import re
import sys
import typing
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from utils.cli.errors import Interrupted, ToldElsewhere, UserError
from utils.cli.launcher import let_first_rank_speak
from utils.cli.options.checks import flag, parse_ints
from utils.cli.options.sections import SECTIONS
from utils.cli.signals import GO_ON, ignore_for_good, stop_at_once, stopping, tell_stopped

CONFIG_FLAG = "--config_path"
MOST_VALUES, MOST_DEPTH = 10_000, 20  # of a YAML file: configs/ have about 40 and 2
# Keys that one section may take from another when neither flag nor YAML gives them.
INHERITED = {"data_path": ("data", "data_path")}


def run_commands(
    commands: dict[str, tuple[Callable[[Any], None], type]], doc: str, argv: list[str] | None = None
) -> None:
    """Run the command that argv begins with, as `run_stage` does: its main, its stage class.

    A main's docstring is the command's help. Exits as `run_stage`."""
    arguments = sys.argv[1:] if argv is None else argv
    script, name = Path(sys.argv[0]).name, arguments[0] if arguments else "nothing"
    if name in ("-h", "--help"):
        print(f"usage: {script} COMMAND [flags]\n\n{doc.strip()}\n")
        for command, (main, _) in commands.items():
            print(f"  {command:8}{(main.__doc__ or '').splitlines()[0]}")
        print(f"\n`{script} COMMAND --help` lists the flags of a command.")
        return
    if name not in commands:
        remedy = f"begin with one of {', '.join(commands)}; --help tells what they do"
        _stop(f"error: {UserError('command line', name, remedy)}", UserError.exit_code)
    main, stage_class = commands[name]
    run_stage(main, stage_class, main.__doc__ or "", arguments[1:], f"{script} {name}")


def run_stage(
    main: Callable[[Any], None],
    stage_class: type,
    doc: str,
    argv: list[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse argv into stage_class (a dataclass of option sections), print them, run main.

    prog names the program in its help. Exits with 2 on a user's mistake (one line on stderr),
    with 75 when stopped but resumable."""
    arguments = sys.argv[1:] if argv is None else argv
    stop_at_once()
    try:
        let_first_rank_speak()
        options = parse(stage_class, arguments, doc, prog)
        print_options(options)
        main(options)
        ignore_for_good()  # done: a signal now would only spoil the exit code
    except UserError as error:
        _stop(f"error: {error}", error.exit_code)
    except Interrupted as stopped:
        _stop_resumable(f"stopped: {stopped}")
    except ToldElsewhere as failure:
        ignore_for_good()
        sys.exit(failure.exit_code)
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(UserError.exit_code)
    except Exception as error:
        if stopping():  # a signal in the middle of an import becomes an error of the library
            _stop_resumable(f"stopped: {GO_ON}")
        ours = isinstance(error, RuntimeError) and "out of memory" in str(error)
        if not ours and not isinstance(error, MemoryError):
            raise
        remedy = "choose a smaller batch size or network, or another --device"
        _stop(f"error: out of memory; {remedy}", UserError.exit_code)


def _stop_resumable(line: str) -> None:
    """Told by one of the ranks: a signal reaches all of them."""
    ignore_for_good()
    tell_stopped(line)
    sys.exit(Interrupted.exit_code)


def _stop(line: str, code: int) -> None:
    ignore_for_good()
    print(line, file=sys.stderr, flush=True)
    sys.exit(code)


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


def required(section: Any, name: str) -> Any:
    """The value of an option that has no default. Raises UserError where it was not given."""
    value = getattr(section, name)
    if value in (None, ()):
        raise UserError(flag(name), "nothing", "give it on the command line or in the YAML file")
    return value


def print_options(options: Any) -> None:
    """The resolved options, one line a section."""
    for field in dataclasses.fields(options):
        if not field.metadata.get("flags", True):
            continue
        values = dataclasses.asdict(getattr(options, field.name))
        shown = " ".join(f"{key}={value}" for key, value in values.items() if value is not None)
        print(f"{field.name}: {shown}")
