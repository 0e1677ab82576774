"""One server for all tests of a module, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.server.harness import Server, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("enclave")) as started:
        yield started
