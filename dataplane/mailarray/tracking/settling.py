"""Bringing every segment on this volume to rest: sealed, whole here, registered. One pass a second, or when told.

Invariants (rules 11 to 17, 19):

- At rest is what the catalog was seen to hold, not what it was just told: it may be restored to the moment before, and
  the next check-in is the first that can notice.
- A segment of a living writer is left alone until the writer has left it: its sidecar knows, mirrors hear no word.
- The L of the catalog is remembered durably before it is obeyed; this member fetches what it lacks.
- A repaired copy is told to the catalog in every epoch, and after every start, before it counts as at rest. It takes
  no part in agreeing on L; when no member does either, it proposes the L that it remembers and holds, nothing else.
- A compacted segment that counts is told as such in every epoch before it is at rest (rule 19); a superseded one is at
  rest as it is, and waits to be dropped.
- What the catalog says of repaired copies here that is not so is corrected before (replica_rows.py).
- When all is at rest in an epoch, and only then, this volume says so, which opens a rebuilt catalog to readers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from mailarray.catalog.catalog import Catalog, CatalogUnavailable
from mailarray.catalog.rows import SegmentFacts, SegmentState
from mailarray.contract.mirroring_table import MirroringTable
from mailarray.journal.fence import FenceAnswer
from mailarray.journal.format import SegmentHeader
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking import metrics
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.following import Follower
from mailarray.tracking.mending import Mender
from mailarray.tracking.pace import woken
from mailarray.tracking.peers import Peers, PeerUnreachable
from mailarray.tracking.receiving import Receiver
from mailarray.tracking.registering import DamagedRun, Registrar, read_run
from mailarray.tracking.replica_rows import ReplicaRows
from mailarray.tracking.sealing import Sealer
from mailarray.tracking.shelf import Holding, Shelf
from mailarray.tracking.superseding import Superseder
from mailarray.tracking.watching import Beat, Watch

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two passes
MIRROR_GRACE = 2.0  # seconds that a mirror leaves the registration of a sealed segment to its writer's sidecar
LEFT_SECONDS = 15.0  # without a word for a segment, after which a mirror takes it for left, also when its writer lives
REPLICA_GRACE = 5.0  # seconds that a repaired copy leaves the sealing of a segment to its members
SEEK_SECONDS = 15.0  # between two looks at the names of all segments, while no writer is heard
STATES_AT_ONCE = 500  # segments asked of the catalog in one call


async def segment_states(catalog: Catalog, segments: Sequence[SegmentId]) -> dict[SegmentId, SegmentState]:
    """Rows of any number of segments, in calls that do not take long. Raises CatalogUnavailable."""
    states: dict[SegmentId, SegmentState] = {}
    for first in range(0, len(segments), STATES_AT_ONCE):
        states |= await catalog.segments(segments[first : first + STATES_AT_ONCE])
    return states


class Settler:
    """See the module."""

    def __init__(
        self,
        shelf: Shelf,
        link: CatalogLink,
        follower: Follower,
        receiver: Receiver,
        registrar: Registrar,
        sealer: Sealer,
        mender: Mender,
        superseder: Superseder,
        peers: Peers,
        table: Callable[[], MirroringTable],
        copies: int,
        wake: asyncio.Event,
    ) -> None:
        self._shelf = shelf
        self._link = link
        self._follower = follower
        self._receiver = receiver
        self._registrar = registrar
        self._sealer = sealer
        self._mender = mender
        self._superseder = superseder
        self._peers = peers
        self._table = table
        self._copies = copies
        self._wake = wake
        self._watch = Watch(time.monotonic)
        self._sealed_since: dict[SegmentId, float] = {}
        self._unsealed_since: dict[SegmentId, float] = {}  # of repaired copies
        self._beat = 0
        self._sought_at = float("-inf")  # what a writer that is gone began, and this process never heard of
        self._began = time.monotonic()
        self.lost: set[VolumeId] = set()
        self.rows = ReplicaRows(shelf, link)
        self.copy_told: Callable[[], None] = lambda: None  # called when a repaired copy is at rest

    async def run(self) -> None:
        """Pass after pass, until cancelled."""
        while True:
            try:
                await self.one_pass()
            except CatalogUnavailable as error:
                self._link.away(error)
                self._watch.lost_sight()
            except OSError as error:
                log.error("pass failed", extra={"reason": str(error)})
            await woken(self._wake, INTERVAL)

    async def beat(self) -> None:
        """Tell the catalog that the own writer lives, every half second while it does (rule 15)."""
        while True:
            announcement = self._follower.announcement
            if announcement is not None and self._follower.writer_lives and self._link.up:
                self._beat += 1
                try:
                    await self._link.catalog.beat(
                        self._shelf.volume.id, announcement.incarnation, announcement.worker, self._beat
                    )
                except CatalogUnavailable as error:
                    self._link.away(error)
            await asyncio.sleep(0.5)

    @property
    def unsettled(self) -> list[Holding]:
        """Segments not at rest in the present epoch, the one being written aside."""
        state = self._link.state
        epoch = -2 if state is None else state.epoch
        return [h for h in self._shelf if h.settled_epoch != epoch and h is not self._follower.current]

    @property
    def lag_bytes(self) -> int:
        """Held here of own segments that the writer has left, and not registered, as far as is known. What another
        volume's writer wrote is counted there."""
        epoch = self._link.last_epoch
        lag = 0
        for holding in self._shelf:
            if holding.own and holding.member is not None and holding.settled_epoch != epoch:
                held = holding.member.length if holding.sealed_length is None else holding.sealed_length
                since, cursor = holding.registered
                lag += max(0, held - (cursor if since == epoch else 0))
        return lag

    @property
    def waiting(self) -> int:
        """How many of them wait for something: not the copies of a living writer that its sidecar registers."""
        epoch = None if self._link.state is None else self._link.state.epoch
        return sum(holding.followed_epoch != epoch for holding in self.unsettled)

    async def one_pass(self) -> None:
        """Look at everything that is not at rest. Raises CatalogUnavailable."""
        if not self._follower.writer_lives:
            await self._take_over_orphans()  # also with the catalog away: what they hold is to be offered (rule 20)
        state = await self._link.check_in()
        waiting = self.unsettled
        metrics.UNSETTLED.set(len(waiting))
        if waiting:
            catalog = self._link.catalog
            self.lost = {row.id for row in await catalog.volumes() if row.lost}
            self._watch.observe(await catalog.beats(), {b for h in waiting if (b := _beat_of(h)) is not None})
            for first in range(0, len(waiting), STATES_AT_ONCE):
                part = waiting[first : first + STATES_AT_ONCE]
                rows = await catalog.segments([holding.segment for holding in part])
                for holding in part:
                    if await self._settle(holding, rows.get(holding.segment), state.epoch):
                        holding.settled_epoch = state.epoch
                        self._sealed_since.pop(holding.segment, None)
                        self._unsealed_since.pop(holding.segment, None)
                        if holding.is_replica(self._shelf.volume.id):
                            self.copy_told()
        await self.rows.correct(state.epoch)
        if not state.open:
            await self._tell_caught_up(state.epoch)

    async def _take_over_orphans(self) -> None:
        """The writer is gone (its lock is free): its segments are ours to promise for."""
        unheard: list[SegmentHeader] = []
        if time.monotonic() - self._sought_at >= SEEK_SECONDS:
            unheard = await self._shelf.left_unheard()
            self._sought_at = time.monotonic()
        if not unheard and not self._orphans():
            return  # the lock is left alone: a writer may be about to start
        with self._shelf.volume.writer_locked() as locked:
            if not locked:
                return
            self._shelf.adopt_unheard(unheard)
            for holding in self._orphans():
                async with holding.turn:
                    if holding.member is None:
                        await self._shelf.recover(holding)
                if self._follower.current is holding:
                    self._follower.current = None

    def _orphans(self) -> list[Holding]:
        return [holding for holding in self._shelf if holding.own and holding.member is None]

    async def _settle(self, holding: Holding, row: SegmentState | None, epoch: int) -> bool:
        facts, member = holding.facts, holding.member
        if member is None:
            return False  # the writer's, or taken over just now: what is in it is not known yet
        if holding.leaving:
            return False  # told to nobody any more
        if facts is None:
            return await self._settle_empty(holding, row)
        if row is not None:
            if row.superseded:
                return True
            holding.registered = (epoch, row.cursor)
        replica = holding.is_replica(self._shelf.volume.id)
        sealed = None if row is None else row.sealed_length
        if sealed is None and replica:
            sealed = await self._seal_as_remembered(holding, facts)
            if sealed is None:
                return False
        if sealed is None:
            if not self._may_seal(holding):
                if (0 if row is None else row.cursor) >= holding.mark(epoch, member.acknowledged):
                    holding.followed_epoch = epoch
                return False
            holding.followed_epoch = -1  # nobody registers what it acknowledged since: it waits for its seal
            sealed = await self._sealer.seal(facts, self.lost)
            if sealed is None:
                return False
        length = sealed
        async with holding.turn:
            await self._shelf.run(lambda: member.remember(length, epoch))
        replicas = () if row is None else row.replicas
        whole = await self._mender.fill(holding, facts, length, replicas)
        if not whole and not replica and await self._lower(holding, facts, length, replicas):
            return False  # the next pass sees the new L
        if replica and whole and not await self._tell_replica(holding, length):
            return False
        registered = await self._register(holding, facts, row, min(length, member.length), length)
        if row is None or row.sealed_length is None:
            self._wake.set()
            return False
        return whole and registered and await self._superseder.tell(holding, facts, length, epoch)

    async def _settle_empty(self, holding: Holding, row: SegmentState | None) -> bool:
        """Fenced here before its first batch came, or never heard of: repairing.py fetches what the others have of it
        (rule 12). When they have nothing any more, L is lowered."""
        if row is None or not row.sealed_length or row.superseded or self._shelf.volume.id not in row.facts.members:
            return True  # nobody here can say more about it
        await self._lower(holding, row.facts, row.sealed_length, row.replicas)
        return False

    async def _seal_as_remembered(self, holding: Holding, facts: SegmentFacts) -> int | None:
        """A catalog that was restored knows no L, and no member told it yet: any L that was agreed once, and is held
        whole, covers everything that was acknowledged (rules 8, 10)."""
        since = self._unsealed_since.setdefault(holding.segment, time.monotonic())
        remembered, member = holding.sealed_length, holding.member
        assert member is not None
        if remembered is None or member.length < remembered or time.monotonic() - since < REPLICA_GRACE:
            return None
        return await self._sealer.propose(facts, remembered, self._link.epoch)

    async def _tell_replica(self, holding: Holding, sealed_length: int) -> bool:
        own = self._shelf.volume.id
        if await self._link.catalog.add_replica(holding.segment, own, sealed_length):
            return True
        rows = await self._link.catalog.segments([holding.segment])  # a lost volume's copy counts for nothing: at rest
        return own in self.lost or (holding.segment in rows and rows[holding.segment].superseded)

    def _may_seal(self, holding: Holding) -> bool:
        if holding.own:
            return True  # the writer has left it, else its member would not be here
        beat = _beat_of(holding)
        header = holding.header
        assert beat is not None and header is not None
        word = self._receiver.last_words.get(header.writer + header.incarnation, holding.last_word)
        if self._watch.silent(beat, word):
            return True
        # A living writer speaks for the segment that it writes, twice a second when it is idle. One that it has left
        # is sealed by its own sidecar, unless nothing of it is there: then nobody but its mirrors knows of it.
        return time.monotonic() - max(holding.last_word, self._began) >= LEFT_SECONDS

    async def _register(
        self, holding: Holding, facts: SegmentFacts, row: SegmentState | None, limit: int, sealed: int
    ) -> bool:
        cursor = 0 if row is None else row.cursor
        if cursor >= sealed:
            return True
        if not holding.own and not self._may_seal(holding):
            since = self._sealed_since.setdefault(holding.segment, time.monotonic())
            if time.monotonic() - since < MIRROR_GRACE:
                return False
        header = holding.header
        assert header is not None
        fd = holding.fd(self._shelf.volume)
        while cursor < limit:
            start = cursor
            try:
                run = await self._shelf.run(lambda at=start: read_run(fd, facts.id, header.length, at, limit))  # type: ignore[misc]
            except DamagedRun as error:
                log.error("segment damaged", extra={"segment": facts.id.hex(), "reason": str(error)})
                replicas = () if row is None else row.replicas
                if not await self._mender.mend(holding, facts, error.start, error.end, replicas):
                    return False
                continue
            refused = await self._registrar.register(facts, run, sealed)
            if refused is None:
                cursor = run.end
            elif refused.reason == "cursor" and refused.cursor > start:
                cursor = refused.cursor
            else:
                return refused.reason == "superseded"
            holding.registered = (holding.registered[0], cursor)
        return cursor >= sealed

    async def _lower(self, holding: Holding, facts: SegmentFacts, sealed: int, replicas: Sequence[VolumeId]) -> bool:
        """Rule 13: when all members were reached or are lost, and no volume, repaired copies too, holds up to L. Copies
        on retired volumes are not asked, since `replicas` leaves them out: the catalog refuses while there is one. A
        lost volume that is back may be the source of a copy, so answers may be too old: a copy that was told since is
        seen by the catalog, and none is made here while it is asked."""
        answers: list[FenceAnswer] = await self._sealer.ask_members(facts)
        reached = {answer.volume for answer in answers}
        if any(volume not in reached and volume not in self.lost for volume in facts.members) or not answers:
            return False
        longest = max(answer.length for answer in answers)
        for volume in replicas:
            try:
                longest = max(longest, (await self._peers.held(volume)).get(facts.id, 0))
            except PeerUnreachable:
                return False
        if longest >= sealed:
            return False
        async with holding.turn:
            if holding.member is None or holding.member.length > longest:
                return False  # fetched since it was asked
            if not await self._link.catalog.lower_seal(facts.id, sealed, longest, replicas):
                return False
        log.critical("sealed length lowered", extra={"segment": facts.id.hex(), "sealed_length": sealed, "to": longest})
        return True

    async def _tell_caught_up(self, epoch: int) -> None:
        # A segment that is being written is never at rest; it counts as told when what was acknowledged of it is.
        if any(holding.followed_epoch != epoch for holding in self.unsettled) or not self._follower.told(epoch):
            return
        volumes = await self._link.catalog.volumes()
        known = {row.server: row.id for row in volumes if not row.lost}
        lost = {row.server for row in volumes if row.lost}
        found = {name: volume for volume, name in (await self._peers.refresh()).items()}
        expected: set[VolumeId] = {self._shelf.volume.id}
        unknown: set[str] = set()  # hosts: what a volume of one holds is on another host, too
        for server in self._table().servers:
            volume = found.get(server.name) or known.get(server.name)
            if volume is not None:
                expected.add(volume)
            elif server.name not in lost:  # a lost volume counts by itself; one made since is named by headers
                unknown.add(server.host)
        for holding in self._shelf:
            if holding.header is not None:
                expected.update(holding.header.members)
        if len(unknown) <= self._copies - 1 and await self._link.catalog.caught_up(
            self._shelf.volume.id, epoch, expected, self._copies - len(unknown)
        ):
            log.info("catalog open to readers", extra={"epoch": epoch})


def _beat_of(holding: Holding) -> Beat | None:
    header = holding.header
    return None if header is None else (header.writer, header.incarnation, header.worker)
