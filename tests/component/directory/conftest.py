"""Each test runs on a fresh SQLite file and on a fresh PostgreSQL database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from mailarray.directory.database.store import AccountStore


@pytest.fixture
def new_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Makes a database of the kind under test, and says its URL."""
    made: list[str] = []

    def make() -> str:
        if kind == "sqlite":
            folder = tmp_path / f"database-{len(made)}"
            folder.mkdir()
            made.append(f"sqlite:///{folder}/catalog.sqlite")
        else:
            made.append(request.getfixturevalue("postgres").fresh_database())
        return made[-1]

    yield make
    if kind == "postgresql":
        for url in made:
            request.getfixturevalue("postgres").drop(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.debian)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(new_url: Callable[[], str]) -> str:
    return new_url()


@pytest.fixture
async def store(url: str) -> AsyncIterator[AccountStore]:
    made = AccountStore(lambda: url)
    yield made
    await made.close()
