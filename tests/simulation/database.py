"""The catalog's database: the production statements on SQLite in memory, in one thread, and what may happen to it.

It can be away (refusing, or silent until the caller gives up), slow, lose the answer to a call that it carried out,
be restored as it was at an earlier moment, and be dropped. What a call does, it does in one transaction, as in
catalog/engine_sqlite.py; there is one connection for all worlds of this process, whose content is replaced.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy.pool import StaticPool

from mailarray.catalog import migrations, registration_sqlite
from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.catalog.database import DatabaseCatalog
from mailarray.catalog.engine import CALL_SECONDS, T
from mailarray.catalog.rows import NotRegistered, Registered, Registration, TombstoneRow
from mailarray.model.ids import VolumeId
from tests.simulation.loop import NOBODY, PROCESS
from tests.simulation.statements import QuickConnection

if TYPE_CHECKING:
    from tests.simulation.world import World

_raw: sqlite3.Connection | None = None
_connection: Any  # a Connection
_empty: bytes


def _open() -> None:
    global _raw, _connection, _empty
    if _raw is not None:
        return
    raw = _raw = sqlite3.connect(":memory:", isolation_level=None, cached_statements=1000, check_same_thread=False)
    engine = sqlalchemy.create_engine(
        "sqlite://",
        creator=lambda: raw,
        poolclass=StaticPool,
        isolation_level="AUTOCOMMIT",
        pool_reset_on_return=None,
        query_cache_size=2000,
    )
    connection = engine.connect()
    raw.execute("BEGIN")
    migrations.upgrade_if_needed(connection)
    raw.execute("UPDATE state SET uidvalidity = 1")  # else the time of this very run
    raw.execute("COMMIT")
    _empty = raw.serialize()
    _connection = QuickConnection(connection, raw)


# What an operation's answer depends on, and what it changes at most; those not named change everything.
READS = {
    "volumes": ("volumes",),
    "check_in": ("volumes",),
    "beats": ("beats",),
    "segments": ("volumes", "segments", "replicas"),
    "unsealed_segments": ("volumes", "segments", "replicas"),
    "short_segments": ("volumes", "segments", "replicas"),
    "mailbox": ("volumes", "segments", "replicas", "mail"),
}
WRITES = {
    "beat": ("beats",),
    "propose_seal": ("segments",),
    "add_replica": ("replicas",),
    "acquire_lease": ("beats",),
    "release_lease": ("beats",),
}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, (list, dict)) else value


class Database:
    """See the module."""

    def __init__(self, world: World) -> None:
        _open()
        assert _raw is not None
        self.raw = _raw
        self.connection = _connection
        self.world = world
        self.restores = 0
        self.up = True
        self.silent = False  # away without a word
        self.loss = 0.0  # of answers
        self.slow = 0.0  # seconds more for each call
        self.lag: dict[str, float] = {}  # the same, for each call from that machine
        # (machine, segment) -> called once, after that machine proposed a length for it
        self.after_seal: dict[tuple[str, bytes], Callable[[], None]] = {}
        self.after_copy: list[Callable[[str, bytes], None]] = []  # of stories: a machine told that it holds a segment
        self._versions = dict.fromkeys(("volumes", "beats", "segments", "replicas", "mail"), 0)
        self._known: dict[Any, tuple[tuple[int, ...], Any]] = {}
        self.restore(_empty)

    def snapshot(self) -> bytes:
        return self.raw.serialize()

    def restore(self, snapshot: bytes) -> None:
        self.raw.deserialize(snapshot)
        self.restores += 1
        self._changed(tuple(self._versions))

    def _changed(self, tables: tuple[str, ...]) -> None:
        for table in tables:
            self._versions[table] += 1

    def carry_out(self, operation: Callable[[Connection], Any], write: bool) -> Any:
        """Mostly the same is asked again and nothing has changed: then the answer of the last time is the answer."""
        code = getattr(operation, "__code__", None)
        name = "" if code is None else code.co_qualname.split(".")[1 if "." in code.co_qualname else 0]
        reads = READS.get(name)
        if reads is None:
            return self._carry_out(operation, write, name)
        key = (name, *(_frozen(cell.cell_contents) for cell in operation.__closure__ or ()))
        versions = tuple([self._versions[table] for table in reads])
        known = self._known.get(key)
        if known is not None and known[0] == versions:
            return _copy(known[1])
        result = self._carry_out(operation, write, name)
        if versions == tuple([self._versions[table] for table in reads]):
            self._known[key] = versions, result
        return _copy(result)

    def _carry_out(self, operation: Callable[[Connection], Any], write: bool, name: str) -> Any:
        if not write:
            return operation(self.connection)
        before = self.raw.total_changes
        try:
            return self._transact(operation)
        finally:
            if self.raw.total_changes != before:
                self._changed(WRITES.get(name) or tuple(self._versions))

    def catalog(self, machine: str = "") -> DatabaseCatalog:
        """A client on that machine."""
        return DatabaseCatalog(Engine(self, machine))

    def transact(self, operation: Callable[[Connection], T]) -> T:
        """What a person does."""
        self._changed(tuple(self._versions))
        return self._transact(operation)

    def _transact(self, operation: Callable[[Connection], T]) -> T:
        raw = self.raw
        raw.execute("BEGIN")
        try:
            result = operation(self.connection)
            raw.execute("COMMIT")
        except BaseException:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise
        return result


class Engine:
    """`catalog.engine.Engine`."""

    def __init__(self, database: Database, machine: str) -> None:
        self._database = database
        self._machine = machine
        self._restores = database.restores

    async def _call(self, operation: Callable[[Connection], T], *, write: bool) -> T:
        database = self._database
        world = database.world
        loop = world.loop
        if self._machine == "":  # the checks at the end
            return database.transact(operation)
        answer: asyncio.Future[Any] = loop.create_future()
        process = PROCESS.get()
        loop.call_later(
            world.latency() + database.slow + database.lag.get(self._machine, 0.0),
            self._carry_out,
            operation,
            write,
            answer,
            process,
            context=NOBODY,
        )
        return await answer  # type: ignore[no-any-return]

    def _carry_out(
        self, operation: Callable[[Connection], T], write: bool, answer: asyncio.Future[T], process: Any
    ) -> None:
        database = self._database
        world = database.world
        loop, dice = world.loop, world.dice
        if not database.up or not world.network.reaches(self._machine, "database"):
            patience = dice.choice((0.5, 3.0)) if database.silent else 0.0
            loop.call_later(patience, _fail, answer, CatalogUnavailable("away"), context=NOBODY)
            return
        if self._restores != database.restores:  # the connection was to the database before
            self._restores = database.restores
            _fail(answer, CatalogUnavailable("the connection is gone"))
            return
        if process is not None and not process.alive and dice.random() < 0.5:
            return  # it died before the last word was sent
        try:
            result = database.carry_out(operation, write)
        except Exception as error:
            _fail(answer, error)
            return
        if database.after_seal and "propose_seal" in operation.__qualname__:
            asked = dict(zip(operation.__code__.co_freevars, operation.__closure__ or (), strict=True))
            database.after_seal.pop((self._machine, asked["segment"].cell_contents.id), _nothing)()
        if database.after_copy and "add_replica" in operation.__qualname__ and result:
            asked = dict(zip(operation.__code__.co_freevars, operation.__closure__ or (), strict=True))
            for hook in list(database.after_copy):
                hook(self._machine, asked["segment"].cell_contents)
        if database.loss and dice.random() < database.loss:
            loop.call_later(0.2, _fail, answer, CatalogUnavailable("no answer"), context=NOBODY)
        elif not answer.done():
            loop.call_later(world.latency(), _finish, answer, result, context=NOBODY)

    async def read(self, operation: Callable[[Connection], T], seconds: float = CALL_SECONDS) -> T:
        return await self._call(operation, write=False)

    async def write(
        self, operation: Callable[[Connection], T], seconds: float = CALL_SECONDS, *, alone: bool = False
    ) -> T:
        return await self._call(operation, write=True)

    async def register(self, volume: VolumeId, registration: Registration) -> Registered | NotRegistered:
        raw = self._database.raw
        return await self.write(lambda _: registration_sqlite.register(raw, volume, registration))

    async def expunge(self, tombstones: Sequence[TombstoneRow]) -> None:
        raw = self._database.raw
        await self.write(lambda _: registration_sqlite.expunge(raw, tombstones))

    async def migrate(self) -> None:
        """The database has its tables."""

    async def close(self) -> None:
        """There is nothing to give back."""


def _nothing() -> None:
    return


def _finish(answer: asyncio.Future[Any], result: Any) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()
