"""The rules of appending (2 to 5)."""

from __future__ import annotations

from typing import Any

from mailarray.journal.disk import SyncPoint
from mailarray.journal.member import Member
from mailarray.mirroring import segment as mirroring_segment
from mailarray.mirroring import writer
from mailarray.mirroring.segment import OpenSegment, SegmentFailed
from mailarray.tracking.receiving import Answer, Receiver
from tests.simulation.disk import ProcessDisk
from tests.simulation.planted.plants import Put, plant


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
            attempts = await commit(self, batch)
        finally:
            self._leave = leave
        if segment is not None:
            segment.failed = None
        return attempts

    put(writer, "MAX_ATTEMPTS", 1)
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
