"""What sidecars and access servers ask of the catalog, and what each call promises.

The numbers in brackets are rules of the journal (docs/formats/journal.md). Every call is one transaction.
Any call raises `CatalogUnavailable` when the database cannot be reached or does not answer in time: callers
keep going without it and try again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from mailarray.catalog.locate import Answer
from mailarray.catalog.missing import Missing
from mailarray.catalog.rows import (
    CatalogCounts,
    CatalogState,
    CheckIn,
    Duplicate,
    FlagRow,
    LookedAt,
    MailboxEntry,
    NamedSegments,
    NotRegistered,
    Registered,
    Registration,
    SealedRow,
    SegmentFacts,
    SegmentState,
    ShortSegment,
    ShortSegments,
    Superseded,
    TombstoneRow,
    VolumeRow,
    WaitsFor,
    WornSegment,
)
from mailarray.model.ids import IncarnationId, MessageId, PlacementId, SegmentId, VolumeId


class CatalogUnavailable(Exception):
    """The database is away; nothing was changed, or it is not known whether it was (all calls are idempotent)."""


class CatalogClosed(Exception):
    """The catalog was restored or rebuilt and has not heard from all volumes yet (rule 19): read as with it away."""


class EpochPassed(Exception):
    """The catalog was restored or reset since the caller checked in: what it proposes is void [10]. Ask again."""


class SealRefused(Exception):
    """A proposed length is below what was registered on the writer's acknowledgement (rule 14): raise an alarm."""


class Catalog(Protocol):
    """The catalog database, SQLite or PostgreSQL."""

    async def close(self) -> None:
        """Give connections back."""
        ...

    async def ping(self) -> None:
        """It answers; as cheap as can be."""
        ...

    # -- sidecars: who is there ----------------------------------------------------------------------
    async def check_in(
        self,
        volume: VolumeId,
        server: str,
        epoch: int,
        counter: int,
        serving: bool = True,
        counters: Mapping[VolumeId, int] | None = None,
        instead: Collection[VolumeId] = (),
    ) -> CheckIn:
        """Make the volume known; `epoch` and `counter` are what the sidecar remembers durably (0, 0 at first), and
        `counters` those of all volumes, as it heard them last in that epoch; None: they are neither compared nor told.

        When any is higher than the catalog's own, the catalog was restored: the epoch becomes one more than
        the highest seen, the catalog is closed to readers and UIDVALIDITY of all mailboxes is raised [19].
        Volumes of the same server that this one is there `instead` of are marked lost. Those are the ones that an
        earlier answer named as `beside` it, so the first word drives out nobody: it may come late, of a disk that was
        replaced meanwhile. A retired volume that is `serving` again is retired no longer.
        """
        ...

    async def caught_up(self, volume: VolumeId, epoch: int, expected: Iterable[VolumeId], copies: int) -> bool:
        """This volume has registered all that it holds in this epoch; answers whether the catalog is open.

        It opens when all of `expected` and all volumes it knows, but those of at most `copies` - 1 hosts (each lost
        and not yet repaired one counts as a host), have said so [19]. Retired volumes are not waited for, nor, when
        everybody has told all, the holders of what nobody holds any more: `missing` names it.
        """
        ...

    async def introduce(self, servers: Mapping[VolumeId, str]) -> None:
        """Volumes that some sidecar knew, and the server of each; those that the catalog knows, too, do not matter. One
        that is made known so has told nothing. It may be lost since: then the volume in its place will say so [19]."""
        ...

    async def mark_lost(self, volume: VolumeId) -> None:
        """For ever."""
        ...

    async def mark_retired(self, volume: VolumeId) -> None:
        """It was drained: everything it holds is on `copies` others. Undone when it checks in as serving."""
        ...

    async def volumes(self) -> list[VolumeRow]:
        """All volumes ever seen."""
        ...

    async def waits_for(self) -> WaitsFor | None:
        """None: it is open. The mirroring table may name further volumes; only sidecars know that."""
        ...

    async def beat(self, volume: VolumeId, incarnation: IncarnationId, worker: int, counter: int) -> None:
        """The writer lives [15]."""
        ...

    async def beats(self) -> dict[tuple[VolumeId, IncarnationId, int], int]:
        """All beats; observers watch by their own clock whether a counter moves."""
        ...

    # -- sidecars: segments ----------------------------------------------------------------------------
    async def segments(self, ids: Sequence[SegmentId]) -> dict[SegmentId, SegmentState]:
        """The rows of those segments that have one."""
        ...

    async def unsealed_segments(self, member: VolumeId) -> list[SegmentState]:
        """Those without a `sealed_length` that have this volume in their replica set, oldest row first [15].

        Not those that are superseded: a restored catalog may have such a row unsealed for ever, when all was dropped.
        """
        ...

    async def propose_seal(self, segment: SegmentFacts, length: int, epoch: int) -> int:
        """Compare-and-set of `sealed_length` NULL -> length; answers the L in force, the first one wins [8].

        A missing row is inserted with it. `epoch` is the one that the caller checked in with before it asked the
        members. Raises EpochPassed [10], SealRefused [14].
        """
        ...

    async def lower_seal(
        self, segment: SegmentId, sealed_length: int, length: int, asked: Collection[VolumeId]
    ) -> bool:
        """Rule 13: compare-and-set L from `sealed_length` to `length`; the same transaction removes locations past
        it (and messages with no location left) and sets the cursor back.

        False when L was another, or while a repaired copy is on a volume that is not lost and not among those that
        were `asked`: a retired one, or one that came meanwhile. It may be whole.
        """
        ...

    async def add_replica(self, segment: SegmentId, volume: VolumeId, length: int) -> bool:
        """This volume holds a whole copy up to L = `length`, durably; idempotent.

        False, and nothing changed, when the segment is not sealed with that L, is superseded, or the volume is lost
        or unknown. A copy on an original member needs no row.
        """
        ...

    async def surplus_segments(self, volume: VolumeId, counting: Collection[VolumeId]) -> list[ShortSegment]:
        """Sealed, registered segments, not superseded, that this volume holds as a repaired copy, and of which more of
        the `counting` volumes than `copies` hold one, oldest first. `holders` are those that count."""
        ...

    async def give_back(
        self, segment: SegmentId, volume: VolumeId, length: int, staying: Collection[VolumeId], epoch: int
    ) -> int | None:
        """This volume's repaired copy counts no more, as `staying` said that they hold it up to L = `length` [25].

        Answers the volume's counter as for a registration; from then on its bytes may go. None, and nothing changed,
        when the segment is not sealed with that L, not registered up to it, or superseded; when one of `staying` is no
        holder any more, lost or retired; when they are on fewer hosts than `copies`; when the copy had no row; or when
        the catalog is closed. One leaves a segment at a time. Raises EpochPassed.
        """
        ...

    async def replicas_on(self, volume: VolumeId) -> set[SegmentId]:
        """Sealed segments, not superseded, that have a row for a repaired copy on that volume."""
        ...

    async def forget_replicas(self, volume: VolumeId, segments: Collection[SegmentId]) -> None:
        """That volume has no repaired copies of those, whatever the rows say: they came back with a restore."""
        ...

    async def short_segments(self, counting: Collection[VolumeId], before: LookedAt | None = None) -> ShortSegments:
        """Sealed segments, not superseded, that those volumes hold on fewer hosts than their `copies`, oldest first.

        Without `before` it looks at every segment, some microseconds each. With what an earlier look at the same
        epoch and the same `counting` said, only at what may have changed; the answer is the same.
        """
        ...

    async def held_by_none_of(
        self, counting: Collection[VolumeId], others: Collection[VolumeId], before: LookedAt | None = None
    ) -> ShortSegments:
        """Sealed segments, not superseded, with more than one copy wanted, of which none of the `others` holds one.

        `holders` are those of `counting`; `before` as for `short_segments`, of a look with the same `others`.
        """
        ...

    async def named_segments(self, member: VolumeId, after: int = 0) -> NamedSegments:
        """Sealed segments, not superseded and not empty, whose replica set names that volume, whatever it holds.

        `after` is `reached` of an earlier look at the same epoch; rows up to there are left out.
        """
        ...

    async def register(self, volume: VolumeId, registration: Registration) -> Registered | NotRegistered:
        """Register a run of batches, rows and cursor in one transaction [16, 17, 18, 21].

        The cursor must be exactly `start`. A segment without a row gets one. A message id that is known already
        gets one more location and no second placement. UIDs of all mailboxes of the run are given out in this
        transaction, in the order of the records. A placement that a tombstone names is not made.
        """
        ...

    # -- sidecars: how full mailboxes are ----------------------------------------------------------------
    async def used(self, mailboxes: Collection[str]) -> dict[str, int | None]:
        """Bytes in those mailboxes that have a row; None: never counted. Raises CatalogClosed."""
        ...

    async def count_used(self, mailbox: str) -> int:
        """Count the bytes of one mailbox anew, and keep the sum; some microseconds a message."""
        ...

    # -- sidecars: second deliveries -----------------------------------------------------------------------
    async def owed_duplicates(self, volume: VolumeId, limit: int, first: PlacementId | None = None) -> list[Duplicate]:
        """Copies that this volume, or one that is lost or retired, found and has not settled: in the order of their
        placements, from `first` on."""
        ...

    async def settle_duplicate(self, placement: PlacementId, instead: PlacementId | None = None) -> None:
        """The copy has its tombstone, or is none. What waits to be compared with it, is compared with `instead`."""
        ...

    async def forget_fingerprints(self, before: int, window: int) -> None:
        """Of deliveries that were received before then, and cannot be repeated within the window (microseconds)."""
        ...

    # -- sidecars: compaction --------------------------------------------------------------------------
    async def worn_segments(self, volume: VolumeId, percent: int) -> list[WornSegment]:
        """Sealed, registered segments, not superseded, that this volume holds, and of which so much may be dead."""
        ...

    async def note_wear(self, segment: SegmentId, seen: int, dead: int) -> None:
        """Of so many bytes that were thought dead, so many are; nothing happens when others are thought dead now."""
        ...

    async def claim_compaction(self, segments: Sequence[SegmentId], volume: VolumeId) -> set[SegmentId]:
        """This volume wants to compact those; answers which it may, until it is lost or retired.

        It keeps two from doing the same work; when they do it all the same, nothing is lost.
        """
        ...

    async def tombstoned(self, records: Sequence[bytes]) -> set[PlacementId]:
        """The placements of those records that tombstones name [24]."""
        ...

    async def supersede(self, output: SegmentFacts, length: int, inputs: Sequence[SegmentId], epoch: int) -> bool:
        """The compacted segment `output` stands for `inputs` from now on: none of them registers any more [17, 23].

        The caller has proved that the output is held durably up to its closing record by all that must hold it. False,
        and nothing changed, when it is not sealed with that L, not registered up to it, or superseded itself. Raises
        EpochPassed.
        """
        ...

    async def superseded_since(self, number: int) -> list[Superseded]:
        """All that came after that one, in order."""
        ...

    async def stands_for(self, segments: Sequence[SegmentId]) -> dict[SegmentId, SegmentId]:
        """Of those that are superseded: the segment that stands for it now, which is not superseded itself."""
        ...

    async def forget_locations(self, segment: SegmentId, records: Sequence[tuple[MessageId, int]]) -> list[MessageId]:
        """Remove the locations of those messages in a superseded segment; idempotent [16].

        Each record comes with its count of placements. A message with no other location goes, if tombstones name all
        of its placements; the others stay as they are, and are answered: something is wrong then.
        """
        ...

    async def forgotten(self, segment: SegmentId) -> None:
        """A superseded segment has no locations any more: its cursor goes back to 0."""
        ...

    # -- access servers --------------------------------------------------------------------------------
    async def mailbox(self, address: str) -> list[MailboxEntry]:
        """All messages of a mailbox, by UID. Raises CatalogClosed. An unknown mailbox is an empty list."""
        ...

    async def expunge(self, tombstones: Sequence[TombstoneRow]) -> None:
        """Apply tombstones that a server has acknowledged, so that the next login sees it; idempotent [21]."""
        ...

    async def acquire_lease(self, mailbox: str, holder: str, seconds: float) -> bool:
        """Lock a mailbox, or renew one's own lock; False when another holder's lease runs.

        The database's clock counts.
        """
        ...

    async def release_lease(self, mailbox: str, holder: str) -> None:
        """Unlock; nothing happens when the lease is not ours."""
        ...

    async def messages_within(
        self, segment: SegmentId, start: int, end: int
    ) -> list[tuple[MessageId, tuple[str, ...]]]:
        """Messages whose first location is within these bytes, with the mailboxes that they are in. Scans."""
        ...

    # -- people ----------------------------------------------------------------------------------------
    async def missing(self) -> Missing:
        """Messages that no volume holds which is not lost. For a person; a scan of all messages when there are any."""
        ...

    async def locate(self, record: bytes) -> Answer:
        """Where a message lies, by its id or by the id of a record that placed it; also while closed. May scan."""
        ...

    async def counts(self) -> CatalogCounts:
        """Figures for status; may scan."""
        ...

    async def reset(self) -> int:
        """Drop all rows but volumes, leases and accounts, raise the epoch, close to readers; answers the new epoch.

        Volumes keep their counters and stay lost or retired, since no journal tells these again. Repaired copies
        are told again by the sidecars that hold them.
        """
        ...

    # -- backup and restore ----------------------------------------------------------------------------
    async def state(self) -> CatalogState:
        """Epoch, whether readers may use it, UIDVALIDITY."""
        ...

    async def segment_rows(self, after: int = 0) -> list[SealedRow]:
        """A page of all segments behind a row number, oldest row first; empty at the end."""
        ...

    async def mailbox_addresses(self, after: str = "") -> list[str]:
        """A page of all mailboxes behind an address, in order; empty at the end."""
        ...

    async def flags(self, after: tuple[int, int] = (0, 0)) -> list[FlagRow]:
        """A page of all placements with flags behind a row's key; empty at the end."""
        ...

    async def set_flags(self, rows: Sequence[FlagRow]) -> int:
        """Set the flags of those of the placements that there are; answers how many. Keys do not matter."""
        ...

    async def raise_uidvalidity(self, above: int) -> None:
        """Make UIDVALIDITY of all mailboxes, present and future ones, higher than that (RFC 9051 section 2.3.1.1)."""
        ...
