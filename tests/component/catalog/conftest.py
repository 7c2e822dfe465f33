"""Each test runs on a fresh SQLite file and on a fresh PostgreSQL database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from mailarray.catalog.catalog import Catalog
from mailarray.catalog.database import open_catalog
from tests.support.postgres import PostgresServer


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.debian)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/catalog.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    database = server.fresh_database()
    yield database
    server.drop(database)


@pytest_asyncio.fixture
async def catalog(url: str) -> AsyncIterator[Catalog]:
    catalog = await open_catalog(url)
    yield catalog
    await catalog.close()
