"""One member of a segment's replica set: the file on this volume, and what this volume promised about it.

Invariants (rules 3, 4, 5, 9, 11, 12):

- `length` is durable: every byte below it was covered by an fdatasync, and the file's name by a directory fsync,
  before `length` says so. It ends a batch.
- An offset never gets other bytes: bytes at or above `length` were never answered for, and come from the segment's
  one writer, which never composes two batches for one offset.
- After a failed write or sync the member is broken: it takes nothing more, and the call is not repeated.
- What a crash left is fdatasynced before it is offered or answered for; a torn tail is cut once, after the cut is
  durably noted.

Blocking calls; the owner runs them in a thread, one at a time for one member. The owner is the writer process for
its current segment, the sidecar for all others.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mailarray.journal.disk import SyncPoint
from mailarray.journal.fence import Fence, FenceAnswer, load_fence, save_fence
from mailarray.journal.format import FormatError, SegmentHeader
from mailarray.journal.scan import Damage, Survey, read_segment_header, survey
from mailarray.journal.volume import Volume
from mailarray.model.ids import SegmentId

COMPARE_CHUNK = 1024 * 1024  # bytes compared at a time


class FencedError(Exception):
    """The member was fenced: 423."""


class BrokenError(Exception):
    """A write or sync failed before: the member takes nothing more."""


class GapError(Exception):
    """The offset is past the durable length: 409."""


class ConflictError(Exception):
    """Other bytes stand at the offset: 409 and an alarm (rule 4)."""


class Member:
    """See the module."""

    def __init__(self, volume: Volume, segment: SegmentId, own: bool) -> None:
        self.volume = volume
        self.segment = segment
        self.header: SegmentHeader | None = None
        self.length = 0
        self.acknowledged = 0
        self.fence_state = Fence()
        self.broken: str | None = None
        self.damages: list[Damage] = []
        self._fd = -1
        self._batch_point = SyncPoint.OWN_BATCH if own else SyncPoint.MIRROR_BATCH
        self._name_point = SyncPoint.OWN_SEGMENT_NAME if own else SyncPoint.MIRROR_SEGMENT_NAME

    # -- opening -------------------------------------------------------------------------------------
    @classmethod
    def recover(cls, volume: Volume, segment: SegmentId, own: bool, limit: int | None = None) -> Member:
        """Open what is on the disk after a start, and make it durable before anyone hears of it.

        `limit` is the durable length that the living writer announced for a segment it left: up to there nothing has
        to be proved again, and what lies beyond was never durable, whatever the page cache says (rule 5). A sealed
        segment that was whole is not read through either. Raises VolumeError, OSError.
        """
        member = cls(volume, segment, own)
        member.fence_state = load_fence(volume, segment)
        path = volume.segment_path(segment)
        if not path.exists():
            if member.fence_state.fenced:  # the name may be new since a crash: durable before it is answered (rule 9)
                volume.disk.sync_directory(volume.segments, SyncPoint.RECOVERED)
            return member
        member._fd = fd = volume.disk.open(path)
        sealed = member.fence_state.sealed_length
        known = limit if sealed is None else sealed if member.fence_state.whole else None
        if known is not None and os.fstat(fd).st_size >= known:
            try:
                member.header = read_segment_header(fd)
                member.length = member.acknowledged = known
                if sealed is None:
                    member._cut_tail()
                return member
            except FormatError:
                pass  # surveyed below, which reports the damage
        found = survey(fd, segment, sealed_length=sealed, whole=member.fence_state.whole)
        volume.disk.sync(fd, SyncPoint.RECOVERED)
        volume.disk.sync_directory(volume.segments, SyncPoint.RECOVERED)
        member._adopt(found)
        return member

    def _adopt(self, found: Survey) -> None:
        self.header = found.header
        self.length = found.length
        self.acknowledged = min(found.acknowledged, self.length)
        self.damages = found.damages
        if self.fence_state.sealed_length is None:
            self._cut_tail()

    def _cut_tail(self) -> None:
        """What lies past the length goes, after it is durably noted that there was something (rule 11)."""
        if os.fstat(self._fd).st_size <= self.length:
            return
        if not self.fence_state.cut:
            try:
                self._promise(replace(self.fence_state, cut=True))
            except OSError as error:
                # A full disk: what is here is served all the same. Nothing is cut, nothing more is taken, and no fence
                # is answered before the note is on the disk, since every promise carries it.
                self.fence_state = replace(self.fence_state, cut=True)
                self.broken = f"a torn tail could not be noted: {error.strerror}"
                return
        if self.header is not None:  # a header that cannot be read may be another version's: left as it is
            self.volume.disk.truncate(self._fd, self.length)

    # -- appending -----------------------------------------------------------------------------------
    def check_append(self, offset: int) -> None:
        """Whether bytes at `offset` may come. Raises FencedError, BrokenError, GapError."""
        if self.fence_state.fenced:
            raise FencedError
        if self.broken is not None:
            raise BrokenError(self.broken)
        if offset > self.length:
            raise GapError

    def write(self, buffers: Sequence[bytes | memoryview], offset: int) -> None:
        """Write at or past `length`; promises nothing yet. Raises OSError, after which the member is broken."""
        try:
            if self._fd < 0:
                self._fd = self._create()
            self.volume.disk.write(self._fd, buffers, offset)
        except OSError as error:
            self.broken = f"a write failed: {error.strerror}"
            raise

    def commit(self, header: SegmentHeader, length: int, acknowledged: int) -> None:
        """Make everything below `length` durable, and only then say so. Raises OSError: broken."""
        try:
            self.volume.disk.sync(self._fd, self._batch_point)
            if self.length == 0:
                self.volume.disk.sync_directory(self.volume.segments, self._name_point)
        except OSError as error:
            self.broken = f"a sync failed: {error.strerror}"
            raise
        self.header = header
        self.length = length
        self.acknowledged = max(self.acknowledged, acknowledged)

    def append(self, header: SegmentHeader, buffers: Iterable[bytes], offset: int, end: int, acknowledged: int) -> None:
        """Write and commit in one go: the writer's own copy. Buffers may be made while they are written."""
        position = offset
        gathered: list[bytes] = []
        size = 0
        for buffer in buffers:
            gathered.append(buffer)
            size += len(buffer)
            if size >= COMPARE_CHUNK:
                self.write(gathered, position)
                position += size
                gathered, size = [], 0
        if gathered:
            self.write(gathered, position)
        self.commit(header, end, acknowledged)

    def same_bytes(self, offset: int, data: bytes) -> bool:
        """Whether these bytes already stand at `offset`."""
        return os.pread(self._fd, len(data), offset) == data

    def _create(self) -> int:
        path = self.volume.segment_path(self.segment)
        try:
            return self.volume.disk.create(path)
        except FileExistsError:
            return self.volume.disk.open(path)  # a first batch that never became durable

    # -- reading -------------------------------------------------------------------------------------
    @property
    def fd(self) -> int:
        """For pread; -1 while there is no file."""
        return self._fd

    @property
    def readable(self) -> int:
        """Bytes that may be offered: durable, and at most the remembered L (rules 12, 20)."""
        sealed = self.fence_state.sealed_length
        return self.length if sealed is None else min(self.length, sealed)

    # -- promising -----------------------------------------------------------------------------------
    def fence(self) -> FenceAnswer:
        """Take no more bytes, durably, and answer. Works without a file too: an empty fenced segment (rule 9)."""
        if not self.fence_state.fenced:
            self._promise(replace(self.fence_state, fenced=True))
        state = self.fence_state
        return FenceAnswer(self.volume.id, self.length, state.sealed_length, state.epoch, state.cut)

    def remember(self, sealed_length: int, epoch: int) -> None:
        """Remember L as the catalog holds it; it overrides what was remembered before (rules 10, 12).

        Called again when the member was filled up to L, to note that it is whole.
        """
        wanted = replace(
            self.fence_state,
            fenced=True,
            sealed_length=sealed_length,
            epoch=epoch,
            whole=self.length >= sealed_length and not self.damages,
        )
        if wanted != self.fence_state:
            self._promise(wanted)

    def note_counts(self) -> None:
        """This compacted segment stands for its inputs from now on (rule 23), whatever becomes of the catalog."""
        if not self.fence_state.counts:
            self._promise(replace(self.fence_state, counts=True))

    def drop(self) -> int:
        """Give up the bytes of a superseded segment, and answer how many they were. Close the member afterwards.

        The promise comes first: a power cut in between leaves a segment that a start removes, never one whose fence
        is gone, which would take bytes again. Raises OSError.
        """
        if not self.fence_state.dropped:
            self._promise(replace(self.fence_state, fenced=True, dropped=True))
        return remove_dropped(self.volume, self.segment)

    def give_back(self) -> int:
        """Give up the bytes of a repaired copy, promises and all, and answer how many. Close the member afterwards.

        No sync: a power cut may bring the bytes back, with the fence file or without, and then the copy is here again,
        whole as it was. Raises OSError when the bytes are still there; what fails behind that changes nothing.
        """
        path = self.volume.segment_path(self.segment)
        size = path.stat().st_size
        self.volume.disk.remove(path)
        with contextlib.suppress(OSError):
            self.volume.disk.remove(self.volume.fence_path(self.segment))
        return size

    def _promise(self, fence: Fence) -> None:
        save_fence(self.volume, self.segment, fence)
        self.fence_state = fence

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            self.volume.disk.close(self._fd)
            self._fd = -1


def remove_dropped(volume: Volume, segment: SegmentId) -> int:
    """Remove the bytes of a segment whose fence says `dropped`, durably; answers how many there were. Blocking."""
    path = volume.segment_path(segment)
    try:
        size = path.stat().st_size
        volume.disk.remove(path)
    except FileNotFoundError:
        return 0
    volume.disk.sync_directory(volume.segments, SyncPoint.DROPPED)
    return size
