"""Emptying a server: how far others hold what its volume holds, and the proof at the end.

The work is done by those others (repairing.py); this only looks, says, and in the end marks the volume as retired.

Invariants:

- `done` is said only when the writer is at rest, every segment here is sealed, registered and settled, and for each of
  them `copies` servers that the table has as Serving were asked directly, and each holds it durably up to L. The
  catalog alone proves nothing.
- A volume is retired only when that was proved; when mail comes to it all the same (a writer that started again with an
  older table), it is retired no longer, and the drain goes on.
- A copy that its holder is about to give back is not counted, and while this server drains it tells nobody that it
  stays: of two that leave, at most one counts on the other (rule 25).
- `done` is said only after the catalog has the volume as retired: whoever reads it may stop the server at once.
- A compacted segment of this volume must count before: later it would wait for this volume's word (rule 23).
- Nothing is removed here, ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.catalog.rows import SegmentState, VolumeRow
from mailarray.contract.mirroring_table import Server
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking import metrics
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.following import Follower
from mailarray.tracking.pace import look_again_and_again
from mailarray.tracking.peers import Peers, PeerUnreachable
from mailarray.tracking.repairing import progress
from mailarray.tracking.settling import Settler, segment_states
from mailarray.tracking.shelf import Holding, Shelf
from mailarray.tracking.table import NewestTable
from mailarray.tracking.targets import counting, held_on

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two looks

TO_HEAR = "the catalog is to hear that this volume is empty"

Proof = dict[SegmentId, tuple[int, frozenset[VolumeId]]]  # segment -> L and who should hold it


class Drainer:
    """See the module."""

    def __init__(
        self,
        shelf: Shelf,
        link: CatalogLink,
        peers: Peers,
        settler: Settler,
        follower: Follower,
        table: NewestTable,
        writer_address: str,
    ) -> None:
        self._shelf = shelf
        self._link = link
        self._peers = peers
        self._settler = settler
        self._follower = follower
        self._table = table
        self._writer = writer_address
        self.compacted: Callable[[], Sequence[Holding]] = lambda: ()  # segments that do not stand for their inputs yet
        self.wake = asyncio.Event()
        self.progress: dict[str, Any] | None = None  # for /v1/status; None: this server is not draining
        self._proved: Proof | None = None
        self._empty = False  # proved at the last look, whether or not the catalog has heard it

    def stays_retired(self) -> bool:
        """Whether a check-in leaves a retired volume retired: yes, until mail came to it or the table says Serving."""
        if self._table.draining:
            return self.progress is None or self._empty
        return not self._table.serving  # a table that does not name this server says nothing about its return

    async def run(self) -> None:
        """Until cancelled."""

        def failed(error: Exception) -> None:
            log.error("drain not looked at", extra={"reason": str(error)})

        await look_again_and_again(self.look, self._link, self.wake, INTERVAL, failed)

    async def look(self) -> None:
        """See what is left, and prove it when nothing is. Raises CatalogUnavailable."""
        if not self._table.draining:
            self.progress = self._proved = None
            self._empty = False
            metrics.DRAINING.set(0)
            metrics.DRAIN_BYTES_LEFT.set(0)
            return
        if self._link.state is None:
            return  # what was said last stays said
        waiting = await self._writer_problem()
        await self._find_unannounced()
        catalog = self._link.catalog
        rows = await catalog.volumes()
        counted = counting(self._table(), rows)
        states = await segment_states(catalog, [holding.segment for holding in self._shelf])
        unsettled = {holding.segment for holding in self._settler.unsettled}
        total: list[int] = []
        left: list[int] = []
        wanted: Proof = {}
        for holding in self._shelf:
            row = states.get(holding.segment)
            length = holding.readable if row is None or row.sealed_length is None else row.sealed_length
            if length == 0 and holding.segment not in unsettled:
                continue  # an empty fenced segment
            total.append(length)
            sealed = row is not None and row.sealed_length is not None
            # Nothing of it ever came here, and a draining server fetches nothing. Others have to hold it all the same.
            nothing_here = holding.facts is None and sealed
            problem = (holding.segment in unsettled and not nothing_here) or holding is self._follower.current
            if problem or row is None or row.sealed_length is None:
                waiting = waiting or f"segment {holding.segment.hex()} is not sealed and registered yet"
                left.append(length)
            elif row.sealed_length and not row.superseded:
                holders = frozenset(counted.keys() & {*row.facts.members, *row.replicas})
                if held_on(holders, counted) < row.facts.copies:
                    now, every = held_on(holders, counted), held_on(counted, counted)
                    waiting = waiting or _too_few(holding.segment, now, row.facts.copies, every)
                    left.append(length)
                else:
                    wanted[holding.segment] = (row.sealed_length, holders)
        for holding in self.compacted():
            if holding.own:
                waiting = waiting or f"compacted segment {holding.segment.hex()} does not stand for its inputs yet"
        if waiting is None and wanted != self._proved:
            waiting = await self._prove(wanted, states, counted)
            self._proved = wanted if waiting is None else None
        self._empty = waiting is None  # from here on no check-in says that it serves
        if waiting is None:
            try:
                if not await self._retire(rows):
                    waiting = TO_HEAR
            except CatalogUnavailable:
                self._say(total, left, TO_HEAR)
                raise
        self._say(total, left, waiting)

    async def _retire(self, rows: Sequence[VolumeRow]) -> bool:
        """Whether the catalog has this volume as retired; it is told when it has not. Raises CatalogUnavailable."""
        own, catalog = self._shelf.volume.id, self._link.catalog
        if any(row.retired for row in rows if row.id == own):
            return True
        await catalog.mark_retired(own)
        # A check-in that was on its way, and said that this server serves, may have undone it.
        return any(row.retired for row in await catalog.volumes() if row.id == own)

    def _say(self, total: list[int], left: list[int], waiting: str | None) -> None:
        done = waiting is None
        was_done = self.progress is not None and self.progress["done"]
        self.progress = {**progress(total, left, done), "waiting_for": waiting}
        metrics.DRAINING.set(not done)
        metrics.DRAIN_BYTES_LEFT.set(sum(left))
        if done and not was_done:
            log.info("server drained", extra={"segments": len(total), "bytes": sum(total)})

    async def _writer_problem(self) -> str | None:
        """Why the own writer may still append, or None: it says that it is at rest, or nobody has its lock."""
        try:
            said = await self._peers.status(self._writer)
        except PeerUnreachable as error:
            with self._shelf.volume.writer_locked() as locked:
                return None if locked else f"the writer does not answer: {error}"
        if not isinstance(said, dict) or not said.get("draining"):
            return "the writer has not heard yet that the server is draining"
        return None if said.get("at_rest") else "the writer is finishing what clients have begun"

    async def _find_unannounced(self) -> None:
        """Own segments of which no word of the writer arrived here: they count, too."""
        for segment in await self._shelf.run(self._shelf.volume.list_segments):
            self._shelf.adopt_left(segment)

    async def _prove(
        self, wanted: Proof, states: Mapping[SegmentId, SegmentState], counted: Mapping[VolumeId, Server]
    ) -> str | None:
        """Ask every holder what it holds; answers what is missing."""
        volumes = {volume for _, holders in wanted.values() for volume in holders}

        async def ask(volume: VolumeId) -> dict[SegmentId, int]:
            try:
                return await self._peers.held(volume, staying=True)
            except PeerUnreachable as error:
                log.info("holder not reached", extra={"holder": volume.hex(), "reason": str(error)})
                return {}

        held = dict(zip(volumes, await asyncio.gather(*map(ask, volumes)), strict=True))
        for segment, (length, holders) in wanted.items():
            confirmed = held_on((v for v in holders if held[v].get(segment, 0) >= length), counted)
            if confirmed < states[segment].facts.copies:
                return f"segment {segment.hex()}: only {confirmed} of its holders confirm that they have it"
        return None


def _too_few(segment: SegmentId, holders: int, copies: int, servers: int) -> str:
    if servers < copies:
        return f"{copies} copies need {copies} other serving servers, and there are {servers}: add servers"
    return f"segment {segment.hex()} is on {holders} of {copies} other servers"
