"""A host's name that cannot be looked up, while who waits for it gives up: an error says it, and no stray log line.

On uvloop, as every process of the data plane, with a name that no resolver knows (RFC 6761).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from sqlalchemy.engine import make_url

from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.catalog.engine_postgresql import PostgresEngine
from mailarray.directory.database.engine import AccountsDatabase
from mailarray.directory.rows import AccountsUnavailable
from mailarray.mirroring.peer import PeerConnection, PeerError
from mailarray.sql import connect_asyncpg

NAME = "catalog.nowhere.invalid"
URL = f"postgresql://mailarray:secret@{NAME}:5432/mailarray"
STEPS = 12  # of the event loop, after each of which somebody gives up


async def catalog() -> None:
    engine = PostgresEngine(make_url(URL))
    try:
        await engine.read(lambda connection: None)
    finally:
        await engine.close()


async def accounts() -> None:
    database = AccountsDatabase(lambda: URL)
    try:
        await database.read(lambda connection: None)
    finally:
        await database.close()


async def mirror() -> None:
    peer = PeerConnection(f"{NAME}:2520", "token")
    await peer.request("PUT", "/", 5.0, [b""], 0)


async def direct() -> None:
    await connect_asyncpg(host=["also." + NAME, NAME], port=5432, user="a", timeout=5.0)


def never_retrieved(work: Callable[[], Awaitable[None]]) -> list[str]:
    """What the event loop complains of when the work is given up at every step."""
    complaints: list[str] = []

    async def given_up() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(str(context)))
        for steps in range(STEPS):
            task = asyncio.ensure_future(work())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for _ in range(STEPS):  # answered after those that nobody waits for
            with contextlib.suppress(OSError):
                await loop.getaddrinfo(NAME, 1)
        gc.collect()
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(given_up())
    gc.collect()
    return complaints


@pytest.mark.parametrize("work", [catalog, accounts, mirror, direct])
def test_nothing_is_left_behind(work: Callable[[], Awaitable[None]]) -> None:
    assert never_retrieved(work) == []


@pytest.mark.parametrize(
    ("work", "error"),
    [(catalog, CatalogUnavailable), (accounts, AccountsUnavailable), (mirror, PeerError), (direct, OSError)],
)
def test_who_waits_hears_it(work: Callable[[], Any], error: type[Exception]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, pytest.raises(error):
        runner.run(work())
