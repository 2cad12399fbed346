"""What this package raises when something outside it is wrong: a file, a setting, a missing piece."""


class L3MuscleError(Exception):
    """One clear sentence for the person at the keyboard; the command line prints it and exits with status 2."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the sentence alone, as where it was raised helps nobody."""
        return [f"{type(self).__name__}: {self}"]


def reason_of(error: BaseException) -> str:
    """The reason of an error on one line: the system's words where it has them; some libraries add tracebacks."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return words.splitlines()[0]
