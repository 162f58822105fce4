"""Processes side by side: their lines, their errors, their environment."""

import os

import pytest

from utils.cli.errors import Interrupted, UserError
from utils.jobs.workers import run_side_by_side


def speak(word):
    print(word)
    print("and", word, end=" ", flush=True)
    print("again")


def fail(word):
    raise UserError("--flag", word, "choose another")


def stop(word):
    raise Interrupted(word)


def end(code):
    os._exit(code)


def show(name):
    print(os.environ.get(name))


def test_their_lines_come_whole(capsys):
    run_side_by_side([(speak, "one"), (speak, "two"), (speak, "three")], 2)
    lines = capsys.readouterr().out.splitlines()
    expected = [text for w in ("one", "two", "three") for text in (w, f"and {w} again")]
    assert sorted(lines) == sorted(expected)


def test_what_they_raise_is_raised_here():
    with pytest.raises(UserError, match="--flag: found x; choose another"):
        run_side_by_side([(fail, "x"), (speak, "one")], 1)
    with pytest.raises(Interrupted, match="saved at step 7"):
        run_side_by_side([(stop, "saved at step 7")], 1)
    with pytest.raises(UserError, match="ended with code 3"):
        run_side_by_side([(end, 3)], 1)


def test_they_have_the_environment_of_now(monkeypatch, capsys):
    for value in ("first", "second"):
        monkeypatch.setenv("M2G_A_TEST", value)
        run_side_by_side([(show, "M2G_A_TEST")], 1)
    monkeypatch.delenv("PATH")  # which the server has
    run_side_by_side([(show, "PATH")], 1)
    assert capsys.readouterr().out.splitlines() == ["first", "second", "None"]
