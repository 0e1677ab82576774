"""What tests need of the machine they run on."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def lacking(what: str) -> NoReturn:
    """Skip a test that needs *what*; where CI is set it fails instead."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {what}")
