"""How a script ends: a mistake is one line and exit code 2."""

import pytest

from tests.helpers.runs import SCRIPTS, run_script


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_mistake_ends_in_one_line_and_code_2(script):
    done = run_script(script, "--no-such-flag", "1")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
