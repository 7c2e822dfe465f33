"""What goes into the catalog and comes out of it: the shapes of `Catalog`'s arguments and answers. No behaviour.

Numbers in [] name the rules of docs/formats/journal.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mailarray.model.ids import IncarnationId, MessageId, PlacementId, SegmentId, VolumeId


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What a segment's header says; it never changes."""

    id: SegmentId
    writer: VolumeId
    incarnation: IncarnationId
    worker: int
    members: tuple[VolumeId, ...]  # the replica set, writer included
    copies: int  # wanted; more than len(members) means under-replicated


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A segment's row."""

    facts: SegmentFacts
    sealed_length: int | None  # L, None while unsealed
    cursor: int  # registered up to here
    acknowledged: int  # highest offset registered on the writer's own acknowledgement
    superseded: bool
    replicas: tuple[VolumeId, ...] = ()  # repaired copies beyond the members, on volumes neither lost nor retired


@dataclass(frozen=True, slots=True)
class ShortSegment:
    """A sealed segment that too few volumes hold."""

    facts: SegmentFacts
    sealed_length: int
    holders: tuple[VolumeId, ...]  # those that count
    everywhere: tuple[VolumeId, ...]  # all that may have it, to fetch it from: lost members and draining ones, too


class LookedAt(NamedTuple):
    """What a look for short segments had seen."""

    number: int  # rows up to here were sealed, so they change no more
    short: tuple[SegmentId, ...]  # but these, which are short until they are copied


class ShortSegments(NamedTuple):
    """What a look for short segments found."""

    short: list[ShortSegment]
    looked_at: LookedAt  # for the next look


class Superseded(NamedTuple):
    """A segment that a compacted one stands for."""

    number: int  # grows; ask for those above it the next time
    segment: SegmentId
    by: SegmentId


@dataclass(frozen=True, slots=True)
class WornSegment:
    """A sealed, registered segment of which much may be dead."""

    state: SegmentState
    dead: int  # bytes, a guess that is rather too high
    compactor: VolumeId | None  # who has taken it on


class NamedSegments(NamedTuple):
    """Sealed segments that name a volume as an original member."""

    ids: list[SegmentId]
    reached: int  # rows up to here were sealed, so they change no more: where the next look begins


class MessageRow(NamedTuple):
    """A journalled message, ready to be registered. `deliveries[i]` makes placement (id, i)."""

    id: MessageId
    received_at: int  # microseconds since 1970, UTC
    sender: str
    deliveries: Sequence[tuple[str, str]]  # (mailbox, recipient)
    offset: int  # of the body, in the segment
    length: int  # of the body
    checksum: int  # CRC-32C of the body
    fingerprint: bytes = b""  # of the text; empty: never taken for a copy of another one


class TombstoneRow(NamedTuple):
    """A journalled expunge of one placement (rule 21)."""

    placement: PlacementId
    message: MessageId
    mailbox: str


@dataclass(frozen=True, slots=True)
class Registration:
    """A run of whole batches of one segment, [start, end), with the ground on which it may be registered [17]."""

    segment: SegmentFacts
    epoch: int  # the catalog epoch that the caller checked in with
    start: int
    end: int
    sealed_length: int | None  # None: the writer's own sidecar, up to its acknowledged offset; else L = n
    messages: Sequence[MessageRow]
    tombstones: Sequence[TombstoneRow]
    duplicate_window: int = 0  # microseconds within which a second delivery is a copy; 0: none is looked for
    duplicates_since: int = 0  # microseconds since 1970: while the catalog is closed, none received before


@dataclass(frozen=True, slots=True)
class Registered:
    """Done, and durable. `counter` is the volume's count of registrations, which only grows [19]."""

    counter: int
    duplicates: int = 0  # copies found, whose tombstones this volume owes


@dataclass(frozen=True, slots=True)
class NotRegistered:
    """Nothing was changed: the ground no longer holds. `reason` is one of the words below."""

    reason: str  # "cursor" (go on from `cursor`), "sealed" (ask for L), "epoch" (check in again), "superseded"
    cursor: int


@dataclass(frozen=True, slots=True)
class CheckIn:
    """The catalog's state, as a sidecar hears it when it connects [19]."""

    epoch: int
    counter: int  # registrations of this volume
    open: bool  # readers may use the catalog
    counters: Mapping[VolumeId, int] | None = field(default=None, compare=False)  # of all volumes, when asked for
    beside: frozenset[VolumeId] = field(default=frozenset(), compare=False)  # not lost, and known for the same server


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A volume that the catalog knows."""

    id: VolumeId
    server: str
    lost: bool
    retired: bool = False  # drained on purpose: nothing waits for it, nothing counts on it


class WaitsFor(NamedTuple):
    """Why a catalog is closed to readers [19]; the hosts of at most `copies` - 1 of these may be missing."""

    silent: frozenset[VolumeId]  # in use, and have not told all that they hold in this epoch
    unrepaired: frozenset[VolumeId]  # lost, with segments that have too few copies
    unknown: frozenset[VolumeId]  # named by segments, never heard of


class Location(NamedTuple):
    """Where a body lies: the same bytes on every member."""

    segment: SegmentId
    offset: int
    length: int
    members: tuple[VolumeId, ...]  # and repaired copies behind them


class MailboxEntry(NamedTuple):
    """One message of a mailbox."""

    uid: int
    placement: PlacementId
    message: MessageId
    length: int  # bytes of the body
    checksum: int  # CRC-32C of the body
    received_at: int
    locations: tuple[Location, ...]


class CatalogState(NamedTuple):
    """The catalog itself."""

    epoch: int
    open: bool  # to readers
    uidvalidity: int  # the highest that any mailbox has


class SealedRow(NamedTuple):
    """A segment, for a backup."""

    number: int  # of the row
    id: SegmentId
    sealed_length: int | None  # None while unsealed
    superseded_by: SegmentId | None


class FlagRow(NamedTuple):
    """The flags of one placement; no journal holds them."""

    key: tuple[int, int]  # of the row, for the next page
    mailbox: str
    placement: PlacementId
    flags: int


@dataclass(frozen=True, slots=True)
class Held:
    """One of two messages that are the same delivery: where its body lies."""

    placement: PlacementId
    message: MessageId
    alive: bool  # the placement is there
    length: int
    checksum: int
    locations: tuple[Location, ...]  # none: the message is not known any more


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A copy that is to be dropped."""

    mailbox: str
    text_length: int  # bytes at the end of both bodies that must be the same
    dropped: Held
    kept: Held
    kept_expunged: bool  # before the copy was registered


@dataclass(frozen=True, slots=True)
class CatalogCounts:
    """For status and metrics."""

    messages: int
    placements: int
    segments: int
    unsealed_segments: int
    under_replicated_segments: int  # sealed ones on fewer hosts than copies, lost and retired volumes aside
    tombstones: int
    dead_bytes: int = 0  # of messages that were deleted in segments that stand; a guess that is rather too high
