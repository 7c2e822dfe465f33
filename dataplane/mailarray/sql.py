"""What SQLAlchemy's asynchronous engines over asyncpg need wherever one is made: the catalog's, and the accounts'.

Below both, since they are siblings. Refuses to know a statement or a schema.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import sqlalchemy.event
import sqlalchemy.exc
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from mailarray.lookup import look_up_any

POSTGRESQL_DRIVER = "postgresql+asyncpg"


async def connect_asyncpg(**parameters: Any) -> Any:  # asyncpg has no types
    """For an engine's `connect_args`, as `async_creator_fn`. Raises OSError when the host's name is not known."""
    host = parameters.get("host") or ()
    port = parameters.get("port")
    async with asyncio.timeout(parameters.get("timeout")):
        await look_up_any([host] if isinstance(host, str) else host, port if isinstance(port, int) else 5432)
    return await asyncpg.connect(**parameters)


def follow_url(engine: AsyncEngine, current: Callable[[], URL]) -> None:
    """Ask for the URL before each connection, since its Secret may have changed; its errors come through."""

    def connect_there(dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        parameters.update(dialect.create_connect_args(current().set(drivername=POSTGRESQL_DRIVER))[1])

    sqlalchemy.event.listen(engine.sync_engine, "do_connect", connect_there)


def driver_error(error: BaseException) -> BaseException:
    """The driver's own error under SQLAlchemy's wrappings."""
    while isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        error = error.orig
        if error.__cause__ is not None:
            error = error.__cause__
    return error
