"""Hands the mirroring table to every process that works by it: writers, sidecars, access servers.

Invariant: a table is pushed only after its ConfigMap holds it, so a process that restarts never falls behind for good;
and as long as a process is known to have an older generation it is asked again. Pushing is idempotent: a process
keeps the highest generation it was handed. Refuses to keep a reconcile waiting: it works beside it.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mailarray.contract import mirroring_table
from mailarray.contract.mirroring_table import MirroringTable
from mailarray_operator.cluster import metrics
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.writer import NotLeader, PushFailed, Writer

log = logging.getLogger(__name__)

AT_ONCE = 64
FIRST_BACKOFF, MAX_BACKOFF = 2.0, 60.0  # seconds, for one process
IDLE_SECONDS = 1.0  # between two looks for those whose backoff is over


class Target(NamedTuple):
    """One process of one pod; a tuple, since thousands are compared at each look."""

    uid: str  # of the pod
    address: str  # ip:port


@dataclass(slots=True)
class _Progress:
    """What one process has."""

    generation: int = -1
    not_before: float = 0.0
    failures: int = 0


@dataclass(slots=True)
class _Wanted:
    """What all processes of one MailCluster shall have."""

    generation: int
    table: bytes  # JSON, compressed: for 1500 servers 60 KiB instead of 600, to 3000 processes
    token: str
    progress: dict[Target, _Progress] = field(default_factory=dict)


class Pusher:
    """See the module."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._wanted: dict[Key, _Wanted] = {}
        self._wake = asyncio.Event()

    def want(self, key: Key, table: MirroringTable, token: str, reported: Mapping[Target, int | None]) -> None:
        """These processes shall have this table; `reported` says what each was heard to have, None when not heard."""
        before = self._wanted.get(key)
        known = before is not None and before.generation == table.generation
        packed = before.table if before is not None and known else pack(table)
        wanted = _Wanted(table.generation, packed, token, before.progress if before else {})
        for target in wanted.progress.keys() - reported.keys():
            del wanted.progress[target]
        behind = False
        for target, generation in reported.items():
            progress = wanted.progress.get(target)
            if progress is None:
                progress = wanted.progress[target] = _Progress()
            if generation is not None:
                progress.generation = generation
            behind = behind or progress.generation < table.generation
        self._wanted[key] = wanted
        if behind and token:
            self._wake.set()

    def forget(self, key: Key) -> None:
        """The MailCluster is gone."""
        self._wanted.pop(key, None)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            due = self._due(time.monotonic())
            if due:
                seats = asyncio.Semaphore(AT_ONCE)
                await asyncio.gather(*(self._push(seats, key, target) for key, target in due))
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _due(self, now: float) -> list[tuple[Key, Target]]:
        due, behind = [], 0
        for key, wanted in self._wanted.items():
            for target, progress in wanted.progress.items():
                if progress.generation < wanted.generation:
                    behind += 1
                    if wanted.token and progress.not_before <= now:
                        due.append((key, target))
        metrics.TABLES_BEHIND.set(behind)
        return due

    async def _push(self, seats: asyncio.Semaphore, key: Key, target: Target) -> None:
        async with seats:
            wanted = self._wanted.get(key)  # the latest: a newer table may have come while this one waited
            progress = wanted.progress.get(target) if wanted is not None else None
            if wanted is None or progress is None or progress.generation >= wanted.generation:
                return
            try:
                await self._writer.push(target.address, wanted.token, wanted.table)
            except (PushFailed, NotLeader) as error:
                progress.failures += 1
                backoff = min(FIRST_BACKOFF * 2 ** (progress.failures - 1), MAX_BACKOFF)
                progress.not_before = time.monotonic() + backoff
                if progress.failures == 3:  # once or twice is a restart
                    log.warning("a server does not take the mirroring table", extra={"reason": str(error)})
                return
            progress.generation, progress.failures = wanted.generation, 0


def pack(table: MirroringTable) -> bytes:
    """A table as it is pushed: JSON without blanks, the generation first, gzip."""
    return gzip.compress(mirroring_table.dump(table).encode(), compresslevel=3, mtime=0)
