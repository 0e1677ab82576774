"""Failures that the user can do something about."""


class GeneratorError(Exception):
    """A failure as one line: what failed, why, and what to do."""
