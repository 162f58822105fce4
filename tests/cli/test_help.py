"""--help of every script, and the commands that the README and the scripts show."""

import re
import shlex

import pytest

from tests.helpers.runs import COMMAND_PAGES, HELPED, ROOT, SCRIPTS, STAGE_OF, help_file, run_script
from utils.cli.parse import parse


@pytest.mark.parametrize("command", HELPED)
def test_help_is_the_stored_one(command):
    """After a change that is meant: `python -m tests.store_help`."""
    done = run_script(*command.split(), "--help")
    assert done.returncode == 0 and not done.stderr
    assert done.stdout == help_file(command).read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script):
    code = (
        f"import sys, runpy; sys.argv = [{script!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'matplotlib', 'sklearn', 'scipy', 'lpips', 'PIL'}\n"
        "print('HEAVY', heavy & set(sys.modules))"
    )
    done = run_script("-c", code)
    assert done.stdout.splitlines()[-1] == "HEAVY set()", done.stderr


def commands() -> list[str]:
    """Every `python SCRIPT.py ...` of the pages and of the scripts' docstrings, on one line."""
    texts = [ROOT / name for name in (*COMMAND_PAGES, *SCRIPTS)]
    joined = "\n".join(path.read_text().replace("\\\\\n", " ") for path in texts)
    joined = joined.replace("\\\n", " ")
    result = re.findall(r"^\s*(?:\$ )?python (\w+\.py .*)$", joined, flags=re.MULTILINE)
    return sorted({" ".join(command.split()) for command in result})


def test_every_script_shows_its_command():
    shown = commands()
    for known in STAGE_OF:
        assert any(f"{command} ".startswith(f"{known} ") for command in shown), known
    assert {known.split()[0] for known in STAGE_OF} == set(SCRIPTS)


@pytest.mark.parametrize("command", commands())
def test_the_commands_that_we_print_are_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    (known,) = (known for known in STAGE_OF if f"{command} ".startswith(f"{known} "))
    parse(STAGE_OF[known], shlex.split(command.removeprefix(known)))
