"""Where the generator finds the files that a template embeds."""

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent


@cache
def source(name: str) -> str:
    """Return the text of a project file such as ``encryption/envelope_encryptor.py``.

    An installed package contains these files; in a checkout they are next to the package.
    """
    inside = _PACKAGE / name
    path = inside if inside.exists() else _PACKAGE.parent / name
    return path.read_text(encoding="utf-8")
