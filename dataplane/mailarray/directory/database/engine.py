"""The way to the accounts' database: transactions, with the schema looked at before the first of them.

Promises: every failure of the database is an `AccountsUnavailable`, whose text holds no password; after one the next
call tries afresh, with the URL as it is then. Opening does not connect.

On SQLite the main database is empty and in memory, and the accounts' file is attached to it as schema `accounts`: so
all statements are the same on both. Never open that file other than through SQLite, not even to look at it: closing any
descriptor of it drops the locks that the process has on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import sqlalchemy
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from mailarray.directory.database import migrations
from mailarray.directory.database.schema import SCHEMA
from mailarray.directory.rows import AccountsUnavailable
from mailarray.sql import POSTGRESQL_DRIVER, connect_asyncpg, driver_error, follow_url

FILE_NAME = "accounts.sqlite"
FILE_MODE = 0o660  # the processes of one machine may run under users of their own that share a group
CONNECT_SECONDS = 5.0
CALL_SECONDS = 10.0  # of any call but `stream`; beyond it the database counts as away
STREAM_SECONDS = 600.0  # of a call that reads all accounts
BUSY_SECONDS = 5.0  # on SQLite, to wait for other processes' transactions
POOL_SIZE = 2  # a keeper uses one connection, an import one
_MIGRATION_LOCK = 0x6D61696C61636374  # "mailacct": any constant that no other program takes

_FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    sqlalchemy.exc.SQLAlchemyError,
    sqlite3.Error,
    OSError,
)

T = TypeVar("T")


class AccountsDatabase:
    """One database. `current_url` is asked before each connection, and raises ValueError when there is none."""

    def __init__(self, current_url: Callable[[], str]) -> None:
        self._current_url = current_url
        self._engine: AsyncEngine | None = None
        self._current = False  # the schema was looked at since the database was reached last
        self._migrating = asyncio.Lock()

    async def read(self, operation: Callable[[Connection], T], seconds: float = CALL_SECONDS) -> T:
        """Run on one snapshot of the database. Raises AccountsUnavailable."""
        async with self.stream(seconds) as connection:
            return await connection.run_sync(operation)

    async def write(self, operation: Callable[[Connection], T], seconds: float = CALL_SECONDS) -> T:
        """Run in one transaction: durable when this returns, nothing when it raises. Raises AccountsUnavailable."""
        async with self._guarded(seconds) as engine:
            await self._migrate(engine)
            async with engine.execution_options(accounts_write=True).begin() as connection:
                return await connection.run_sync(operation)

    @asynccontextmanager
    async def stream(self, seconds: float = STREAM_SECONDS) -> AsyncIterator[AsyncConnection]:
        """A connection that sees one snapshot of the database, to read from. Raises AccountsUnavailable."""
        async with self._guarded(seconds) as engine:
            await self._migrate(engine)
            if engine.dialect.name == "postgresql":
                engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            async with engine.connect() as connection:
                yield connection

    async def close(self) -> None:
        """Give connections back; what is reached next may be another database."""
        self._current = False
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    async def _migrate(self, engine: AsyncEngine) -> None:
        async with self._migrating:
            if self._current:
                return
            async with engine.connect() as connection:
                self._current = await connection.run_sync(migrations.is_current)
            if not self._current:
                async with engine.execution_options(accounts_write=True).begin() as connection:
                    if engine.dialect.name == "postgresql":
                        await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
                    await connection.run_sync(migrations.upgrade_if_needed)
                self._current = True

    @asynccontextmanager
    async def _guarded(self, seconds: float) -> AsyncIterator[AsyncEngine]:
        try:
            if self._engine is None:
                self._engine = _open(self._url(), self._url)
            async with asyncio.timeout(seconds):
                yield self._engine
        except TimeoutError as error:
            await self._drop()
            raise AccountsUnavailable(f"the accounts' database did not answer within {seconds:g} s") from error
        except _FAILURES as error:
            await self._drop()
            reason = str(driver_error(error)).partition("\n")[0]
            raise AccountsUnavailable(f"the accounts' database failed: {reason}") from error
        except _UrlError as error:
            raise AccountsUnavailable(str(error)) from error

    def _url(self) -> URL:
        try:
            return _parse(self._current_url())
        except ValueError as error:
            raise _UrlError(str(error)) from error

    async def _drop(self) -> None:
        """All connections of a database that went away are dead."""
        with contextlib.suppress(*_FAILURES):
            await self.close()


class _UrlError(Exception):
    """No URL, or none of a database that is known; a sentence without the URL."""


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # its text may hold a password: not shown
        raise _UrlError("the catalog's URL is not a database URL, like postgresql://user:password@host/name") from None
    if (parsed.drivername == "sqlite" and parsed.database) or parsed.drivername == "postgresql":
        return parsed
    raise _UrlError(f"the catalog's URL must begin with sqlite:/// or postgresql://, not {parsed.drivername}:")


def _open(url: URL, current: Callable[[], URL]) -> AsyncEngine:
    if url.drivername == "sqlite":
        assert url.database is not None
        return _open_sqlite(Path(url.database).with_name(FILE_NAME))
    engine = create_async_engine(
        url.set(drivername=POSTGRESQL_DRIVER),
        pool_size=POOL_SIZE,
        pool_timeout=CALL_SECONDS,
        connect_args={
            "async_creator_fn": connect_asyncpg,
            "timeout": CONNECT_SECONDS,
            "server_settings": {"application_name": "mailarray accounts"},
        },
    )
    follow_url(engine, current)
    return engine


def _open_sqlite(path: Path) -> AsyncEngine:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=AsyncAdaptedQueuePool, pool_size=POOL_SIZE)

    def attach(connection: Any, _record: Any) -> None:
        _create(path)
        connection.isolation_level = None  # transactions are begun below, not by the driver
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        cursor.execute(f"ATTACH DATABASE ? AS {SCHEMA}", (str(path),))
        cursor.execute(f"PRAGMA {SCHEMA}.journal_mode = WAL")
        cursor.execute(f"PRAGMA {SCHEMA}.synchronous = FULL")
        cursor.close()

    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("accounts_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine.sync_engine, "connect", attach)
    event.listen(engine.sync_engine, "begin", begin)
    return engine


def _create(path: Path) -> None:
    """Make the file when it is not there, since SQLite would make it without the group's write permission."""
    with contextlib.suppress(FileExistsError):
        os.mknod(path, FILE_MODE | stat.S_IFREG)  # unlike open, leaves no descriptor to close; see the top of this file
        path.chmod(FILE_MODE)
