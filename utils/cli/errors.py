"""The one error that a user sees: everything else that escapes is a bug of ours."""

MOST_SHOWN = 600  # characters of a name or a value: paths may be long


class UserError(Exception):
    """Something that the user can mend: names the flag or file, the value found, the remedy.

    `utils.cli.parse.run_stage` prints it in one line and exits with code 2."""

    exit_code = 2

    def __init__(self, where: object, found: object, remedy: str) -> None:
        shown = found if isinstance(found, str) else repr(found)
        # One line and no control characters, whatever a file or a library's message contains.
        text = " ".join(f"{_short(str(where))}: found {_short(shown)}; {remedy}".split())
        super().__init__("".join(c if c.isprintable() else "?" for c in text))
        self._parts = (str(where), shown, remedy)

    def __reduce__(self) -> tuple:
        """So that a worker's error reaches the parent process whole."""
        return type(self), self._parts


def _short(text: str) -> str:
    """As much as fits a line that somebody reads: both ends of what is longer."""
    half = MOST_SHOWN // 2
    return text if len(text) <= MOST_SHOWN else f"{text[:half]} ... {text[-half:]}"


class Interrupted(BaseException):
    """Work was saved and stopped on a signal; the same command continues (exit code 75).

    No Exception, as KeyboardInterrupt is none: a signal may come while a library, torch's import
    for one, tries something and passes over whatever goes wrong."""

    exit_code = 75


class ReportedByAnotherRank(Exception):
    """Another rank has failed and told why: this one ends with the same code, in silence."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
