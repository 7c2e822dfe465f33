"""Bringing back the space of expunged mail: worn segments are written anew without it (rules 22 to 24).

Nobody leads: every sidecar asks the catalog which of its segments are worn, and compacts those of which it is the first
holder (wear.py). What it writes is a sealed segment like any other, with this volume as its only member; the others
fetch their copies as they repair (repairing.py). It stands for its inputs once that is proved (superseding.py), and
then the inputs go (dropping.py). Nothing is remembered: what was begun before a restart is thrown away, or is whole.

Invariants:

- A record is left out only for tombstones that name every placement of it, as the catalog has them; never because the
  catalog does not know it, or knows it elsewhere !. Records of tombstones are always carried along.
- Touched are only segments that are sealed, whole and undamaged here, registered, on `copies` volumes, and superseded
  by nothing; and only while the catalog is open, in the epoch in which all that was seen, before and after the work.
- One at a time: the next begins when the one before counts. So a volume needs room for one segment, no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mailarray.catalog.rows import SegmentState, WornSegment
from mailarray.contract.settings import StorageSettings
from mailarray.journal.carried import Carried, UnknownRecord, carried
from mailarray.journal.format import KIND_MESSAGE, MAX_SUPERSEDED, FormatError, SegmentHeader, crc32c
from mailarray.journal.scan import read_frames
from mailarray.journal.volume import VolumeError
from mailarray.model.ids import PlacementId, SegmentId, new_incarnation_id, new_segment_id_beside
from mailarray.tracking import metrics
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.copying import Pace
from mailarray.tracking.output import Output, Source
from mailarray.tracking.pace import look_again_and_again
from mailarray.tracking.shelf import Holding, Shelf
from mailarray.tracking.superseding import Superseder
from mailarray.tracking.table import NewestTable
from mailarray.tracking.targets import counting
from mailarray.tracking.wear import Measured, begins_after, fit, is_taken, pays

log = logging.getLogger(__name__)

INTERVAL = 15.0  # seconds between two looks at what is worn
RECORDS_AT_ONCE = 1000  # in one batch, and asked of the catalog in one call
BATCH_BYTES = 8 * 1024 * 1024  # of bodies in one batch, as writers have it; one larger message is a batch of its own


@dataclass(frozen=True, slots=True)
class Input:
    """A segment that is to be compacted, and the records of it that are dead."""

    holding: Holding
    measured: Measured
    dead: frozenset[bytes]


class Compactor:
    """See the module."""

    def __init__(
        self,
        shelf: Shelf,
        link: CatalogLink,
        superseder: Superseder,
        table: NewestTable,
        storage: StorageSettings,
        pace: Pace,
        clock: Callable[[], float],
    ) -> None:
        self._shelf = shelf
        self._link = link
        self._superseder = superseder
        self._table = table
        self._storage = storage
        self._pace = pace
        self._clock = clock
        self._incarnation = new_incarnation_id()
        self._since: dict[SegmentId, float] = {}  # first seen worn
        self._measured: dict[SegmentId, tuple[int, Measured]] = {}  # with the guess of the catalog at that time
        self.dead_bytes = 0  # in segments that are this server's to compact, as the catalog guesses
        self.problem: str | None = None  # why nothing is compacted that should be
        self.published: Callable[[], None] = lambda: None  # called after each output, so that it is told to the catalog
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""

        def failed(error: Exception) -> None:
            self._complain(f"a segment cannot be compacted: {error}")

        await self._shelf.run(self._clear)
        await look_again_and_again(self.look, self._link, self.wake, INTERVAL, failed)

    def _clear(self) -> None:
        """What an earlier run did not finish."""
        volume = self._shelf.volume
        with contextlib.suppress(OSError, VolumeError):  # it costs room, and no more
            for segment in volume.list_outputs():
                volume.disk.remove(volume.output_path(segment))

    def status(self) -> dict[str, Any]:
        """For /v1/status."""
        return {
            "dead_bytes": self.dead_bytes,
            "pending": len(self._superseder.pending()),
            "problem": self.problem,
        }

    async def look(self) -> None:
        """Compact once, if there is something. Raises CatalogUnavailable, OSError, VolumeError."""
        state = self._link.state
        percent = self._storage.compact_percent
        if state is None or not state.open or percent >= 100:
            return
        catalog, own = self._link.catalog, self._shelf.volume.id
        counted = counting(self._table(), await catalog.volumes())
        if own not in counted:
            self._say(0)
            return
        worn = await catalog.worn_segments(own, percent)
        ours = self._ours(worn, counted, state.epoch)
        self._say(sum(one.dead for one in ours))
        if any(holding.own for holding in self._superseder.pending()) or self.dead_bytes < self._storage.compact_least:
            return
        inputs = await self._choose(ours)
        if inputs:
            await self.compact(inputs, state.epoch)

    def _ours(self, worn: Sequence[WornSegment], counted: Any, epoch: int) -> list[WornSegment]:
        """Those that are for this volume now."""
        own, now = self._shelf.volume.id, self._clock()
        self._since = {w.state.facts.id: self._since.get(w.state.facts.id, now) for w in worn}
        self._measured = {id: known for id, known in self._measured.items() if id in self._since}
        ours = []
        begun = {segment for holding in self._superseder.pending() for segment in holding.supersedes or ()}
        for one in worn:
            if one.state.facts.id in begun:
                continue  # what lives of it is in an output that does not count yet
            after = begins_after(one.state, counted, own)
            if after is None or now - self._since[one.state.facts.id] < after or is_taken(one, counted, own):
                continue
            if self._usable(one.state, epoch) is not None:
                ours.append(one)
        return ours

    def _usable(self, state: SegmentState, epoch: int) -> Holding | None:
        """The segment here, when it is at rest, whole and undamaged."""
        holding = self._shelf.holdings.get(state.facts.id)
        if holding is None or holding.member is None or holding.settled_epoch != epoch or state.superseded:
            return None
        member = holding.member
        whole = member.length == state.sealed_length == holding.sealed_length and not member.damages
        return holding if whole and holding.header is not None else None

    async def _choose(self, ours: Sequence[WornSegment]) -> list[Input]:
        """Look into them, oldest first, until there is enough for one segment; none when it does not pay."""
        storage = self._storage
        percent, least = storage.compact_percent, storage.compact_least
        room = self._shelf.volume.free_bytes() - storage.reserve // 2  # below the reserve, too: this is what frees room
        measured: list[Measured] = []
        chosen: list[Measured] = []
        for one in ours:
            found = await self._measure(one)
            if found is not None:
                measured.append(found)
            chosen = fit(measured, percent, storage.segment_size, room)
            if sum(m.live for m in chosen) >= storage.segment_size:
                break
        if not chosen and any(one.worn(percent) for one in measured):
            self._complain("the volume is too full to write what is left of a worn segment: enlarge it")
        if not pays(chosen, least):
            return []
        own = self._shelf.volume.id
        claimed = await self._link.catalog.claim_compaction([one.segment for one in chosen], own)
        inputs = [await self._look_into(one.segment) for one in chosen if one.segment in claimed]
        worth = [one for one in inputs if one is not None]
        return worth if pays([one.measured for one in worth], least) else []

    async def _measure(self, worn: WornSegment) -> Measured | None:
        """How much is dead in it; asked again only when the catalog guesses otherwise than before."""
        segment = worn.state.facts.id
        known = self._measured.get(segment)
        if known is not None and known[0] == worn.dead:
            return known[1]
        found = await self._look_into(segment)
        if found is None:
            return None
        dead = found.measured.dead
        if dead < worn.dead:  # a guess is rather too high: the next look, and other servers, know better
            await self._link.catalog.note_wear(segment, worn.dead, dead)
        self._measured[segment] = (min(worn.dead, dead), found.measured)
        return found.measured

    async def _look_into(self, segment: SegmentId) -> Input | None:
        """What is dead in it, by the tombstones that the catalog has now (rule 24)."""
        holding = self._shelf.holdings.get(segment)
        if holding is None or holding.member is None or holding.member.fd < 0:
            return None
        fd = os.dup(holding.member.fd)  # it may be dropped meanwhile
        try:
            messages = await self._shelf.run(lambda: _messages(holding, fd))
        except (FormatError, UnknownRecord) as error:
            log.warning("segment not compacted", extra={"segment": segment.hex(), "reason": str(error)})
            return None
        dead: set[bytes] = set()
        for start in range(0, len(messages), RECORDS_AT_ONCE):
            piece = messages[start : start + RECORDS_AT_ONCE]
            buried = await self._link.catalog.tombstoned([id for id, _, _ in piece])
            dead.update(id for id, placements, _ in piece if is_dead(id, placements, buried))
        size = sum(size for id, _, size in messages if id in dead)
        length = holding.readable
        return Input(holding, Measured(segment, length, length - size, size), frozenset(dead))

    async def compact(self, inputs: Sequence[Input], epoch: int) -> SegmentId | None:
        """Write what lives of them into one segment, and offer it; None when something was in the way. Raises
        CatalogUnavailable, OSError."""
        own, volume = self._shelf.volume.id, self._shelf.volume
        headers = [one.holding.header for one in inputs]
        copies = max(header.copies for header in headers if header is not None)
        supersedes = await self._superseded_by(inputs)
        if len(supersedes) > MAX_SUPERSEDED:
            return None
        first = min(one.measured.segment for one in inputs)
        header = SegmentHeader(
            new_segment_id_beside(first), own, self._incarnation, 0, time.time_ns() // 1000, copies, (own,)
        )
        started = self._clock()
        output = await self._shelf.run(lambda: Output(volume, header))
        try:
            batches = _batches([(one, output.take_input(_fd_of(one))) for one in inputs])
            while batch := await self._shelf.run(lambda: output.next_of(batches)):
                size = sum(record.body_length + len(record.raw) for record, _ in batch)
                await self._pace.take(2 * size)  # read and written
                await self._shelf.run(lambda batch=batch: output.add(batch))  # type: ignore[misc]
            await self._shelf.run(lambda: output.end(supersedes))
            problem = await self._shelf.run(lambda: output.problem(supersedes)) or await self._objection(inputs, epoch)
            if problem is None:
                await self._shelf.run(lambda: output.finish(epoch))
        except (FormatError, UnknownRecord) as error:
            problem = str(error)
        finally:
            await asyncio.shield(self._shelf.run(output.close))
        if problem is not None:
            self._complain(f"a compaction was given up: {problem}")
            return None
        holding = await self._shelf.adopt_copy(header.segment)
        holding.supersedes = supersedes
        self.problem = None
        metrics.COMPACTED.inc(len(inputs))
        log.info(
            "segments compacted",
            extra={
                "segment": header.segment.hex(),
                "inputs": [one.measured.segment.hex() for one in inputs],
                "length": output.size,
                "dead": sum(one.measured.dead for one in inputs),
                "seconds": round(self._clock() - started, 3),
            },
        )
        self.published()
        return header.segment

    async def _superseded_by(self, inputs: Sequence[Input]) -> tuple[SegmentId, ...]:
        """The inputs, and what each of them stands for (rule 23)."""
        named: dict[SegmentId, None] = {}
        for one in inputs:
            named[one.measured.segment] = None
            named.update(dict.fromkeys(await self._shelf.supersedes(one.holding)))
        return tuple(named)

    async def _objection(self, inputs: Sequence[Input], epoch: int) -> str | None:
        """Why what was written may not be offered: the world has changed meanwhile."""
        state = self._link.state
        if state is None or state.epoch != epoch or not state.open:
            return "the catalog was away or restored meanwhile"
        rows = await self._link.catalog.segments([one.measured.segment for one in inputs])
        for one in inputs:
            row = rows.get(one.measured.segment)
            if row is None or row.superseded or row.sealed_length != one.measured.length:
                return f"segment {one.measured.segment.hex()} was superseded or sealed otherwise meanwhile"
        return None

    def _say(self, dead_bytes: int) -> None:
        self.dead_bytes = dead_bytes
        metrics.DEAD_BYTES.set(dead_bytes)

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("segments not compacted", extra={"reason": problem})
        self.problem = problem


def is_dead(record: bytes, placements: int, buried: Collection[PlacementId]) -> bool:
    """Whether tombstones name every placement of a message (rule 24). One that was never placed anywhere is not."""
    return placements > 0 and all(PlacementId(record, index) in buried for index in range(placements))


def _fd_of(one: Input) -> int:
    member = one.holding.member
    assert member is not None
    return member.fd


def _messages(holding: Holding, fd: int) -> list[tuple[bytes, int, int]]:
    """Id, placements and bytes of every message. Closes the descriptor. Raises FormatError, UnknownRecord."""
    try:
        return [
            (record.id, record.placements, record.body_length + len(record.raw))
            for record in _records(holding, fd)
            if record.kind == KIND_MESSAGE
        ]
    finally:
        os.close(fd)


def _records(holding: Holding, fd: int) -> Iterator[Carried]:
    """All records of a segment up to L. Raises FormatError, UnknownRecord."""
    assert holding.header is not None
    for frame, metadata in read_frames(fd, holding.segment, holding.header.length, holding.readable):
        yield from carried(metadata, frame)


def _batches(inputs: Sequence[tuple[Input, int]]) -> Iterator[list[Source]]:
    """What lives, oldest segment first, each record once: the batch in flight may stand in two inputs (rule 16)."""
    batch: list[Source] = []
    size = 0
    seen: dict[bytes, tuple[int, int]] = {}
    for one, fd in sorted(inputs, key=lambda pair: pair[0].measured.segment):
        for record in _records(one.holding, fd):
            if record.kind == KIND_MESSAGE and record.id in one.dead:
                continue
            mark = (record.body_crc, crc32c(record.moved(0)))
            if seen.get(record.id) == mark:
                continue
            seen[record.id] = mark
            batch.append((record, fd))
            size += record.body_length
            if size >= BATCH_BYTES or len(batch) >= RECORDS_AT_ONCE:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
