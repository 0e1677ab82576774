"""Shared by the tests of the verbs: the endpoint in front of the emulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.endpoint import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehearsal.aws import Aws
    from tests.support.endpoint import Endpoint


@pytest.fixture
def endpoint(aws: Aws) -> Iterator[Endpoint]:
    with serve(aws) as serving:
        yield serving
