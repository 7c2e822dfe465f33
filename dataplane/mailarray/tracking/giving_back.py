"""Giving back a copy too many on this volume (rule 25): when servers are back whose segments were copied elsewhere.

Invariants:

- Given back is only a repaired copy of a sealed, registered segment, at rest here in the open catalog's epoch.
- It is marked as leaving before anybody is asked, and nobody is told that it stays while it is marked. So of two that
  leave at once at most one counts on the other, whatever tables and catalogs they see.
- Every other holder is asked directly, and those that say that they stay are `copies` hosts, in the zones that are
  wanted: durably up to L, whole, without known damage, not draining, not lost, not leaving.
- Its row goes first, in the transaction in which those still stand there; then that this was told is durable in the
  memory (a restored catalog is noticed, rule 19); then the bytes go. After anything that fails the copy stays, and is
  told to the catalog again.
- A compacted segment that stands for its inputs stays until those that stay have noted the same (rule 23).

Nothing is remembered: a start finds a copy that is whole, and begins anew. How others are answered is here, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mailarray.catalog.catalog import CatalogUnavailable, EpochPassed
from mailarray.catalog.rows import ShortSegment
from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking import metrics
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.copying import Pace
from mailarray.tracking.local_index import LocalIndex
from mailarray.tracking.memory import CatalogMemory
from mailarray.tracking.pace import look_again_and_again
from mailarray.tracking.peers import Peers, PeerUnreachable
from mailarray.tracking.shelf import Holding, Shelf
from mailarray.tracking.spreading import wants_zones
from mailarray.tracking.surplus import begins_after, enough, leavers, too_many
from mailarray.tracking.table import NewestTable
from mailarray.tracking.targets import counting

log = logging.getLogger(__name__)

AT_ONCE = 200  # copies given back on the word of one look; what others hold may change meanwhile
DUTY = 0.05  # of the time may be spent on looks: tens of thousands too many take seconds
INTERVAL = 60.0  # seconds between two looks, unless the patience is short; a look reads this volume's own rows


class Returner:
    """See the module."""

    def __init__(
        self,
        shelf: Shelf,
        link: CatalogLink,
        memory: CatalogMemory,
        peers: Peers,
        index: LocalIndex,
        table: NewestTable,
        pace: Pace,
        patience: float,
    ) -> None:
        self._shelf = shelf
        self._link = link
        self._memory = memory
        self._peers = peers
        self._index = index
        self._table = table
        self._pace = pace
        self._patience = patience
        self.full: Callable[[], bool] = lambda: False
        self.busy: Callable[[], object] = lambda: None  # copies come here just now: what is there may change
        self.sound: Callable[[SegmentId], bool] = lambda _: True  # no damage is known
        self.refusing: Callable[[], str | None] = lambda: None  # why this volume as a whole does not stay
        self.wake = asyncio.Event()
        self.problem: str | None = None  # why a copy that was due stays
        self.given_back = self.given_back_bytes = 0  # since this process began
        self._since: dict[SegmentId, tuple[tuple[frozenset[VolumeId], int], float]] = {}  # holders, epoch: same since
        self._ours: dict[SegmentId, int] = {}  # bytes
        self._looked_at = float("-inf")
        self._took = 0.0  # seconds, the last look
        self._next = 0  # of those that are due, where the next look begins

    # -- what others are told ----------------------------------------------------------------------------
    def word(self, segment: SegmentId, length: int) -> dict[str, Any]:
        """As contract.paths.STAYS says. Blocking for one look at the file's size."""
        holding = self._shelf.holdings.get(segment)
        reason = self.refusing() or self._leaves(holding, length)
        counts = holding is not None and holding.member is not None and holding.member.fence_state.counts
        return {"stays": reason is None, "counts": counts, "reason": reason}

    def _leaves(self, holding: Holding | None, length: int) -> str | None:
        member = None if holding is None else holding.member
        if holding is None or member is None or holding.header is None:
            return "it is not here"
        if holding.leaving:
            return "it is about to be given back here, too"
        whole = member.fence_state.whole and member.fence_state.sealed_length == length <= member.length
        if not whole or member.damages or not self.sound(holding.segment):
            return "it is not whole here, or damaged"
        if member.broken is not None:
            return f"the disk failed it since the process began: {member.broken}"
        try:
            size = self._shelf.volume.segment_path(holding.segment).stat().st_size
        except OSError as error:
            return f"its file cannot be looked at: {error.strerror}"
        return None if size >= length else f"its file has only {size} bytes"

    def status(self) -> dict[str, Any]:
        """For /v1/status."""
        return {
            "segments": len(self._ours),
            "bytes": sum(self._ours.values()),
            "given_back": self.given_back,
            "given_back_bytes": self.given_back_bytes,
            "problem": self.problem,
        }

    # -- giving back -------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Until cancelled."""

        def failed(error: Exception) -> None:
            self._complain(f"a copy too many cannot be given back: {error}")

        interval = min(INTERVAL, self._patience / 4)
        await look_again_and_again(self.look, self._link, self.wake, interval, failed)

    async def look(self) -> None:
        """See what is too many here, and give back what is due. Raises CatalogUnavailable, OSError."""
        state = self._link.state
        if state is None or not state.open:
            return
        catalog, own, epoch, began = self._link.catalog, self._shelf.volume.id, state.epoch, time.monotonic()
        if began - self._looked_at < self._took / DUTY:
            return
        rows = await catalog.volumes()
        table = self._table()
        servers = counting(table, rows)
        wanted = own in servers and any(holding.is_replica(own) for holding in self._shelf)
        found = await catalog.surplus_segments(own, tuple(servers)) if wanted else []
        self._looked_at = time.monotonic()
        self._took = self._looked_at - began
        holders = {one.facts.id: (frozenset(one.holders), epoch) for one in found}
        before = self._since
        self._since = {
            id: (now, before[id][1] if id in before and before[id][0] == now else self._looked_at)
            for id, now in holders.items()
        }
        names = {row.id: row.server for row in rows}
        full = self.full()
        # In a thread: after a long outage these are some ten thousand.
        ours, due = await self._shelf.run(lambda: self._choose(found, servers, table, names, full))
        self._ours = {one.facts.id: one.sealed_length for one in ours}
        metrics.SURPLUS.set(len(ours))
        if not ours:
            self.problem = None
        before_all, first = self.given_back, self._next if self._next < len(due) else 0
        self._next = first + AT_ONCE  # what cannot go now shall not keep the rest from it
        for one, apart in due[first : first + AT_ONCE]:
            if self.busy():
                return  # first what is short; the next look finds the rest
            await self._pace.take(one.sealed_length)
            await self._give_back(one, counting(self._table(), rows), apart, epoch)
        if len(due) > AT_ONCE and self.given_back > before_all:
            self.wake.set()

    def _choose(
        self,
        found: Sequence[ShortSegment],
        servers: Mapping[VolumeId, Server],
        table: MirroringTable,
        names: Mapping[VolumeId, str],
        full: bool,
    ) -> tuple[list[ShortSegment], list[tuple[ShortSegment, bool]]]:
        """Those that are this volume's to give back; those whose time has come, with whether zones are wanted."""
        own, ours, due = self._shelf.volume.id, [], []
        for one in found:
            apart = wants_zones(table, names.get(one.facts.writer, ""))
            if own in too_many(one.facts, one.holders, servers, apart):
                ours.append(one)
            after = begins_after(leavers(one.facts, one.holders, servers, apart), own, self._patience, full)
            if after is not None and self._looked_at - self._since[one.facts.id][1] >= after:
                due.append((one, apart))
        return ours, due

    async def _give_back(self, one: ShortSegment, servers: Mapping[VolumeId, Server], apart: bool, epoch: int) -> None:
        """If those that stay are enough. Raises CatalogUnavailable, OSError."""
        holding = self._shelf.holdings.get(one.facts.id)
        if holding is None or not await self._may_leave(holding, one.sealed_length, epoch):
            return
        holding.leaving = True
        try:
            staying = await self._ask(one, holding)
            if not enough(one.facts, staying, one.holders, servers, apart):
                return
            counter = await self._link.catalog.give_back(
                one.facts.id, self._shelf.volume.id, one.sealed_length, staying, epoch
            )
            holding.settled_epoch = -1  # if it stays from here on, it is told to the catalog again
            if counter is not None and await self._note(counter, epoch):
                await self._remove(holding)
        except EpochPassed as error:
            raise CatalogUnavailable(str(error)) from error
        except CatalogUnavailable:
            holding.settled_epoch = -1  # nobody knows whether its row went
            raise
        finally:
            if one.facts.id in self._shelf.holdings:
                holding.leaving = False

    async def _may_leave(self, holding: Holding, length: int, epoch: int) -> bool:
        member = holding.member
        if member is None or not holding.is_replica(self._shelf.volume.id):
            return False
        inputs = await self._shelf.supersedes(holding)
        if inputs and not member.fence_state.counts:
            return False  # who noted nothing yet is asked for its proof by others
        at_rest = self._link.epoch == epoch == holding.settled_epoch
        return at_rest and holding.readable == length == holding.sealed_length

    async def _ask(self, one: ShortSegment, holding: Holding) -> list[VolumeId]:
        """Those of the other holders that count which say that they stay."""
        others = [volume for volume in one.holders if volume != self._shelf.volume.id]
        said = await asyncio.gather(*(self._stays(volume, one, holding) for volume in others))
        reasons = [reason for reason in said if reason is not None]
        if reasons:
            self._complain(f"segment {one.facts.id.hex()}: {reasons[0]}")
        return [volume for volume, reason in zip(others, said, strict=True) if reason is None]

    async def _stays(self, volume: VolumeId, one: ShortSegment, holding: Holding) -> str | None:
        assert holding.member is not None
        try:
            counts = holding.member.fence_state.counts
            await self._peers.stays(volume, one.facts.id, one.sealed_length, counts)
        except PeerUnreachable as error:
            return f"holder {volume.hex()} does not say that it stays: {error}"
        return None

    async def _note(self, counter: int, epoch: int) -> bool:
        """Durably; False when the catalog is another one meanwhile, and may name the copy again."""
        if self._link.state is None or self._link.epoch != epoch:
            return False
        self._memory.counter = max(self._memory.counter, counter)
        await self._shelf.run(self._memory.save)
        return self._link.state is not None and self._link.epoch == epoch

    async def _remove(self, holding: Holding) -> None:
        size = await self._shelf.give_back(holding)
        await self._index.forget(holding)  # from here on nobody reads from its descriptors
        holding.close()
        self._ours.pop(holding.segment, None)
        self.problem = None
        self.given_back += 1
        self.given_back_bytes += size
        metrics.GIVEN_BACK.inc()
        metrics.GIVEN_BACK_BYTES.inc(size)
        log.info("copy given back", extra={"segment": holding.segment.hex(), "length": size})

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            log.info("copy too many stays", extra={"reason": problem})
        self.problem = problem
