"""The catalog in PostgreSQL (or an engine that speaks its protocol), through asyncpg.

The gate: every transaction that writes what registrations write, locks the table `state` in ROW SHARE mode first;
what must have all of them out of the way (a new epoch, a reset, a seal that is lowered) locks it EXCLUSIVE. The
shared lock touches no row, and readers are never in anybody's way. Order of the other locks: `registration_postgresql`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import sqlalchemy
from sqlalchemy import URL, Connection
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from mailarray.catalog import migrations, registration_postgresql
from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.catalog.engine import CALL_SECONDS, T
from mailarray.catalog.rows import NotRegistered, Registered, Registration, TombstoneRow
from mailarray.model.ids import VolumeId
from mailarray.sql import POSTGRESQL_DRIVER, connect_asyncpg, driver_error, follow_url

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
POOL_SIZE = 4  # connections kept by one process: a sidecar writes with one or two, the rest is for bursts
POOL_OVERFLOW = 8  # access servers open many mailboxes at once
TRIES = 5  # of a transaction that a deadlock or a serialization failure threw out
_RETRY_SECONDS = 0.02
_MIGRATION_LOCK = 0x6D61696C61727279  # "mailarry": any constant that no other program takes

_AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, registration_postgresql.SegmentRowAppeared)
_FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that the server's end left in the middle of something
    sqlalchemy.exc.SQLAlchemyError,
    OSError,
)

_GATE_SHARED = "LOCK TABLE state IN ROW SHARE MODE"
_GATE_ALONE = "LOCK TABLE state IN EXCLUSIVE MODE"


class PostgresEngine:
    """The engine for `postgresql://...`."""

    def __init__(self, url: URL, current: Callable[[], URL] | None = None) -> None:
        """`current` gives the URL before each connection, when it may change. It raises ValueError."""
        self._where = f"{url.host}:{url.port or 5432}"
        self._engine = create_async_engine(
            url.set(drivername=POSTGRESQL_DRIVER),
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=CALL_SECONDS,
            pool_use_lifo=True,
            connect_args={
                "async_creator_fn": connect_asyncpg,
                "timeout": CONNECT_SECONDS,
                # A just-in-time compiler takes longer than any of these statements.
                "server_settings": {"application_name": "mailarray", "jit": "off"},
            },
        )
        if current is not None:
            follow_url(self._engine, _or_os_error(current))
        self._snapshot = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    async def read(self, operation: Callable[[Connection], T], seconds: float = CALL_SECONDS) -> T:
        """See `Engine`."""

        async def once() -> T:
            async with self._snapshot.connect() as connection:
                return await connection.run_sync(operation)

        return await self._guarded(once, seconds)

    async def write(
        self, operation: Callable[[Connection], T], seconds: float = CALL_SECONDS, *, alone: bool = False
    ) -> T:
        """See `Engine`."""

        async def once() -> T:
            async with self._engine.begin() as connection:
                await connection.exec_driver_sql(_GATE_ALONE if alone else _GATE_SHARED)
                return await connection.run_sync(operation)

        return await self._guarded(once, seconds)

    async def register(self, volume: VolumeId, registration: Registration) -> Registered | NotRegistered:
        """See `Engine`."""

        async def once() -> Registered | NotRegistered:
            async with self._raw_transaction() as db:
                return await registration_postgresql.register(db, volume, registration)

        return await self._guarded(once, CALL_SECONDS)

    async def expunge(self, tombstones: Sequence[TombstoneRow]) -> None:
        """See `Engine`."""

        async def once() -> None:
            async with self._raw_transaction() as db:
                await registration_postgresql.expunge(db, tombstones)

        await self._guarded(once, CALL_SECONDS)

    async def migrate(self) -> None:
        """See `Engine`."""

        async def once() -> None:
            async with self._engine.begin() as connection:
                await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
                await connection.run_sync(migrations.upgrade_if_needed)

        if not await self.read(migrations.is_current):
            await self._guarded(once, CALL_SECONDS)

    async def close(self) -> None:
        """See `Engine`."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _raw_transaction(self) -> AsyncIterator[Any]:  # asyncpg has no types
        """A transaction on asyncpg's own connection, the shared gate taken. No layer lies between, for speed."""
        async with self._engine.connect() as connection:
            db = (await connection.get_raw_connection()).driver_connection
            assert db is not None
            try:
                await db.execute(f"BEGIN; {_GATE_SHARED}")  # one round trip
                yield db
                await db.execute("COMMIT")
            except BaseException:
                await _abandon(connection, db)
                raise

    async def _guarded(self, once: Callable[[], Awaitable[T]], seconds: float) -> T:
        """Run with the time limit and the bounded tries; every failure becomes CatalogUnavailable."""
        try:
            async with asyncio.timeout(seconds):
                for left in reversed(range(TRIES)):
                    try:
                        return await once()
                    except _FAILURES + _AGAIN as error:
                        if left == 0 or not _worth_another_try(error):
                            raise
                        log.info(
                            "catalog transaction tried again", extra={"reason": type(driver_error(error)).__name__}
                        )
                    await asyncio.sleep(_RETRY_SECONDS * random.uniform(0.5, 1.5))
        except TimeoutError as error:
            raise CatalogUnavailable(f"the catalog at {self._where} did not answer within {seconds:g} s") from error
        except _FAILURES + _AGAIN as error:
            # All connections of a database that went away are dead: without this, each would fail one more call.
            await self._engine.dispose()
            reason = str(driver_error(error)).partition("\n")[0]
            raise CatalogUnavailable(f"the catalog at {self._where} failed: {reason}") from error
        raise AssertionError("unreachable: the last try returns or raises")


def _or_os_error(current: Callable[[], URL]) -> Callable[[], URL]:
    def url() -> URL:
        try:
            return current()
        except ValueError as error:
            raise OSError(str(error)) from error  # as any other reason why the database cannot be reached

    return url


async def _abandon(connection: AsyncConnection, db: Any) -> None:
    """End a transaction that failed: by a rollback while the connection works, otherwise with the connection."""
    try:
        if db.is_closed():
            raise asyncpg.InterfaceError("closed")
        async with asyncio.timeout(1):
            await db.execute("ROLLBACK")
    except (*_FAILURES, TimeoutError, asyncio.CancelledError):
        await connection.invalidate()


def _worth_another_try(error: BaseException) -> bool:
    return isinstance(driver_error(error), _AGAIN)
