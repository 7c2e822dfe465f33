"""What the driver says of a connection that broke in the middle is an outage, and the next call gets another one."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from mailarray.catalog import registration_postgresql
from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.catalog.database import open_catalog
from tests.component.catalog.sidecar import message, tombstone
from tests.support.postgres import PostgresServer


@pytest.mark.debian
async def test_a_connection_in_the_wrong_state_is_an_outage_and_is_not_used_again(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.fresh_database()
    catalog = await open_catalog(url)
    used: list[Any] = []

    async def broken(db: Any, tombstones: object) -> None:
        used.append(db)
        if len(used) == 1:
            raise asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")

    monkeypatch.setattr(registration_postgresql, "expunge", broken)
    try:
        with pytest.raises(CatalogUnavailable, match="another operation"):
            await catalog.expunge([tombstone(message("a@x"))])
        await catalog.expunge([tombstone(message("a@x"))])
    finally:
        await catalog.close()
        postgres.drop(url)
    assert len(used) == 2 and used[0] is not used[1]
