"""Store the --help of every script, for tests/cli/test_help.py: `python -m tests.store_help`."""

from tests.helpers.runs import HELP, HELPED, help_file, run_script

HELP.mkdir(exist_ok=True)
for command in HELPED:
    help_file(command).write_text(run_script(*command.split(), "--help").stdout)
