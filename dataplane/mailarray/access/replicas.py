"""Reading a message's body from whichever replica gives it (patent: from any mirror of the server that received it).

A read starts at one replica. When that one makes no progress for HEDGE_SECONDS the next is asked in parallel, and when
it fails (refused, 404, short, damaged) the next is asked at once; the first good answer wins. Servers that hung or
refused are asked last for a few seconds, so that the next message does not wait for them again.

Invariants:
- A body up to VERIFIED_BYTES is checked against its CRC-32C before anybody sees a byte of it.
- A longer one is read in ranges of CHUNK_BYTES, two in memory at a time, each from any replica; its last range is not
  given out unless the checksum over all of them is right.
- No read waits for ever: a connection without a byte for `array.READ_SECONDS` has failed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

import aiohttp
from crc32c import crc32c

from mailarray.access.array import ServerArray, sidecar_url
from mailarray.access.maildrop import Message
from mailarray.access.metrics import FETCH_SECONDS, HEDGES, REPLICA_FAILURES
from mailarray.catalog.rows import Location
from mailarray.contract import paths
from mailarray.contract.mirroring_table import Server
from mailarray.model.ids import SegmentId, VolumeId

log = logging.getLogger(__name__)

HEDGE_SECONDS = 0.25  # without a byte, before another replica is asked too: well within a second for one bad server
VERIFIED_BYTES = 1024 * 1024  # bodies held whole in memory, so that they are checked before they are sent
CHUNK_BYTES = 256 * 1024  # one range of a longer body; a session holds two
DAMAGED_REMEMBERED = 1000  # places of damaged bodies that are read last from now on

_Verify = Callable[[bytes], bool]


class NoReplica(Exception):
    """No replica gave the bytes."""


class BodyDamaged(Exception):
    """The bytes that the replicas gave are not those that were journalled."""


class _ReplicaFailed(Exception):
    """One replica did not give the bytes; the text is a metric label."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A place where bytes lie: `start` is their offset in the segment."""

    volume: VolumeId
    segment: SegmentId
    start: int


@dataclass(slots=True)
class _Attempt:
    replica: Replica
    server: Server
    progressed: float  # event loop time of the last byte


def replicas_of(locations: Sequence[Location], turn: int) -> list[Replica]:
    """All places of a body; `turn` picks the first, so that reading is spread over the replicas."""
    places = [Replica(volume, where.segment, where.offset) for where in locations for volume in where.members]
    first = turn % len(places) if places else 0
    return places[first:] + places[:first]


class ReplicaReader:
    """Reads bodies for all sessions of one access server."""

    def __init__(self, array: ServerArray) -> None:
        self._array = array
        self._damaged: OrderedDict[Replica, None] = OrderedDict()

    # -- bodies --------------------------------------------------------------------------------------

    async def body(self, message: Message) -> bytes:
        """A whole body, verified. Raises NoReplica (also when all replicas are damaged)."""
        if message.length == 0:
            return b""
        data, _ = await self._read(
            replicas_of(message.locations, message.message[-1]),
            0,
            message.length,
            lambda data: crc32c(data) == message.checksum,
        )
        return data

    async def run(self, messages: Sequence[Message]) -> list[bytes]:
        """Bodies that lie near each other in one segment (see `near`), by one read, each verified.

        Raises NoReplica when no replica gives all of them whole.
        """
        first, last = messages[0].locations[0], messages[-1].locations[0]

        def cut(data: bytes) -> list[bytes]:
            starts = (m.locations[0].offset - first.offset for m in messages)
            return [data[start : start + m.length] for start, m in zip(starts, messages, strict=True)]

        def verify(data: bytes) -> bool:
            return all(crc32c(body) == m.checksum for body, m in zip(cut(data), messages, strict=True))

        length = last.offset + last.length - first.offset
        data, _ = await self._read(replicas_of((first,), messages[0].message[-1]), 0, length, verify)
        return cut(data)

    async def stream(self, message: Message) -> AsyncGenerator[bytes, None]:
        """A long body in pieces. Raises NoReplica before or between pieces, BodyDamaged instead of the last one."""
        replicas = replicas_of(message.locations, message.message[-1])
        given: set[Replica] = set()
        checksum = 0
        ahead: asyncio.Task[tuple[bytes, Replica]] | None = None
        try:
            for skip in range(0, message.length, CHUNK_BYTES):
                if ahead is None:
                    ahead = self._range(replicas, skip, message.length)
                data, replica = await ahead
                # Stay with the replica that answered: if the text turns out damaged, it is known whose it was.
                replicas.sort(key=lambda r: r != replica)
                given.add(replica)
                checksum = crc32c(data, checksum)
                following = skip + CHUNK_BYTES
                if following < message.length:
                    ahead = self._range(replicas, following, message.length)
                elif checksum != message.checksum:
                    for damaged in given:
                        self._remember_damage(damaged)
                    raise BodyDamaged
                yield data
        finally:
            if ahead is not None:
                ahead.cancel()

    def _range(self, replicas: Sequence[Replica], skip: int, total: int) -> asyncio.Task[tuple[bytes, Replica]]:
        return asyncio.create_task(self._read(replicas, skip, min(CHUNK_BYTES, total - skip), None))

    # -- ranges --------------------------------------------------------------------------------------

    async def _read(
        self, replicas: Sequence[Replica], skip: int, length: int, verify: _Verify | None
    ) -> tuple[bytes, Replica]:
        """`length` bytes from `skip` past each replica's start, from the first replica that gives them right."""
        began = time.perf_counter()
        volumes = {replica.volume for replica in replicas}
        tried: set[tuple[Replica, str]] = set()
        await self._array.learn(volumes)
        result = await self._round(self._ordered(replicas, tried), tried, skip, length, verify)
        if result is None:
            # A volume may have moved to another server, or its server was not heard before.
            await self._array.ask_again()
            result = await self._round(self._ordered(replicas, tried), tried, skip, length, verify)
        if result is not None:
            FETCH_SECONDS.observe(time.perf_counter() - began)
            return result
        log.error("no replica gave the bytes", extra={"segment": replicas[0].segment.hex() if replicas else None})
        raise NoReplica

    def _ordered(self, replicas: Sequence[Replica], tried: set[tuple[Replica, str]]) -> list[tuple[Replica, Server]]:
        known = [(replica, self._array.holder(replica.volume)) for replica in replicas]
        usable = [(r, s) for r, s in known if s is not None and (r, s.sidecar) not in tried]
        if len(usable) > 1 and (self._damaged or any(self._array.is_bad(s.name) for _, s in usable)):
            usable.sort(key=lambda pair: (pair[0] in self._damaged, self._array.is_bad(pair[1].name)))
        return usable

    async def _round(
        self,
        candidates: list[tuple[Replica, Server]],
        tried: set[tuple[Replica, str]],
        skip: int,
        length: int,
        verify: _Verify | None,
    ) -> tuple[bytes, Replica] | None:
        loop = asyncio.get_running_loop()
        running: dict[asyncio.Task[bytes], _Attempt] = {}
        candidates.reverse()
        ask_next = True
        try:
            while True:
                if ask_next and candidates:
                    replica, server = candidates.pop()
                    tried.add((replica, server.sidecar))
                    attempt = _Attempt(replica, server, loop.time())
                    running[asyncio.create_task(self._attempt(attempt, skip, length, verify))] = attempt
                if not running:
                    return None
                ask_next = False
                done, _ = await asyncio.wait(
                    running, timeout=HEDGE_SECONDS if candidates else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    attempt = running.pop(task)
                    if self._outcome(task, attempt):
                        self._array.mark_good(attempt.server.name)
                        return task.result(), attempt.replica
                    ask_next = True
                if not done and all(loop.time() - a.progressed >= HEDGE_SECONDS for a in running.values()):
                    for attempt in running.values():
                        self._array.mark_bad(attempt.server.name)
                    HEDGES.inc()
                    ask_next = True
        finally:
            for task in running:
                task.cancel()

    def _outcome(self, task: asyncio.Task[bytes], attempt: _Attempt) -> bool:
        error = task.exception()
        if error is None:
            return True
        if isinstance(error, _ReplicaFailed):
            reason = str(error)
        elif isinstance(error, (aiohttp.ClientError, OSError, TimeoutError)):
            reason = "connection"
            self._array.mark_bad(attempt.server.name)
        else:
            raise error
        if reason == "damaged":
            self._remember_damage(attempt.replica)
        elif reason == "missing":
            self._array.forget(attempt.server.name)  # perhaps its volume was replaced
        REPLICA_FAILURES.labels(reason).inc()
        log.warning(
            "replica not read",
            extra={
                "server": attempt.server.name,
                "segment": attempt.replica.segment.hex(),
                "offset": attempt.replica.start,
                "reason": reason,
                "detail": repr(error),
            },
        )
        return False

    async def _attempt(self, attempt: _Attempt, skip: int, length: int, verify: _Verify | None) -> bytes:
        replica = attempt.replica
        loop = asyncio.get_running_loop()
        path = paths.segment_path(replica.volume.hex(), replica.segment.hex())
        start = replica.start + skip
        headers = {"Range": f"bytes={start}-{start + length - 1}"}
        async with self._array.http.get(sidecar_url(attempt.server, path), headers=headers) as response:
            if response.status != 206:
                raise _ReplicaFailed("missing" if response.status == 404 else "status")
            pieces: list[bytes] = []
            got = 0
            async for piece in response.content.iter_any():
                attempt.progressed = loop.time()
                pieces.append(piece)
                got += len(piece)
                if got > length:
                    break
        if got != length:
            raise _ReplicaFailed("short")
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if verify is not None and not verify(data):
            raise _ReplicaFailed("damaged")
        return data

    def _remember_damage(self, replica: Replica) -> None:
        self._damaged[replica] = None
        if len(self._damaged) > DAMAGED_REMEMBERED:
            self._damaged.popitem(last=False)
