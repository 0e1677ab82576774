"""What goes wrong in ways that the person at the terminal can mend."""


class GeneratorError(Exception):
    """A failure as one line: what failed, why, and what to do."""
