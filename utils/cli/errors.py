"""The errors that end a run with one line and an exit code; a traceback is always our bug."""

MOST_SHOWN = 600  # characters of a name or a value: paths may be long


class UserError(Exception):
    """A mistake that the user can correct: the flag or file, the value found, and the remedy.

    `utils.cli.main.run_stage` prints it in one line, `error: WHERE: found VALUE; REMEDY`, and
    exits with code 2."""

    exit_code = 2

    def __init__(self, where: object, found: object, remedy: str) -> None:
        value = found if isinstance(found, str) else repr(found)
        # One line and no control characters, whatever a file or a library's message contains.
        text = " ".join(f"{_short(str(where))}: found {_short(value)}; {remedy}".split())
        super().__init__("".join(c if c.isprintable() else "?" for c in text))
        self._parts = (str(where), value, remedy)

    def __reduce__(self) -> tuple:
        """Pickle the parts, so that a worker's error reaches the parent process unchanged."""
        return type(self), self._parts


def _short(text: str) -> str:
    """At most MOST_SHOWN characters: of a longer text both ends."""
    half = MOST_SHOWN // 2
    return text if len(text) <= MOST_SHOWN else f"{text[:half]} ... {text[-half:]}"


class Interrupted(BaseException):
    """Work was saved and stopped on a signal; the same command continues it (exit code 75).

    Like KeyboardInterrupt it is no Exception: a signal may come inside a library's
    `try: ... except Exception: pass`, as in torch's import."""

    exit_code = 75


class CheckFailed(Exception):
    """The work is done, and its result is above the limit that the user set (exit code 3)."""

    exit_code = 3


class ReportedByAnotherRank(Exception):
    """Another rank has failed and printed why: this one ends with the same code, silently."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
