"""Store the --help of every script, for tests/test_cli.py: `python -m tests.store_help`."""

from tests.test_cli import HELP, SCRIPTS, run_script

HELP.mkdir(exist_ok=True)
for script in SCRIPTS:
    (HELP / f"{script}.txt").write_text(run_script(script, "--help").stdout)
