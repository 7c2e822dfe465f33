"""From a backup into an empty array: mail, flags and accounts are there again, under the same unique ids.

What a restore is under the rules of the journal: the volumes of the array are new ones, and those that the segments'
headers name are gone for ever. So every segment becomes a repaired copy on `copies` servers (docs/formats/journal.md,
"Replicas beyond the members"), its old members are marked lost, and the sidecars seal and register it as they do after
any loss of the catalog (rules 8, 10, 16 to 18). Placement ids, and with them POP3's unique ids, stay; UIDVALIDITY is
raised above what it was (rule 19), since UIDs are given out again.

Invariants:
- An array that holds other mail is refused, unless the caller says otherwise.
- Order: mail, then flags, then accounts. Before its account is there nobody can log in to half a mailbox.
- It ends only when the catalog says that every segment is registered, and held by as many servers as there are copies,
  and is open to readers.
- It may be run again after an interruption: what is there already is not brought again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from mailarray.backup.accounts import read_accounts
from mailarray.backup.keeping import fetch_part, fetch_segment
from mailarray.backup.manifest import Manifest, StoredSegment
from mailarray.backup.running import Listing, RunningArray
from mailarray.backup.source import SourceError
from mailarray.backup.store import Store, TargetError
from mailarray.backup.taking import run_all
from mailarray.catalog.catalog import Catalog
from mailarray.catalog.rows import FlagRow, SegmentState
from mailarray.contract.mirroring_table import Server
from mailarray.directory.database.changes import Counts, Wanted
from mailarray.journal.scan import read_segment_header
from mailarray.model.ids import PlacementId, SegmentId, VolumeId
from mailarray.tracking.targets import counting, held_on, order

PARALLEL = 3  # segments under way
LOOK_SECONDS = 0.5  # between two looks at what is registered
STALL_SECONDS = 120.0  # without a segment coming to rest, before it is given up
ASKED_AT_ONCE = 500  # segments in one question to the catalog
ACCOUNTS_AT_ONCE = 1000

T = TypeVar("T")
Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


class AccountsTarget(Protocol):
    """Where accounts are written to: `mailarray account`'s own targets."""

    def put(self, batch: Sequence[Wanted]) -> Counts: ...


@dataclass(slots=True)
class Restored:
    """What a restore did."""

    segments: int = 0
    bytes: int = 0
    flags: int = 0
    accounts: int = 0
    notes: list[str] = field(default_factory=list)  # sentences


class NotEmpty(Exception):
    """The array holds mail; one sentence."""


def refusal(listing: Listing, backup: Manifest) -> str | None:
    """Why that array is not one to restore into, or None. What an interrupted restore brought is no reason."""
    brought = {stored.segment for stored in backup.segments}
    for rows in listing.values():
        for segment, row in rows.items():
            if row.length and not (segment in brought and row.replica):
                return (
                    f"the array holds mail already (segment {segment.hex()}): restore into an empty one, "
                    "or add the backup's mail to what is there with --add"
                )
    return None


async def restore(
    store: Store,
    backup: Manifest,
    array: RunningArray,
    catalog: Catalog,
    scratch: Path,
    progress: Progress,
    accounts: AccountsTarget | None,
    *,
    add: bool = False,
) -> Restored:
    """Restore everything. Raises NotEmpty, TargetError, SourceError, CatalogUnavailable, AccountsError."""
    done = Restored()
    listing = await array.listing()
    reason = None if add else refusal(listing, backup)
    if reason is not None:
        raise NotEmpty(reason)
    if backup.uidvalidity is not None:
        await catalog.raise_uidvalidity(backup.uidvalidity)
    servers = counting(array.table, await catalog.volumes())
    servers = {volume: server for volume, server in servers.items() if volume in listing}
    if not servers:
        raise SourceError("no server of the array has reached the catalog yet; wait until `mailarray status` is ready")
    bringer = _Bringer(store, array, catalog, scratch, servers, listing, progress)
    await bringer.bring(backup.segments)
    await _until_at_rest(catalog, backup.segments, bringer.copies, progress)
    done.segments, done.bytes = len(backup.segments), backup.size
    if backup.flags is not None:
        done.flags = await _restore_flags(store, backup, catalog, scratch)
    if backup.accounts is not None and accounts is not None:
        done.accounts = await _restore_accounts(store, backup, accounts, scratch, done.notes, progress)
    if backup.missing:
        done.notes.append(
            f"{len(backup.missing)} segments were missing in the backup already: {backup.name} names them"
        )
    return done


class _Bringer:
    """Brings segments to servers."""

    def __init__(
        self,
        store: Store,
        array: RunningArray,
        catalog: Catalog,
        scratch: Path,
        servers: dict[VolumeId, Server],
        listing: Listing,
        progress: Progress,
    ) -> None:
        self._store = store
        self._array = array
        self._catalog = catalog
        self._scratch = scratch
        self._servers = servers
        self._listing = listing
        self._progress = progress
        self._gone: set[VolumeId] = set()
        self.copies: dict[SegmentId, int] = {}  # servers that are to hold it

    async def bring(self, segments: Sequence[StoredSegment]) -> None:
        """All of them, oldest first. Raises TargetError, SourceError, CatalogUnavailable."""
        total, done = sum(stored.length for stored in segments), 0
        left = iter(segments)

        async def work(number: int) -> None:
            nonlocal done
            for stored in left:
                await self._bring_one(stored, self._scratch / f"segment-{number}")
                done += stored.length
                self._progress("restoring", done, total)

        await run_all([work(number) for number in range(PARALLEL)])

    async def _bring_one(self, stored: StoredSegment, file: Path) -> None:
        try:
            try:
                await fetch_segment(self._store, stored, file)
                with file.open("rb") as opened:
                    header = read_segment_header(opened.fileno())
            except OSError as error:
                raise TargetError(
                    f"{file.parent} cannot be written: {error.strerror}; give another --scratch"
                ) from None
            await self._mark_gone(header.members)
            wanted = self.copies[stored.segment] = min(max(1, header.copies), held_on(self._servers, self._servers))
            having = {
                volume
                for volume, rows in self._listing.items()
                if stored.segment in rows
                and rows[stored.segment].sealed_length == stored.length
                and rows[stored.segment].length == stored.length
                and volume in self._servers
            }
            missing, reasons = wanted - held_on(having, self._servers), []
            brought: set[str] = set()  # to which hosts: one copy each
            for volume in order(stored.segment, self._servers, having, (), max(0, missing)):
                if missing <= 0:
                    break
                if self._servers[volume].host in brought:
                    continue
                try:
                    await self._array.bring(volume, stored.segment, stored.length, file)
                    missing -= 1
                    brought.add(self._servers[volume].host)
                except SourceError as error:  # full, stopping, or repair was faster: the next one takes it
                    reasons.append(str(error))
            if missing >= wanted:
                raise SourceError("; ".join(reasons))
        finally:
            file.unlink(missing_ok=True)

    async def _mark_gone(self, members: Sequence[VolumeId]) -> None:
        """The volumes of the array that was: nobody is to wait for them."""
        for volume in members:
            if volume not in self._gone and volume not in self._listing:
                self._gone.add(volume)
                await self._catalog.mark_lost(volume)


async def _until_at_rest(
    catalog: Catalog, segments: Sequence[StoredSegment], copies: dict[SegmentId, int], progress: Progress
) -> None:
    left = {stored.segment: stored for stored in segments}
    gone = {row.id for row in await catalog.volumes() if row.lost or row.retired}
    deadline = time.monotonic() + STALL_SECONDS
    is_open = False
    while left or not is_open:
        before = (len(left), is_open)
        for part in _parts(list(left), ASKED_AT_ONCE):
            for segment, state in (await catalog.segments(part)).items():
                if _at_rest(state, left[segment].length, copies[segment], gone):
                    del left[segment]
        progress("registering", len(segments) - len(left), len(segments))
        is_open = (await catalog.state()).open
        if (len(left), is_open) != before:
            deadline = time.monotonic() + STALL_SECONDS
        elif time.monotonic() > deadline:
            raise SourceError(
                f"{len(left)} of {len(segments)} segments are not at rest after {STALL_SECONDS:g} s; look at "
                "`mailarray status` and the sidecars' logs, and run the command again"
            )
        if left or not is_open:
            await asyncio.sleep(LOOK_SECONDS)


def _at_rest(state: SegmentState, length: int, copies: int, gone: set[VolumeId]) -> bool:
    holders = {v for v in (*state.facts.members, *state.replicas) if v not in gone}
    sealed = state.sealed_length is not None and state.sealed_length >= length
    return state.superseded or (sealed and state.cursor >= length and len(holders) >= copies)


async def _restore_flags(store: Store, backup: Manifest, catalog: Catalog, scratch: Path) -> int:
    assert backup.flags is not None
    file, count = scratch / "flags", 0
    try:
        await fetch_part(store, backup.flags, file)
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                raw = json.loads(line)
                flags = raw["flags"].items()
                rows = [FlagRow((0, 0), raw["mailbox"], PlacementId.parse(id), int(value)) for id, value in flags]
                count += await catalog.set_flags(rows)
        return count
    finally:
        file.unlink(missing_ok=True)


async def _restore_accounts(
    store: Store, backup: Manifest, target: AccountsTarget, scratch: Path, notes: list[str], progress: Progress
) -> int:
    assert backup.accounts is not None
    file, count = scratch / "accounts", 0
    try:
        await fetch_part(store, backup.accounts, file)
        for batch in _parts(read_accounts(file), ACCOUNTS_AT_ONCE):
            # In a thread: the target runs an event loop of its own.
            counts = await asyncio.to_thread(target.put, batch)
            notes += [sentence for _, sentence in counts.refused]
            count += counts.added + counts.changed + counts.unchanged
            progress("accounts", count, backup.accounts.rows)
        return count
    finally:
        file.unlink(missing_ok=True)


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
