"""What this package raises when something outside it is wrong: a file, a setting, a missing piece."""


class L3MuscleError(Exception):
    """One clear sentence for the person at the keyboard; the command line prints it and exits with status 2."""
