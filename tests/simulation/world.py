"""One world: three or four servers, a network, a catalog, clients; and everything that production asks of the outside.

`World(seed)` puts the production classes together and stands in for clocks, random bytes, threads, sockets, locks and
free space by patching the names that production uses for them, for as long as the world runs. Two worlds of the same
seed do the same in the same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import hashlib
import logging
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from sqlalchemy import Double, literal_column

import mailarray.access.array
import mailarray.access.maildrop
import mailarray.catalog.volumes
import mailarray.journal.member
import mailarray.mirroring.announce
import mailarray.mirroring.link
import mailarray.mirroring.segment
import mailarray.mirroring.writer
import mailarray.tracking.copying
import mailarray.tracking.dropping
import mailarray.tracking.fencing
import mailarray.tracking.following
import mailarray.tracking.local_index
import mailarray.tracking.losses
import mailarray.tracking.peers
import mailarray.tracking.process
import mailarray.tracking.receiving
import mailarray.tracking.repairing
import mailarray.tracking.replica_rows
import mailarray.tracking.sealing
import mailarray.tracking.settling
import mailarray.tracking.shelf
import mailarray.tracking.superseding
import mailarray.tracking.table
import mailarray.tracking.targets
import mailarray.tracking.wear
from mailarray.catalog import leases
from mailarray.contract import mirroring_ring, mirroring_table
from mailarray.contract.settings import StorageSettings
from mailarray.journal.volume import Volume
from mailarray.model import ids
from mailarray.model.ids import VolumeId
from tests.simulation import database as simulated_database
from tests.simulation.clients import Clients
from tests.simulation.disk import Machine
from tests.simulation.ledger import Ledger
from tests.simulation.loop import NOBODY, PROCESS, ProcessDied, VirtualLoop
from tests.simulation.network import AIOHTTP, TOKEN, Connection, Network, Session, Socket, Sockets
from tests.simulation.servers import RESERVE, CommitThread, Port, Process, Server

EPOCH = 1_700_000_000  # seconds since 1970 when a world begins
UPTIME = 1000.0  # what a machine's own clock says then
BASE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# Waiting times that only make a run longer, shorter: in the same order among each other as in production.
CLOCKS = {
    (mailarray.tracking.repairing, "INTERVAL"): 2.0,
    (mailarray.tracking.repairing, "QUIET"): 3.0,
    (mailarray.tracking.repairing, "DUTY"): 0.5,  # a look that was slow once is no reason to wait for a minute
    (mailarray.tracking.repairing, "CLOSED_SECONDS"): 5.0,
    (mailarray.tracking.repairing, "KEEP_PARTS"): 12.0,
    (mailarray.tracking.repairing, "WHOLE"): 30.0,
    (mailarray.tracking.targets, "RANK_SECONDS"): 4.0,
    (mailarray.tracking.settling, "REPLICA_GRACE"): 3.0,
    (mailarray.tracking.settling, "LEFT_SECONDS"): 8.0,
    (mailarray.tracking.settling, "SEEK_SECONDS"): 4.0,
    (mailarray.tracking.wear, "RANK_SECONDS"): 2.0,
    (mailarray.tracking.superseding, "INTERVAL"): 2.0,
    (mailarray.tracking.dropping, "INTERVAL"): 2.0,
    (mailarray.tracking.replica_rows, "AGAIN"): 10.0,
    (mailarray.tracking.losses, "ASK_SECONDS"): 1.5,
    (mailarray.tracking.losses, "ASK_EACH"): 0.05,
}

METRICS = (
    (Counter, "inc"),
    (Gauge, "set"),
    (Gauge, "set_function"),
    (Histogram, "observe"),
)


class Broken(Exception):
    """A promise was broken; the text says which."""


class World:
    """See the module."""

    def __init__(self, seed: int, root: str, *, detail: bool = False) -> None:
        self.seed = seed
        self.root = root
        self.detail = detail
        self.dice = random.Random(seed)
        self.trace: list[tuple[float, str]] = []
        self.findings: list[str] = []
        self.over = False
        self.calm = False  # nothing is very slow any more
        self.loop = VirtualLoop(self._disk_delay)  # type: ignore[abstract]
        self.network = Network(self)
        self.database = simulated_database.Database(self)
        self.volumes: dict[VolumeId, tuple[Machine, Path]] = {}
        self.gone: set[VolumeId] = set()  # wiped, or declared lost for ever
        self.ledger = Ledger(self)
        self.token_file = f"{root}/token"
        self.table_file = f"{root}/table.json"
        self._locks: dict[str, Process] = {}
        Path(root).mkdir(parents=True)
        Path(self.token_file).write_text(TOKEN, encoding="ascii")
        dice = self.dice
        self.copies = 3 if dice.random() < 0.1 else 2
        count = 4 if self.copies == 3 else dice.choice((3, 3, 3, 4))
        storage = StorageSettings(
            copies=self.copies,
            segment_size=dice.choice((4_000, 20_000, 60_000)),
            segment_age=dice.choice((2.0, 6.0, 20.0)),
            mirror_timeout=dice.choice((0.3, 1.0)),
            reserve=RESERVE,
            compact_percent=dice.choice((1, 1, 30)),
            compact_least=dice.choice((1, 1, 500)),
            surplus_after=2.0,
        )
        self.slowness = dice.choice((0.0005, 0.002, 0.005))  # seconds, typical, of network and disks
        self.latecomer = f"s-{count - 1}" if count == 4 and self.copies == 2 else None
        names = [f"s-{i}" for i in range(count)]
        self.table = mirroring_ring.ring(
            [mirroring_table.Server(n, f"{n}:1", f"{n}:2") for n in names if n != self.latecomer], 1
        )
        self.write_table()
        self.servers = {name: Server(self, name, storage) for name in names}
        self.clients = Clients(self)

    # -- telling ---------------------------------------------------------------------------------------
    def note(self, text: str) -> None:
        self.trace.append((self.loop.now, text))

    def broken(self, text: str) -> None:
        """A promise is broken: the run is a failure, whatever comes."""
        if self.over:
            return
        self.note(f"BROKEN: {text}")
        self.findings.append(text)

    def digest(self) -> str:
        return hashlib.sha256("\n".join(f"{at:.9f} {text}" for at, text in self.trace).encode()).hexdigest()[:16]

    # -- chance ----------------------------------------------------------------------------------------
    def latency(self) -> float:
        """Seconds that a word takes: mostly little, now and then very much."""
        random = self.dice.random
        roll = random()
        if roll < 0.97 or self.calm:
            return roll * self.slowness
        if roll < 0.995:
            return random() * 0.1
        return random() * 2.5

    def _disk_delay(self) -> float:
        roll = self.dice.random()
        return roll * self.slowness * 0.5 if roll < 0.98 or self.calm else self.dice.random() * 0.5

    # -- the outside of production -----------------------------------------------------------------------
    def monotonic(self) -> float:
        return self.loop.now + UPTIME

    def time_ns(self) -> int:
        process = PROCESS.get()
        server = None if process is None else self.servers.get(process.machine)
        return int((EPOCH + self.loop.now) * 1e9) + (0 if server is None else server.skew)

    def write_table(self) -> None:
        """In place of the file, at once; a process reads it when it looks."""
        new = f"{self.table_file}.new"
        Path(new).write_text(mirroring_table.dump(self.table), encoding="utf-8")
        os.replace(new, self.table_file)  # noqa: PTH105

    def change_table(self, states: dict[str, str]) -> None:
        """The next generation; writers are told after a while."""
        servers = {server.name: server for server in self.table.servers}
        for name, state in states.items():
            servers[name] = replace(
                servers.get(name) or mirroring_table.Server(name, f"{name}:1", f"{name}:2"), state=state
            )
        self.table = table = mirroring_ring.ring([servers[n] for n in sorted(servers)], self.table.generation + 1)
        self.write_table()
        for server in self.servers.values():
            process = server.processes.get("writer")
            if process is not None and process.alive and process.writer is not None:
                self.loop.call_later(self.dice.random(), process.writer.set_table, table, context=process.context)

    def written(self, name: str, data: bytes, offset: int) -> None:
        self.ledger.written(name, data, offset)

    def locked(self, path: Path) -> bool:
        holder = self._locks.get(str(path))
        return holder is not None and holder.alive

    def lock(self, path: Path) -> bool:
        if self.locked(path):
            return False
        self._locks[str(path)] = PROCESS.get()
        return True

    def unlock(self, path: Path) -> None:
        if self._locks.get(str(path)) is PROCESS.get():
            del self._locks[str(path)]

    def release_locks(self, process: Process) -> None:
        self._locks = {path: holder for path, holder in self._locks.items() if holder is not process}

    # -- running -----------------------------------------------------------------------------------------
    def run(self, seconds: float) -> None:
        self.loop.run_until(self.loop.now + seconds)
        if self.loop.errors:
            for error in self.loop.errors:
                self.broken(error)
            self.loop.errors.clear()

    def call(self, work: Any, seconds: float = 30.0) -> Any:
        """Run one coroutine of the world's own to its end."""
        task = self.loop.create_task(work, context=NOBODY)
        self.loop.run_until(self.loop.now + seconds, task.done)
        if not task.done():
            raise Broken("a call of the world's own does not end")
        return task.result()


class _Findings(logging.Handler):
    """What production logs as an alarm, or as an exception that nobody thought of, is a finding."""

    ALARMS = (
        "other bytes at an offset",
        "seal refused",
        "superseded segment holds the only copy of mail that was not deleted",
    )

    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        world = self._world
        process = PROCESS.get()
        if process is not None and not process.alive:
            return
        if world.detail:
            extra = {k: v for k, v in record.__dict__.items() if k not in _PLAIN}
            world.note(f"{process.name if process else '-'}: {record.getMessage()} {extra}")
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, (OSError, ProcessDied)):
            world.broken(f"{record.getMessage()}: {error!r}")
        elif record.getMessage() in self.ALARMS:
            world.broken(f"alarm: {record.getMessage()}")


_ACQUIRE = functools.cache(leases._acquire.__wrapped__)  # by this world's clock
_empty_index: list[bytes] = []  # a local index with its tables, made once
_worlds: list[int] = []  # that this process has played
hoarding = False  # a process that ends after some worlds keeps them: cleaning up after one takes long
_hoard: list[World] = []
_PLAIN = set(logging.makeLogRecord({}).__dict__) | {"message", "taskName"}


class _Agent(mailarray.tracking.process.Agent):
    """So that the world finds it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        process: Process = PROCESS.get()
        Port.world.servers[process.machine].opened(process, self)


@contextlib.contextmanager
def outside(world: World) -> Iterator[None]:
    """Put the world in the place of machine, network and clock."""
    dice = world.dice
    saved: list[tuple[Any, str, Any]] = []

    def put(where: Any, name: str, value: Any) -> None:
        saved.append((where, name, getattr(where, name)))
        setattr(where, name, value)

    async def open_catalog(url: object) -> Any:
        return world.database.catalog(PROCESS.get().machine)

    async def append(self: Any, batch: Any) -> None:
        await real_append(self, batch)
        world.ledger.acknowledged_batch(self, batch)

    async def fence(self: Any, segment: Any) -> Any:
        answer = await real_fence(self, segment)
        if segment not in self._shelf.dropped:  # superseded: nobody asks for its length any more
            world.ledger.answered_fence(self._shelf.volume.id, segment, answer)
        return answer

    def remember(self: Any, sealed_length: int, epoch: int) -> None:
        real_remember(self, sealed_length, epoch)
        world.ledger.remembers(self.volume.id, self.segment, sealed_length)

    async def ask_for_fence(self: Any, volume: Any, segment: Any) -> Any:
        answer = await real_ask(self, volume, segment)
        if answer.volume != volume:
            world.broken(f"volume {answer.volume.hex()} answers a fence for {volume.hex()}")
        return answer

    async def fetch_into(self: Any, volume: Any, segment: Any, start: int, buffer: memoryview) -> int:
        data = await self.fetch(volume, segment, start, start + len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def put_batch(self: Any, segment: Any, offset: int, acknowledged: int, body: Any, length: int) -> Any:
        answer = await real_put(self, segment, offset, acknowledged, body, length)
        if answer.status == 200:
            header = self._shelf.holdings[segment].header
            writer = None if header is None else header.writer + header.incarnation
            world.ledger.heard(self._shelf.volume.id, writer)
        return answer

    async def append_batch(self: Any, body: Any, holding: Any, member: Any, offset: int, length: int) -> None:
        await real_append_batch(self, body, holding, member, offset, length)
        world.ledger.took(self._shelf.volume.id, holding.segment, offset + length)

    def may_seal(self: Any, holding: Any) -> bool:
        allowed = real_may_seal(self, holding)
        left = world.monotonic() - max(holding.last_word, self._began) >= mailarray.tracking.settling.LEFT_SECONDS
        if allowed and not holding.own and not left:
            header = holding.header
            world.ledger.may_seal(self._shelf.volume.id, header.writer + header.incarnation)
        return bool(allowed)

    async def drop(self: Any, holding: Any) -> int:
        world.ledger.dropping(self.volume.id, holding.segment)
        return await real_drop(self, holding)

    async def give_back(self: Any, holding: Any) -> int:
        world.ledger.giving_back(self.volume.id, holding.segment)
        return await real_give_back(self, holding)

    async def ask_members(self: Any, facts: Any) -> Any:
        answers = asked[facts.id, self._own] = await real_ask_members(self, facts)
        return answers

    async def propose(self: Any, facts: Any, length: int, epoch: int) -> Any:
        world.ledger.proposes(facts, length, asked.pop((facts.id, self._own), []))
        return await real_propose(self, facts, length, epoch)

    @contextlib.contextmanager
    def writer_locked(self: Volume) -> Iterator[bool]:
        got = world.lock(self.path)
        try:
            yield got
        finally:
            if got:
                world.unlock(self.path)

    def connect(self: Any, path: str = "") -> sqlite3.Connection:
        server = world.servers[PROCESS.get().machine]
        if not _empty_index:
            with real_connect(self, ":memory:") as fresh:
                _empty_index.append(fresh.serialize())
        raw = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        raw.deserialize(server.index if not path and server.index is not None else _empty_index[0])
        return raw

    def look(self: Any) -> tuple[int, int, int]:
        return world.table.generation, 0, 0

    def free_bytes(self: Volume) -> int:
        return world.servers[self.path.name.partition(".")[0]].room

    sealer = mailarray.tracking.sealing.Sealer
    asked: dict[Any, Any] = {}  # segment and asking volume -> what its members answered last
    real_ask_members, real_propose = sealer.ask_members, sealer.propose
    put(sealer, "ask_members", ask_members)
    put(sealer, "propose", propose)
    sockets = Sockets(world)
    Connection.network = Session.network = world.network
    Socket.sockets = sockets
    Port.world = world
    real_append = mailarray.mirroring.segment.OpenSegment.append
    real_connect = mailarray.tracking.local_index.LocalIndex._connect
    real_remember = mailarray.journal.member.Member.remember
    put(mailarray.journal.member.Member, "remember", remember)
    real_fence = mailarray.tracking.fencing.Fencer.fence
    real_ask = mailarray.tracking.peers.Peers.fence
    real_put = mailarray.tracking.receiving.Receiver.put
    real_append_batch = mailarray.tracking.receiving.Receiver._append
    put(mailarray.tracking.receiving.Receiver, "_append", append_batch)
    real_drop = mailarray.tracking.shelf.Shelf.drop
    put(mailarray.tracking.shelf.Shelf, "drop", drop)
    real_give_back = mailarray.tracking.shelf.Shelf.give_back
    put(mailarray.tracking.shelf.Shelf, "give_back", give_back)
    real_may_seal = mailarray.tracking.settling.Settler._may_seal
    put(mailarray.tracking.fencing.Fencer, "fence", fence)
    put(mailarray.tracking.peers.Peers, "fence", ask_for_fence)
    put(mailarray.tracking.peers.Peers, "fetch_into", fetch_into)
    put(mailarray.tracking.receiving.Receiver, "put", put_batch)
    put(mailarray.tracking.settling.Settler, "_may_seal", may_seal)
    for (where, name), value in CLOCKS.items():
        put(where, name, value)
    # UIDVALIDITY is a time in seconds: it moves faster here, where a catalog is restored several times in one.
    put(mailarray.catalog.volumes, "time", SimpleNamespace(time=lambda: EPOCH + 1000 * world.loop.now))
    put(time, "monotonic", world.monotonic)
    put(time, "perf_counter", world.monotonic)
    put(time, "time", lambda: world.time_ns() / 1e9)
    put(time, "time_ns", world.time_ns)
    put(os, "urandom", dice.randbytes)
    put(ids, "_pool", ids._Pool())
    put(mailarray.mirroring.link, "PeerConnection", Connection)
    put(mailarray.tracking.peers, "aiohttp", AIOHTTP)
    put(mailarray.access.array, "aiohttp", AIOHTTP)
    put(mailarray.access.maildrop, "compile_mailbox", world.clients.compile_mailbox)
    put(mailarray.mirroring.announce, "socket", sockets)
    put(mailarray.tracking.following, "socket", sockets)
    put(mailarray.mirroring.writer, "CommitThread", CommitThread)
    put(mailarray.mirroring.segment.OpenSegment, "append", append)
    process = mailarray.tracking.process
    put(process, "open_catalog", open_catalog)
    put(mirroring_table, "load", lambda path: world.table)
    for measure, method in METRICS:
        put(measure, method, lambda *_: None)
    put(MetricWrapperBase, "labels", lambda self, *_: self)
    put(process, "Port", Port)
    put(process, "Agent", _Agent)
    put(process, "Disk", lambda: PROCESS.get().disk)
    put(process, "raise_file_limit", lambda: None)
    put(process, "switch_threads_quickly", lambda: None)
    put(Volume, "try_lock_writer", lambda self: 0 if world.lock(self.path) else None)
    put(Volume, "writer_locked", writer_locked)
    put(Volume, "free_bytes", free_bytes)
    put(mailarray.tracking.local_index.LocalIndex, "_connect", connect)
    put(mailarray.tracking.table.NewestTable, "_look", look)
    world.database.raw.create_function("virtual_now", 0, lambda: world.loop.now)
    put(leases, "_CLOCKS", {"sqlite": literal_column("virtual_now()", Double)})
    put(leases, "_acquire", _ACQUIRE)
    put(world.loop.__class__, "add_signal_handler", lambda self, number, call: _signal(number, call))
    sys.unraisablehook = lambda _: None  # of coroutines whose process died
    warnings.simplefilter("ignore", RuntimeWarning)
    root = logging.getLogger("mailarray")
    handler = _Findings(world)
    level, propagate = root.level, root.propagate
    root.addHandler(handler)
    root.setLevel(logging.INFO if world.detail else logging.ERROR)
    root.propagate = False
    gc.disable()
    asyncio.tasks._all_tasks.add = id  # type: ignore[attr-defined]  # nobody asks for all tasks, and telling costs
    asyncio.events._set_running_loop(world.loop)
    try:
        yield
    finally:
        world.over = True
        for server in world.servers.values():
            server.power = False
            for one in server.processes.values():
                server.end(one)
        if hoarding:
            _hoard.append(world)
        else:
            world.loop.forget()
        asyncio.events._set_running_loop(None)
        del asyncio.tasks._all_tasks.add  # type: ignore[attr-defined]
        root.removeHandler(handler)
        root.setLevel(level)
        root.propagate = propagate
        _worlds.append(world.seed)
        if len(_worlds) % 10 == 0 and not hoarding:
            gc.collect()  # what is dead does its last steps here, while nothing that it touches is real
        for where, name, value in reversed(saved):
            setattr(where, name, value)
        shutil.rmtree(world.root, ignore_errors=True)


def _signal(number: int, call: Callable[[], None]) -> None:
    PROCESS.get().signals[number] = call


__all__ = ["BASE", "Broken", "World", "outside", "signal", "sqlalchemy"]
