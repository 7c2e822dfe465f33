"""What tests of several parts start once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgres import PostgresServer, available


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server of its own; each test makes itself a fresh database in it."""
    if not available():
        pytest.skip("Debian's package postgresql-15 is not installed")
    server = PostgresServer()
    yield server
    server.close()
