"""Reading a volume when nothing else runs: for `mailarray journal`, for rescue, and for the catalog's rebuild.

Refuses nothing: what can be read is given out, what cannot is named and stepped over (rule 11). Writes nothing to the
volume. A running writer may append meanwhile; what it has not finished looks like a torn tail.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailarray.journal.disk import Disk
from mailarray.journal.fence import load_fence
from mailarray.journal.format import Entry, FormatError, MessageEntry, SegmentHeader, TombstonesEntry, crc32c
from mailarray.journal.scan import Batch, Damage, Survey, find_batch, read_batch, read_segment_header, survey
from mailarray.journal.volume import Volume, VolumeError, read_volume
from mailarray.model.ids import MessageId, PlacementId, SegmentId

Skipped = Callable[[SegmentId, Damage], None]


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """One segment, every checksum checked."""

    segment: SegmentId
    survey: Survey
    sealed_length: int | None
    trouble: str = ""  # the file or its promises could not be read at all

    @property
    def sound(self) -> bool:
        """Nothing is damaged; a torn tail is no damage."""
        return not self.survey.damages and not self.trouble

    @property
    def missing(self) -> int:
        """Bytes below L that this member lacks; the sidecar fetches them."""
        return max(0, (self.sealed_length or 0) - self.survey.length)


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it stands in a segment."""

    header: SegmentHeader
    entry: Entry
    body_offset: int  # in the segment


def open_for_reading(path: Path) -> Volume:
    """A volume, without making or changing anything. Raises VolumeError."""
    return read_volume(path, Disk())


def verify(volume: Volume) -> Iterator[SegmentReport]:
    """Check every checksum of every segment."""
    for segment in volume.list_segments():
        try:
            fence = load_fence(volume, segment)
            if fence.dropped:
                continue  # superseded by a compacted segment
            sealed = fence.sealed_length
            fd = os.open(volume.segment_path(segment), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield SegmentReport(segment, Survey(), None)  # an empty fenced segment
            continue
        except (OSError, VolumeError) as error:
            yield SegmentReport(segment, Survey(), None, str(error))
            continue
        try:
            yield SegmentReport(segment, survey(fd, segment, sealed_length=sealed), sealed)
        except OSError as error:
            yield SegmentReport(segment, Survey(), sealed, f"it cannot be read: {error.strerror}")
        finally:
            os.close(fd)


def batches(volume: Volume, segment: SegmentId, skipped: Skipped) -> Iterator[tuple[SegmentHeader, Batch]]:
    """All batches of one segment whose metadata can be read, up to a remembered L; bodies are not checked."""
    try:
        fd = os.open(volume.segment_path(segment), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        size = os.fstat(fd).st_size
        sealed = load_fence(volume, segment).sealed_length
        limit = size if sealed is None else min(size, sealed)
        header = read_segment_header(fd)
        position = header.length
        while position < limit:
            try:
                batch = read_batch(fd, segment, position, limit)
            except FormatError as error:
                following = find_batch(fd, segment, position + 1, limit)
                if following is not None or sealed is not None:
                    skipped(segment, Damage(position, following or limit, str(error)))
                position = following or limit
                continue
            yield header, batch
            position = batch.header.end
    except (FormatError, VolumeError, OSError) as error:
        skipped(segment, Damage(0, 0, str(error)))
    finally:
        os.close(fd)


def records(volume: Volume, skipped: Skipped) -> Iterator[Record]:
    """All records of a volume, segment by segment."""
    for segment in volume.list_segments():
        for header, batch in batches(volume, segment, skipped):
            for entry in batch.entries:
                offset = entry.body_offset if isinstance(entry, MessageEntry) else 0
                yield Record(header, entry, batch.header.bodies_offset + offset)


def read_body(volume: Volume, record: Record) -> bytes:
    """A message's text. Raises FormatError when it is damaged, OSError when it cannot be read."""
    entry = record.entry
    assert isinstance(entry, MessageEntry)
    with volume.segment_path(record.header.segment).open("rb") as file:
        body = os.pread(file.fileno(), entry.body_length, record.body_offset)
    if len(body) != entry.body_length or crc32c(body) != entry.body_crc:
        raise FormatError(f"the body of message {entry.id.hex()} is damaged")
    return body


def find(volume: Volume, message: MessageId, skipped: Skipped) -> Iterator[Record]:
    """Every record of that id: the batch in flight may stand in two segments (rule 16)."""
    for record in records(volume, skipped):
        if record.entry.id == message and isinstance(record.entry, MessageEntry):
            yield record


@dataclass(slots=True)
class Exported:
    """What an export did."""

    messages: int = 0
    deliveries: int = 0
    deleted: int = 0
    damaged: int = 0


def export(volume: Volume, target: Path, skipped: Skipped, damaged: Callable[[MessageId, str], None]) -> Exported:
    """Write all mail as one Maildir a mailbox below `target`; expunged placements and second sights are left out.

    Goes on past damage and reports it. Raises OSError when the target cannot be written.
    """
    done = Exported()
    for entry, mailboxes, body in living([volume], skipped, damaged, done):
        for mailbox in mailboxes:
            _deliver(
                target / folder_name(mailbox), f"{entry.received_at // 1_000_000}.{entry.id.hex()}.mailarray", body
            )
    return done


def living(
    volumes: Sequence[Volume],
    skipped: Skipped,
    damaged: Callable[[MessageId, str], None],
    done: Exported,
    wanted: str | None = None,
) -> Iterator[tuple[MessageEntry, list[str], bytes]]:
    """Every message that is not deleted, once, with the mailboxes that it is in; one text at a time in memory.

    `wanted`: only what is in that mailbox. What is damaged on one volume is taken from another one.
    """
    dead = {
        tombstone.placement
        for volume in volumes
        for record in records(volume, lambda *_: None)
        if isinstance(record.entry, TombstonesEntry)
        for tombstone in record.entry.tombstones
    }
    seen: set[bytes] = set()
    bad: set[bytes] = set()
    for volume, record in ((v, record) for v in volumes for record in records(v, skipped)):
        entry = record.entry
        if not isinstance(entry, MessageEntry) or entry.id in seen:
            continue
        meant = [(i, d.mailbox) for i, d in enumerate(entry.deliveries) if wanted in (None, d.mailbox)]
        mailboxes = [mailbox for index, mailbox in meant if PlacementId(entry.id, index) not in dead]
        if not mailboxes:
            seen.add(entry.id)
            done.deleted += len(meant)
            continue
        try:
            body = read_body(volume, record)
        except (FormatError, OSError) as error:
            bad.add(entry.id)
            done.damaged = len(bad)
            damaged(entry.id, str(error))
            continue  # not seen: another segment may hold it whole
        seen.add(entry.id)
        bad.discard(entry.id)
        done.damaged = len(bad)
        done.deleted += len(meant) - len(mailboxes)
        done.messages += 1
        done.deliveries += len(mailboxes)
        yield entry, mailboxes, body


def folder_name(mailbox: str) -> str:
    """Of a mailbox in an export."""
    return mailbox.replace("/", "_").lstrip(".") or "_"


def _deliver(maildir: Path, name: str, body: bytes) -> None:
    for part in ("tmp", "new", "cur"):
        (maildir / part).mkdir(parents=True, exist_ok=True)
    temporary = maildir / "tmp" / name
    temporary.write_bytes(body)
    temporary.rename(maildir / "new" / name)
