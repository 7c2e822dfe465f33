"""Bringing segments that too few volumes hold back to their copies: repair, drain and rebuild are this one thing.

Every sidecar looks at the catalog every few seconds, or when the mirroring table changes, and fetches what it is the
target of (targets.py). Nobody leads, and nothing is remembered: what was begun before a restart is found again.

Invariants:

- Counted are only volumes of servers that the table has as Serving, those of one host once: so a draining server's
  segments are short from the moment it drains, and its copies go elsewhere while it still serves them.
- A member that has nothing of its segment fetches it at once: the catalog counts on it.
- A segment that is in one zone alone gets one copy more in another (spreading.py).
- A server that drains, or whose disk is below its reserve, fetches nothing for itself; the next target takes over.
- While the catalog is closed (restored, being told) copies may not be told yet: then nothing is fetched before
  CLOSED_SECONDS, since a copy too many costs disk, and one too few is what the closed catalog waits for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.catalog.rows import LookedAt, SegmentState, ShortSegment, VolumeRow
from mailarray.contract.mirroring_table import Server
from mailarray.journal.volume import VolumeError
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.copying import Copier, NoRoom, kept_free
from mailarray.tracking.losses import Losses
from mailarray.tracking.memory import CatalogMemory
from mailarray.tracking.pace import look_again_and_again
from mailarray.tracking.settling import segment_states
from mailarray.tracking.shelf import Shelf
from mailarray.tracking.spreading import Together
from mailarray.tracking.table import NewestTable
from mailarray.tracking.targets import begins_after, counting, held_on, order

log = logging.getLogger(__name__)

INTERVAL = 3.0  # seconds between two looks at the volumes, and at the segments while something is short
QUIET = 15.0  # seconds between two looks at the segments while nothing was short and no volume came or went
WHOLE = 300.0  # seconds between two looks at all segments; others see only what may have changed since the one before
DUTY = 0.05  # of the time may be spent on looks, which take long while very many segments are short
CLOSED_SECONDS = 30.0  # see the module
KEEP_PARTS = 60.0  # seconds that a part is kept which nobody wants: after a start the catalog may not know all yet
PARALLEL = 2  # copies under way at a time: one can read while the other one waits for its source


class Repairer:
    """See the module."""

    def __init__(
        self,
        shelf: Shelf,
        link: CatalogLink,
        memory: CatalogMemory,
        losses: Losses,
        copier: Copier,
        table: NewestTable,
        server: str,
        reserve: int,
    ) -> None:
        self._shelf = shelf
        self._link = link
        self._memory = memory
        self._losses = losses
        self._copier = copier
        self._table = table
        self._server = server
        self._reserve = reserve
        self.wake = asyncio.Event()
        self.copied: Callable[[], None] = lambda: None  # called after each copy, so that it is told to the catalog
        self.short: list[ShortSegment] = []  # as of the last look
        self.together = Together()  # segments that are in one zone alone; as of the last look
        self.lost: frozenset[VolumeId] = frozenset()  # volumes that the last whole look knew as lost
        self.problem: str | None = None  # why nothing is fetched that should be
        self.rows: list[VolumeRow] = []
        self._counted: tuple[frozenset[VolumeId], int] = (frozenset(), 0)  # and the epoch, of the last look
        self._before: LookedAt | None = None
        self._looked_at = self._whole_at = float("-inf")
        self._took = 0.0  # seconds, the last look
        self._owed: dict[SegmentId, SegmentState] = {}  # that name this volume, and are not here
        self._named_until = 0  # rows up to here were looked at for that
        self._unsealed = 0  # segments that a lost volume of this server was to hold: short as soon as they are sealed
        self._since: dict[SegmentId, float] = {}  # first seen short, by this process' monotonic clock
        self._unwanted: dict[SegmentId, float] = {}  # parts of copies, since when nobody wants them
        self._wanted: dict[SegmentId, ShortSegment] = {}
        self._work = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""

        def failed(error: Exception) -> None:
            log.error("repair failed", extra={"reason": str(error)})

        self._copier.forget([segment for segment in self._copier.leftovers() if self._shelf.holds(segment)])
        async with asyncio.TaskGroup() as group:
            for _ in range(PARALLEL):
                group.create_task(self._fetch_wanted())
            group.create_task(look_again_and_again(self.look, self._link, self.wake, INTERVAL, failed))

    async def look(self) -> None:
        """See what is short, and choose what is ours to fetch. Raises CatalogUnavailable."""
        state = self._link.state
        if state is None:
            return
        catalog = self._link.catalog
        self.rows = await catalog.volumes()
        await self._losses.remember(self.rows)
        servers = counting(self._table(), self.rows)
        now = time.monotonic()
        counted = frozenset(servers)
        same = (counted, state.epoch) == self._counted
        busy = self.short or self._owed or self._unsealed or self._memory.lost - self._memory.repaired
        if same and now - self._looked_at < max(self._took / DUTY, 0.0 if busy else QUIET):
            return
        anew = not same or now - self._whole_at >= WHOLE
        if anew:
            self._before, self._whole_at, self._named_until = None, now, 0
        all_told = await self._losses.all_told(self.rows, state.epoch)  # before the look that shall confirm it
        began = time.monotonic()
        unsealed = sum([len(await catalog.unsealed_segments(volume)) for volume in self._own_losses()])
        self.short, self._before = await catalog.short_segments(counted, self._before)
        await self.together.look(catalog, self._table(), self.rows, servers, anew)
        await self._look_for_owed()
        self._counted, self._looked_at, self._took = (counted, state.epoch), now, time.monotonic() - began
        self._unsealed = unsealed
        self.lost = frozenset(row.id for row in self.rows if row.lost)
        await self._losses.remember_repaired(self.short, state.epoch, all_told)
        self._since = {
            id: self._since.get(id, now) for id in (*(s.facts.id for s in self.short), *self.together.segments)
        }
        patience = 0.0 if state.open else CLOSED_SECONDS
        # In a thread: after the loss of a large volume these are some hundred thousand hashes.
        self._want(await self._shelf.run(lambda: self._choose(servers, now - patience)))
        self._forget_unwanted(now)

    async def _look_for_owed(self) -> None:
        """Segments that count on this volume, which has nothing of them: when its first batch did not get here, the
        others sealed what they had (rule 12). Raises CatalogUnavailable."""
        catalog = self._link.catalog
        ids, reached = await catalog.named_segments(self._shelf.volume.id, self._named_until)
        missing = [segment for segment in {*ids, *self._owed} if not self._shelf.holds(segment)]
        states = await segment_states(catalog, missing)
        self._owed, self._named_until = {}, reached  # not before: what an outage interrupts is looked at again
        for segment, state in states.items():
            if state.facts.writer == self._shelf.volume.id and segment not in self._shelf.holdings:
                self._shelf.adopt_left(segment)  # the own writer's, of which no word came: it is here after all
            if state.sealed_length and not state.superseded and not self._shelf.holds(segment):
                self._owed[segment] = state
                self._shelf.mirrored(segment).settled_epoch = -1

    def _forget_unwanted(self, now: float) -> None:
        """Parts of copies that an earlier run left, and nobody has wanted for a while."""
        wanted = self._since.keys() | self._owed.keys()
        parts = [segment for segment in self._copier.leftovers() if segment not in wanted]
        self._unwanted = {segment: self._unwanted.get(segment, now) for segment in parts}
        self._copier.forget([segment for segment, since in self._unwanted.items() if now - since >= KEEP_PARTS])

    def _choose(self, servers: Mapping[VolumeId, Server], now: float) -> dict[SegmentId, ShortSegment]:
        """Those of which this volume is a target whose time has come, or a member that has nothing."""
        own = self._shelf.volume.id
        if own not in servers:
            return {}
        owners = {row.id: row.server for row in self.rows if row.lost}
        chosen: dict[SegmentId, ShortSegment] = {}
        for short in self.short:
            facts = short.facts
            missing = facts.copies - held_on(short.holders, servers)
            rebuilding = {owners[member] for member in facts.members if member in owners}
            after = begins_after(order(facts.id, servers, short.holders, rebuilding, missing), own, missing)
            if after is not None and not self._shelf.holds(facts.id) and now - self._since[facts.id] >= after:
                chosen[facts.id] = short
        seconds = {id: now - since for id, since in self._since.items()}
        for short in self.together.to_fetch(servers, own, seconds):
            if not self._shelf.holds(short.facts.id):
                chosen.setdefault(short.facts.id, short)
        for segment, state in self._owed.items():
            others = (*state.facts.members, *state.replicas)
            first = tuple(volume for volume in others if volume in servers)
            chosen[segment] = ShortSegment(state.facts, state.sealed_length or 0, first, others)
        return chosen

    def _want(self, wanted: dict[SegmentId, ShortSegment]) -> None:
        free = self._shelf.volume.free_bytes()
        fitting = {id: s for id, s in wanted.items() if free >= kept_free(self._reserve, s.sealed_length)}
        if len(fitting) < len(wanted):
            self._complain(f"{len(wanted)} segments should be copied here, but the volume is full: enlarge it")
            wanted = fitting
        elif not wanted:
            self.problem = None
        self._wanted = wanted
        if wanted:
            self._work.set()

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("segments not copied", extra={"reason": problem})
        self.problem = problem

    async def _fetch_wanted(self) -> None:
        while True:
            await self._work.wait()
            short = next((s for id, s in self._wanted.items() if id not in self._copier.under_way), None)
            if short is None:
                self._work.clear()
                continue
            del self._wanted[short.facts.id]
            try:
                await self._fetch(short)
            except NoRoom as error:
                self._wanted = {}
                self._complain(str(error))
            except CatalogUnavailable as error:
                self._link.away(error)
            except (OSError, VolumeError) as error:
                self._complain(f"segment {short.facts.id.hex()} cannot be copied: {error}")

    def copy_told(self) -> None:
        """The catalog knows one more copy here: when it was the last that was wanted, see at once what is left."""
        if not self._wanted and not self._copier.under_way:
            self._looked_at = float("-inf")
            self.wake.set()

    async def _fetch(self, short: ShortSegment) -> None:
        lost = {row.id for row in self.rows if row.lost}
        own = self._shelf.volume.id
        first = list(short.holders)  # serving ones; then whoever may have it, a draining server above all
        every = [v for v in (*first, *short.everywhere) if v != own]
        sources = sorted(every, key=lost.__contains__)  # a lost one last: it may be back, and nobody else may have it
        if not sources:
            self._complain(f"segment {short.facts.id.hex()} is held by no server that can be asked")
        elif await self._copier.copy(short.facts, short.sealed_length, self._link.epoch, tuple(dict.fromkeys(sources))):
            self.problem = None
            self.copied()

    # -- what is told ------------------------------------------------------------------------------------
    def copying(self) -> dict[str, Any]:
        """For /v1/status: what this server has to fetch now."""
        under_way = self._copier.under_way
        waiting = [s for id, s in self._wanted.items() if id not in under_way]
        return {
            "segments_left": len(waiting) + len(under_way),
            "bytes_left": sum(s.sealed_length for s in waiting) + sum(under_way.values()),
            "problem": self.problem,
        }

    def rebuild(self) -> dict[str, Any] | None:
        """For /v1/status: how far this server has back what its lost volumes held; None when it lost none, or when
        the catalog has not been heard yet."""
        lost, own = self._own_losses(), self._shelf.volume.id
        if not lost or own not in self._counted[0]:
            return None
        here = {
            holding.header.segment: holding.readable
            for holding in self._shelf
            if holding.header is not None and holding.is_replica(own) and lost.intersection(holding.header.members)
        }
        under_way = self._copier.under_way
        short = [s for s in self.short if lost.intersection(s.facts.members)]
        missing = [s for s in short if s.facts.id not in here]
        left = [under_way.get(s.facts.id, s.sealed_length) for s in missing]
        return progress([*here.values(), *(s.sealed_length for s in missing)], left, not short and not self._unsealed)

    def _own_losses(self) -> set[VolumeId]:
        return {row.id for row in self.rows if row.lost and row.server == self._server}


def progress(total: Iterable[int], left: Iterable[int], done: bool) -> dict[str, Any]:
    """The shape of progress in /v1/status; both lists are bytes, one number a segment."""
    every, rest = list(total), list(left)
    return {
        "segments_total": len(every),
        "segments_left": len(rest),
        "bytes_total": sum(every),
        "bytes_left": sum(rest),
        "done": done,
    }
