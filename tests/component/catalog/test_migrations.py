"""A database of the version before: brought up to date with its rows, and still served by processes of that version."""

from __future__ import annotations

import asyncio

import sqlalchemy
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, make_url, text

from mailarray.catalog import migrations
from mailarray.catalog.database import open_catalog
from mailarray.model.ids import new_volume_id
from tests.component.catalog.sidecar import BODY, Sidecar, message


def old_schema(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.__path__[0]))
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")


async def on(url: str, work: object) -> None:
    """Run on a plain connection, as a process of another version would."""
    assert callable(work)

    def sync() -> None:
        engine = sqlalchemy.create_engine(make_url(url))
        with engine.begin() as connection:
            work(connection)
        engine.dispose()

    if url.startswith("sqlite"):
        await asyncio.to_thread(sync)
        return
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(work)
    await engine.dispose()


async def test_volumes_of_the_version_before_are_neither_lost_nor_retired(url: str) -> None:
    old, other = new_volume_id(), new_volume_id()
    insert = text("INSERT INTO volumes (id, server, lost, counter, caught_up_epoch) VALUES (:id, :server, false, 3, 1)")

    await on(url, old_schema)
    await on(url, lambda connection: connection.execute(insert, {"id": old, "server": "mail-0"}))
    catalog = await open_catalog(url)
    try:
        assert [(row.id, row.lost, row.retired) for row in await catalog.volumes()] == [(old, False, False)]
        # A process of the version before goes on: it names only the columns that it knows.
        await on(url, lambda connection: connection.execute(insert, {"id": other, "server": "mail-1"}))
        assert {row.id: row.retired for row in await catalog.volumes()} == {old: False, other: False}
        assert (await catalog.check_in(old, "mail-0", 1, 3)).counter == 3
    finally:
        await catalog.close()


async def test_mailboxes_of_the_version_before_are_counted_when_somebody_asks(url: str) -> None:
    insert = text("INSERT INTO mailboxes (address, uidnext, uidvalidity) VALUES (:address, 5, 1)")

    await on(url, old_schema)
    await on(url, lambda connection: connection.execute(insert, {"address": "a@x"}))
    catalog = await open_catalog(url)
    try:
        sidecar = Sidecar(catalog)
        await sidecar.join()
        await on(url, lambda connection: connection.execute(insert, {"address": "b@x"}))  # a process of that version
        await sidecar.register(message("a@x"), message("b@x"), message("c@x"))
        assert await catalog.used(["a@x", "b@x", "c@x", "d@x"]) == {"a@x": None, "b@x": None, "c@x": BODY}
        assert await catalog.count_used("a@x") == BODY
        await sidecar.register(message("a@x"))
        assert await catalog.used(["a@x"]) == {"a@x": 2 * BODY}
        assert await catalog.count_used("d@x") == 0
    finally:
        await catalog.close()
