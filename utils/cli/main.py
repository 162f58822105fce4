"""Run a stage from its command line: a mistake gives one line and an exit code, not a traceback.

The only module that exits."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.cli.errors import CheckFailed, Interrupted, ReportedByAnotherRank, UserError
from utils.cli.hub import fetched
from utils.cli.launcher import let_first_rank_speak
from utils.cli.parse import parse
from utils.cli.signals import GO_ON, ignore_for_good, print_stopped, stop_at_once, stopping
from utils.cli.streams import steady_streams


def run_commands(
    commands: dict[str, tuple[Callable[[Any], None], type]], doc: str, argv: list[str] | None = None
) -> None:
    """Run the command that argv begins with. commands: by name, its main and its stage class.

    A main's docstring is the command's help. Exits as `run_stage` does."""
    arguments = sys.argv[1:] if argv is None else argv
    script, name = Path(sys.argv[0]).name, arguments[0] if arguments else "nothing"
    if name in ("-h", "--help"):
        print(f"usage: {script} COMMAND [flags]\n\n{doc.strip()}\n")
        for command, (main, _) in commands.items():
            print(f"  {command:8}{(main.__doc__ or '').splitlines()[0]}")
        print(f"\n`{script} COMMAND --help` lists the flags of a command.")
        return
    if name not in commands:
        remedy = f"begin with one of {', '.join(commands)}; --help says what they do"
        _stop(f"error: {UserError('command line', name, remedy)}", UserError.exit_code)
    main, stage_class = commands[name]
    run_stage(main, stage_class, main.__doc__ or "", arguments[1:], f"{script} {name}")


def run_stage(
    main: Callable[[Any], None],
    stage_class: type,
    doc: str,
    argv: list[str] | None = None,
    prog: str | None = None,
    show_options: bool = True,
) -> None:
    """Parse argv into stage_class (a dataclass of option sections), print them, run main.

    prog names the program in its help. show_options: not where the output is for a program.
    Exits with 2 on a user's mistake (one line on stderr), with 75 when stopped but resumable, with
    3 where a limit that the user set is passed."""
    arguments = sys.argv[1:] if argv is None else argv
    stop_at_once()
    steady_streams()
    try:
        let_first_rank_speak()
        options = parse(stage_class, arguments, doc, prog)
        if show_options:
            print_options(options)
        main(fetched(options))
        ignore_for_good()  # the work is done: a signal now would only change the exit code
    except UserError as error:
        _stop(f"error: {error}", error.exit_code)
    except CheckFailed as failed:
        _stop(f"failed: {failed}", failed.exit_code)
    except Interrupted as stopped:
        _stop_resumable(f"stopped: {stopped}")
    except ReportedByAnotherRank as failure:
        ignore_for_good()
        sys.exit(failure.exit_code)
    except Exception as error:
        if stopping():  # a signal in the middle of an import becomes an error of the library
            _stop_resumable(f"stopped: {GO_ON}")
        of_torch = isinstance(error, RuntimeError) and "out of memory" in str(error)
        if not of_torch and not isinstance(error, MemoryError):
            raise
        remedy = "choose a smaller batch size or network, or another --device"
        _stop(f"error: out of memory; {remedy}", UserError.exit_code)


def _stop_resumable(line: str) -> None:
    """One of the ranks prints the line: a signal reaches all of them."""
    ignore_for_good()
    print_stopped(line)
    sys.exit(Interrupted.exit_code)


def _stop(line: str, code: int) -> None:
    ignore_for_good()
    print(line, file=sys.stderr, flush=True)
    sys.exit(code)


def print_options(options: Any) -> None:
    """Print the options after flags, YAML and defaults, one line a section."""
    for field in dataclasses.fields(options):
        if not field.metadata.get("flags", True):
            continue
        values = dataclasses.asdict(getattr(options, field.name))
        shown = " ".join(f"{key}={value}" for key, value in values.items() if value is not None)
        print(f"{field.name}: {shown}")
