"""Bugs planted on purpose: for each rule, production with that sentence left out. The simulation has to catch them.

A bug is a patch of one or two production methods, put in place after the world has put itself in the place of the
outside, and taken back with it. `hot` names events that are likelier in a world with that bug, so that a short run
meets it; nothing else of the world is different.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy

from mailarray.access import sidecars
from mailarray.catalog import registration as grounds
from mailarray.catalog import registration_sqlite, sealing, surplus, volumes
from mailarray.catalog.catalog import NotRegistered, TombstoneRow
from mailarray.journal import member
from mailarray.journal.disk import SyncPoint
from mailarray.journal.fence import Fence, FenceAnswer
from mailarray.journal.member import FencedError, Member
from mailarray.journal.volume import Volume
from mailarray.mirroring import segment as mirroring_segment
from mailarray.mirroring import writer
from mailarray.mirroring.segment import OpenSegment, SegmentFailed
from mailarray.tracking import compacting, giving_back, settling
from mailarray.tracking import sealing as tracking_sealing
from mailarray.tracking.compacting import Compactor
from mailarray.tracking.giving_back import Returner
from mailarray.tracking.peers import Peers
from mailarray.tracking.proof import Prover
from mailarray.tracking.receiving import Answer, Receiver
from mailarray.tracking.routes import Routes
from mailarray.tracking.sealing import Verdict
from mailarray.tracking.watching import SILENCE, Watch
from tests.simulation.disk import ProcessDisk
from tests.simulation.servers import Port

Put = Callable[[Any, str, Any], None]


@dataclass(frozen=True)
class Plant:
    """One bug."""

    rule: str
    sentence: str  # that is left out
    plant: Callable[[Put], None]
    hot: tuple[str, ...] = ()
    why_not: str = ""  # it cannot be caught: why


PLANTS: dict[str, Plant] = {}


def plant(name: str, rule: str, sentence: str, *hot: str, why_not: str = "") -> Callable[[Any], Any]:
    def add(patch: Callable[[Put], None]) -> Callable[[Put], None]:
        PLANTS[name] = Plant(rule, sentence, patch, hot, why_not)
        return patch

    return add


@contextmanager
def planted(name: str | None, *, hot_only: bool = False) -> Iterator[tuple[str, ...]]:
    """Put a bug in place, or none; yields the events that are hot."""
    saved: list[tuple[Any, str, Any]] = []

    def put(where: Any, attribute: str, value: Any) -> None:
        saved.append((where, attribute, where.__dict__[attribute]))
        setattr(where, attribute, value)

    bug = None if name is None else PLANTS[name]
    try:
        if bug is not None and not hot_only:
            bug.plant(put)
        yield () if bug is None else bug.hot
    finally:
        for where, attribute, value in reversed(saved):
            setattr(where, attribute, value)


# -- append --------------------------------------------------------------------------------------------
@plant("first-batch", "2!", "The first batch opens the segment", "die_in_a_step", "power_cut", why_not=(
    "a file with a header and no batch is a torn tail to every reader: it seals at 0 like one that never was"
))  # fmt: skip
def _first_batch(put: Put) -> None:
    append = OpenSegment._append_local

    def two_steps(self: Any, chunks: Any, offset: int, end: int) -> None:
        if offset == 0 and self.member.fd < 0:
            self.member.write([self.header.encode()], 0)
            self.member.volume.disk.sync(self.member.fd, SyncPoint.OWN_BATCH)
        append(self, chunks, offset, end)

    put(OpenSegment, "_append_local", two_steps)


@plant("every-member", "2", "250 when its batch is durable on every member", "cut_off", "partition")
def _every_member(put: Put) -> None:
    append = OpenSegment.append

    async def one_is_enough(self: Any, batch: Any) -> None:
        offset = self.acknowledged
        try:
            await append(self, batch)
        except SegmentFailed:
            if self.member.length <= offset:
                raise
            self.acknowledged, self.failed = self.member.length, None

    put(OpenSegment, "append", one_is_enough)


@plant("sync-first", "3", "a member answers a PUT only after fdatasync", "power_cut_of_all")
def _sync_first(put: Put) -> None:
    _without(put, SyncPoint.MIRROR_BATCH)


@plant("name-first", "3", "and, the first time, fsync of its directory", "power_cut_of_all")
def _name_first(put: Put) -> None:
    _without(put, SyncPoint.MIRROR_SEGMENT_NAME)


@plant("repeated-put", "3!", "a repeated PUT likewise, only after its bytes are durable", "repeated_put")
def _repeated_put(put: Put) -> None:
    take = Receiver.put

    async def from_the_page_cache(
        self: Any, segment: Any, offset: int, acknowledged: int, body: Any, length: int
    ) -> Answer:
        holding = self._shelf.holdings.get(segment)
        there = None if holding is None else holding.member
        if there is not None and there.fd >= 0 and length and there.same_bytes(offset, body):
            return Answer(200, {"length": offset + length})
        return await take(self, segment, offset, acknowledged, body, length)

    put(Receiver, "put", from_the_page_cache)


@plant("other-bytes", "4!", "an offset never gets other bytes", "partition", "cut_off")
def _other_bytes(put: Put) -> None:
    commit = writer.JournalWriter._commit

    async def same_segment_again(self: Any, batch: Any) -> Any:
        segment = self.segment
        leave = self._leave
        self._leave = lambda *_: None
        try:
            self_attempts = await commit_once(self, batch)
        finally:
            self._leave = leave
        if segment is not None:
            segment.failed = None
        return self_attempts

    async def commit_once(self: Any, batch: Any) -> Any:
        attempts, writer.MAX_ATTEMPTS = writer.MAX_ATTEMPTS, 1
        try:
            return await commit(self, batch)
        finally:
            writer.MAX_ATTEMPTS = attempts

    put(writer.JournalWriter, "_commit", same_segment_again)


@plant("failed-sync", "5", "after a failed write or fdatasync the call is never just repeated", "fail_disk")
def _failed_sync(put: Put) -> None:
    commit = Member.commit

    def again(self: Any, header: Any, length: int, acknowledged: int) -> None:
        try:
            commit(self, header, length, acknowledged)
        except OSError:
            self.broken = None
            commit(self, header, length, acknowledged)

    put(Member, "commit", again)


@plant("old-segment", "5!", "after a restart a server appends to none of its old segments", "kill", "die_in_a_step")
def _old_segment(put: Put) -> None:
    new = mirroring_segment.new_segment

    def old_or_new(volume: Any, incarnation: Any, worker: int, links: Any, copies: int, thread: Any, now: Any) -> Any:
        fresh = new(volume, incarnation, worker, links, copies, thread, now)
        for segment in reversed(volume.list_segments()):
            try:
                old = Member.recover(volume, segment, own=True)
            except OSError:
                continue
            header = old.header
            if header is None or header.writer != volume.id or old.fence_state.fenced or old.length == 0:
                old.close()
                continue
            if header.members[1:] == fresh.header.members[1:] and header.incarnation != incarnation:
                found = OpenSegment(old, header, links, thread, now)
                found.acknowledged = old.length
                return found
            old.close()
        return fresh

    put(writer, "new_segment", old_or_new)


# -- seal ----------------------------------------------------------------------------------------------
@plant("shortest", "8", "take the longest durable length among the answers as L", "kill", "die_in_a_step")
def _shortest(put: Put) -> None:
    decide = tracking_sealing.decide

    def shortest(members: Any, answers: Any, lost: Any) -> Verdict:
        verdict = decide(members, answers, lost)
        if verdict.length is None or any(a.sealed_length is not None for a in answers):
            return verdict
        return Verdict(min(a.length for a in answers if a.volume in members))

    put(tracking_sealing, "decide", shortest)


@plant("durable-fence", "9", "a fence is durable before it is answered", "stopped_writer")
def _durable_fence(put: Put) -> None:
    fence = Member.fence

    def in_memory(self: Any) -> FenceAnswer:
        if self.fence_state.fenced:
            return fence(self)
        self.fence_state = replace(self.fence_state, fenced=True)
        return fence(self)

    put(Member, "fence", in_memory)


@plant("writer-answers", "9!", "on its own volume the writer process answers, or its lock is held", "stopped_writer")
def _writer_answers(put: Put) -> None:
    @contextmanager
    def always(self: Volume) -> Iterator[bool]:
        yield True

    put(Volume, "writer_locked", always)


@plant("volume-id", "9!", "it names a volume id; another volume answers 'not a member', never 0", "wipe", "kill")
def _volume_id(put: Put) -> None:
    answer, fence = Routes._volume_request, Peers.fence

    async def any_volume(self: Any, request: Any, method: str, parts: list[str]) -> Any:
        return await answer(self, request, method, [self._volume, *parts[1:]])

    async def where_it_was(self: Any, volume: Any, segment: Any) -> FenceAnswer:
        if volume not in self._addresses:
            await self.refresh()
            for address in _last_addresses(volume):
                self._addresses.setdefault(volume, address)
        return await fence(self, volume, segment)

    put(Routes, "_volume_request", any_volume)
    put(Peers, "fence", where_it_was)


def _last_addresses(volume: Any) -> list[str]:
    """Where that volume was, whatever is there now."""
    known = Port.world.volumes.get(volume)
    return [] if known is None else [f"{known[1].name.partition('.')[0]}:1"]


@plant(
    "empty-fence",
    "9!",
    "a member without a file durably writes an empty fenced segment before it answers 0",
    "late_first_batch",
)
def _empty_fence(put: Put) -> None:
    fence = Member.fence

    def only_with_a_file(self: Any) -> FenceAnswer:
        if self.fd < 0 and not self.fence_state.fenced:
            return FenceAnswer(self.volume.id, 0, None, 0, False)
        return fence(self)

    put(Member, "fence", only_with_a_file)


@plant(
    "void-proposals", "10!", "proposals made before a catalog restore are void", "snapshot", "restore", "kill",
    why_not="every length that members answer covers what was acknowledged, whenever they were asked; what the "
    "sentence saves is mail that nobody was told of",
)  # fmt: skip
def _void_proposals(put: Put) -> None:
    propose = sealing.propose_seal

    def whenever(connection: Any, segment: Any, length: int, epoch: int) -> int:
        return propose(connection, segment, length, int(volumes._read_state(connection).epoch))

    put(sealing, "propose_seal", whenever)


@plant(
    "catalog-overrides",
    "10!",
    "an L that the catalog holds overrides a member's memory",
    "sealed_twice",
)
def _catalog_overrides(put: Put) -> None:
    remember = Member.remember

    def once(self: Any, sealed_length: int, epoch: int) -> None:
        known = self.fence_state.sealed_length
        remember(self, sealed_length if known is None else known, epoch)

    put(Member, "remember", once)


@plant(
    "cut-alone", "11", "the length of members that cut a tail seals only once every other one answered or is lost",
    "power_cut",
    why_not="what was cut was never durable there, so it was never acknowledged; the sentence is for a disk that lies",
)  # fmt: skip
def _cut_alone(put: Put) -> None:
    decide = tracking_sealing.decide

    def whoever(members: Any, answers: Any, lost: Any) -> Verdict:
        return decide(members, [replace(a, cut=False) for a in answers], lost)

    put(tracking_sealing, "decide", whoever)


@plant(
    "not-truncated",
    "12!",
    "what is past L is not truncated, so that a later answer stays true",
    "sealed_twice",
)
def _not_truncated(put: Put) -> None:
    remember = Member.remember

    def and_cut(self: Any, sealed_length: int, epoch: int) -> None:
        remember(self, sealed_length, epoch)
        if self.length > sealed_length and self.fd >= 0:
            self.volume.disk.truncate(self.fd, sealed_length)
            self.length = sealed_length

    put(Member, "remember", and_cut)


@plant(
    "lower-all",
    "13!",
    "the same transaction removes the locations past it and sets the cursor back",
    "lost_tail",
)
def _lower_all(put: Put) -> None:
    def only_the_length(connection: Any, segment: Any, sealed_length: int, length: int, asked: Any) -> bool:
        segments = sealing._segments
        changed = connection.execute(
            sqlalchemy.update(segments)
            .where(segments.c.id == segment, segments.c.sealed_length == sealed_length)
            .values(sealed_length=length)
        )
        return bool(changed.rowcount)

    put(sealing, "lower_seal", only_the_length)


@plant("direct-word", "15!", "and it had no direct word from the writer for T", "cut_from_database", "catalog_away")
def _direct_word(put: Put) -> None:
    silent = Watch.silent

    def by_beat_alone(self: Any, beat: Any, last_word: float) -> bool:
        return silent(self, beat, last_word - SILENCE)

    put(Watch, "silent", by_beat_alone)


# -- register ------------------------------------------------------------------------------------------
@plant(
    "second-sight",
    "16!",
    "a second sight of an id adds a location, never a second message",
    "partition",
    "deliver_through_two",
)
def _second_sight(put: Put) -> None:
    register, place = registration_sqlite.register, registration_sqlite._place
    every: list[Any] = []

    def remembering(db: Any, volume: Any, registration: Any) -> Any:
        every[:] = registration.messages
        return register(db, volume, registration)

    put(registration_sqlite, "register", remembering)
    put(registration_sqlite, "_place", lambda db, fresh, validity: place(db, list(every), validity))


@plant("second-location", "16!", "a second sight of an id adds a location", "compact", "roll_over")
def _second_location(put: Put) -> None:
    put(registration_sqlite, "_INSERT_LOCATION", "INSERT OR IGNORE INTO locations SELECT ?1, ?2, ?3 WHERE 0")


@plant(
    "ground",
    "17!",
    "its transaction refuses it when its ground is no longer the catalog's state",
    "late_registration",
)
def _ground(put: Put) -> None:
    refusal = grounds.refusal

    def cursor_only(ground: Any, volume: Any, registration: Any) -> NotRegistered | None:
        refused = refusal(ground, volume, registration)
        if refused is not None and ground.counter is not None and (ground.cursor or 0) == registration.start:
            return None
        return refused

    put(registration_sqlite, "refusal", cursor_only)


@plant("cursor", "18!", "the cursor is in the catalog, so a restored catalog registers again", "snapshot", "restore")
def _cursor(put: Put) -> None:
    def ever(self: Any) -> list[Any]:
        return [h for h in self._shelf if h.settled_epoch < 0 and h is not self._follower.current]

    put(settling.Settler, "unsettled", property(ever))


@plant(
    "closed",
    "19!",
    "a restored catalog is closed until all volumes but copies - 1 have registered everything",
    "snapshot",
    "restore",
    "drop_catalog",
    "read",
)
def _closed(put: Put) -> None:
    def raise_epoch(connection: Any, epoch: int) -> None:
        before(connection, epoch)
        connection.execute(sqlalchemy.update(volumes._state).values(open=True))

    before = volumes.raise_epoch
    put(volumes, "raise_epoch", raise_epoch)


@plant(
    "half-a-mailbox",
    "20",
    "without answers from all volumes but copies - 1, never half a mailbox",
    "catalog_away",
    "cut_off",
    "read",
)
def _half_a_mailbox(put: Put) -> None:
    put(sidecars, "missing_volumes", lambda *_: 0)


# -- delete --------------------------------------------------------------------------------------------
@plant(
    "unknown-ids",
    "21!",
    "the catalog keeps a tombstone also for ids it does not know yet",
    "expunge",
    "drop_catalog",
    "restore",
    "snapshot",
)
def _unknown_ids(put: Put) -> None:
    expunge = registration_sqlite.expunge

    def known_only(db: Any, tombstones: Any) -> None:
        def known(row: TombstoneRow) -> bool:
            return db.execute("SELECT 1 FROM messages WHERE id = ?", (row.message,)).fetchone() is not None

        expunge(db, [row for row in tombstones if known(row)])

    put(registration_sqlite, "expunge", known_only)


@plant(
    "every-registration", "21!", "and every registration checks it", "expunge", "drop_catalog", "restore", "snapshot"
)
def _every_registration(put: Put) -> None:
    put(registration_sqlite, "_dead", lambda db, messages: set())


# -- compact -------------------------------------------------------------------------------------------
@plant("every-holder", "23!", "every member holds it durably to there, and `copies` volumes do", "compact", "roll_over")
def _every_holder(put: Put) -> None:
    async def nothing(self: Any, row: Any, volumes: Any) -> None:
        return None

    put(Prover, "missing", nothing)


@plant("asked-directly", "23!", "each asked directly", "compact", "wipe", "fail_disk", "power_cut", "roll_over")
def _asked_directly(put: Put) -> None:
    async def as_the_catalog_says(self: Any, row: Any, volumes: Any) -> str | None:
        lost = {volume.id for volume in volumes if volume.lost}
        holders = {*row.facts.members, *row.replicas} - lost
        return None if row.sealed_length and len(holders) >= row.facts.copies else "too few"

    put(Prover, "missing", as_the_catalog_says)


@plant("unknown-records", "24!", "never because the catalog does not know it", "compact", "restore", "kill", why_not=(
    "touched are only segments that this epoch's open catalog has registered, looked at before and after: it knows them"
))  # fmt: skip
def _unknown_records(put: Put) -> None:
    def unknown(db: Any, records: list[bytes]) -> set[bytes]:
        return {
            record
            for record in records
            if not db.execute("SELECT 1 FROM placements WHERE record = ?", (record,)).fetchone()
        }

    _left_out(put, unknown)


@plant("known-elsewhere", "24!", "or knows it elsewhere", "compact", "repeated_put", "cut_off")
def _known_elsewhere(put: Put) -> None:
    def elsewhere(db: Any, records: list[bytes]) -> set[bytes]:
        return {
            record
            for record in records
            if db.execute("SELECT 1 FROM locations WHERE message = ?", (record,)).fetchone()
        }

    _left_out(put, elsewhere)


def _left_out(put: Put, which: Callable[[Any, list[bytes]], set[bytes]]) -> None:
    """Compaction leaves those out, too."""
    look_into = Compactor._look_into

    async def and_those(self: Any, segment: Any) -> Any:
        found = await look_into(self, segment)
        if found is None:
            return None
        assert found.holding.member is not None
        fd = os.dup(found.holding.member.fd)
        records = [id for id, _, _ in compacting._messages(found.holding, fd)]
        more = which(Port.world.database.raw, records)
        return replace(found, dead=found.dead | more)

    put(Compactor, "_look_into", and_those)


# -- give back -----------------------------------------------------------------------------------------
@plant("stayers", "25!", "those that stay were asked directly, and stand there still", "away_together", "catalog_bad")
def _stayers(put: Put) -> None:
    async def as_the_catalog_said(self: Any, one: Any, holding: Any) -> list[Any]:
        return [volume for volume in one.holders if volume != self._shelf.volume.id]

    def row_only(connection: Any, segment: Any, volume: Any, length: int, staying: Any, epoch: int) -> int:
        surplus.forget_replicas(connection, volume, [segment])
        return 0

    put(Returner, "_ask", as_the_catalog_said)
    put(surplus, "give_back", row_only)
    put(giving_back, "begins_after", lambda ranking, own, patience, full: patience if own in ranking else None)


def _without(put: Put, point: SyncPoint) -> None:
    sync, sync_directory = ProcessDisk.sync, ProcessDisk.sync_directory

    def some(self: Any, fd: int, why: SyncPoint) -> None:
        if why is not point:
            sync(self, fd, why)

    def some_names(self: Any, path: Any, why: SyncPoint) -> None:
        if why is not point:
            sync_directory(self, path, why)

    put(ProcessDisk, "sync", some)
    put(ProcessDisk, "sync_directory", some_names)


__all__ = ["PLANTS", "Fence", "FencedError", "Plant", "member", "planted"]
