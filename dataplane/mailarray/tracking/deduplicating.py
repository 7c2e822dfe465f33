"""Dropping the copy of a message whose 250 was lost on the way: never on the way to a 250, and never both.

The catalog says which placements are copies of which (`catalog/duplicates.py`), to the volume that registered the
second one, and to every other one when that one is gone. The copy goes as an expunged message does, by a journalled
tombstone (rule 21): so no rebuild brings it back, and readers without a catalog do not see it either.

Invariants: before the tombstone is asked for, while the mailbox is locked, so that nobody deletes the one that stays,

- the one that stays is in its mailbox, or was expunged before the copy was registered,
- both bodies were read whole, right by their checksums, and their texts below our trace lines are the same bytes,
- as many servers as there are to be copies, each asked itself, gave the body of the one that stays.

Whatever is missing puts it off; what can never be is forgotten, and the copy stays. A crash in between does no harm:
the row in the catalog is taken away last, and a tombstone that comes twice is one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping

from mailarray.catalog.rows import Duplicate, Held, Location, TombstoneRow
from mailarray.contract.mirroring_table import MirroringTable
from mailarray.contract.server_names import hosts
from mailarray.contract.settings import StorageSettings
from mailarray.journal.format import crc32c
from mailarray.model.ids import PlacementId, VolumeId
from mailarray.tracking import metrics
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.pace import look_again_and_again
from mailarray.tracking.peers import PIECE, Peers, PeerUnreachable
from mailarray.tracking.shelf import Shelf

log = logging.getLogger(__name__)

INTERVAL = 10.0  # seconds between two looks at what is owed, when nothing was found meanwhile
AT_ONCE = 100  # owed copies looked at in one turn
LOCK_SECONDS = 60.0  # a mailbox is locked while one copy is looked at; readers hear that it is in use
MAX_BODY = 64 * 1024 * 1024  # bytes; longer ones are not compared, and so not dropped: two are in memory
FORGET_SECONDS = 600.0  # between two removals of fingerprints that are too old

Fetch = Callable[[VolumeId, Location], Awaitable[bytes]]  # raises PeerUnreachable, OSError


class Deduplicator:
    """See the module."""

    def __init__(
        self,
        own: VolumeId,
        server: str,
        link: CatalogLink,
        peers: Peers,
        fetch: Fetch,
        table: Callable[[], MirroringTable],
        storage: StorageSettings,
    ) -> None:
        self._own = own
        self._server = server
        self._holder = f"duplicates of {server}"
        self._link = link
        self._peers = peers
        self._fetch = fetch
        self._table = table
        self._copies = storage.copies
        self._window = int(storage.duplicate_window * 1e6)
        self._forgot_at = float("-inf")
        self.owed: int | None = None  # copies that wait to be dropped, as of the last look; None: not looked yet
        self.wake = asyncio.Event()

    def found(self) -> None:
        """A registration found copies."""
        self.owed = max(1, self.owed or 0)
        self.wake.set()

    async def run(self) -> None:
        """Until cancelled."""

        def failed(error: Exception) -> None:
            log.error("duplicates not looked at", extra={"reason": str(error)})

        await look_again_and_again(self.look, self._link, self.wake, INTERVAL, failed)

    async def look(self) -> None:
        """Settle what is owed, as far as it can be settled now. Raises CatalogUnavailable."""
        state = self._link.state
        if state is None or not state.open:
            return
        catalog = self._link.catalog
        if self._window and time.monotonic() - self._forgot_at >= FORGET_SECONDS:
            await catalog.forget_fingerprints(time.time_ns() // 1000 - 2 * self._window, self._window)
            self._forgot_at = time.monotonic()
        left = 0
        first: PlacementId | None = None
        while owed := await catalog.owed_duplicates(self._own, AT_ONCE, first):
            for duplicate in owed:
                left += not await self._settle_locked(duplicate)
            last = owed[-1].dropped.placement  # those that must wait do not keep the others from their turn
            first = PlacementId(last.record, last.index + 1)
        if not self.wake.is_set():
            self.owed = left
            metrics.DUPLICATES_OWED.set(left)

    async def _settle_locked(self, duplicate: Duplicate) -> bool:
        """Whether it is settled; it is not while somebody reads the mailbox. Raises CatalogUnavailable."""
        catalog = self._link.catalog
        if not await catalog.acquire_lease(duplicate.mailbox, self._holder, LOCK_SECONDS):
            return False
        try:
            async with asyncio.timeout(LOCK_SECONDS / 2):
                await self._settle(duplicate.dropped.placement)
            return True
        except (PeerUnreachable, OSError) as error:  # TimeoutError is one
            log.info("duplicate kept for now", extra=_fields(duplicate) | {"reason": str(error) or "too slow"})
            return False
        finally:
            await catalog.release_lease(duplicate.mailbox, self._holder)

    async def _settle(self, placement: PlacementId) -> None:
        """With the mailbox locked. Raises CatalogUnavailable, PeerUnreachable, OSError."""
        catalog = self._link.catalog
        found = await catalog.owed_duplicates(self._own, 1, placement)  # as it is under the lock
        if not found or found[0].dropped.placement != placement:
            return
        duplicate = found[0]
        reason = hopeless(duplicate)
        if reason is None:
            reason = await self._differ(duplicate)
        if reason is None:
            row = TombstoneRow(placement, duplicate.dropped.message, duplicate.mailbox)
            await self._bury(row)
            await catalog.expunge([row])
            metrics.DUPLICATES.inc()
            log.info("second delivery dropped", extra=_fields(duplicate))
        else:
            log.info("duplicate kept", extra=_fields(duplicate) | {"reason": reason})
        # A third copy that waits to be compared with this one is a copy of the one that stays.
        instead = duplicate.kept.placement if reason is None or not duplicate.dropped.alive else None
        await catalog.settle_duplicate(placement, instead)

    async def _differ(self, duplicate: Duplicate) -> str | None:
        """Why they are not the same, or None. Raises PeerUnreachable when it cannot be known now."""
        wanted = 1 if duplicate.kept_expunged else self._copies
        names = {row.id: row.server for row in await self._link.catalog.volumes()}
        kept = await self._read(duplicate.kept, wanted, names)
        dropped = await self._read(duplicate.dropped, 1, names)
        length = duplicate.text_length
        if kept[-length:] != dropped[-length:]:
            return "their texts are not the same"
        return None

    async def _read(self, held: Held, wanted: int, names: Mapping[VolumeId, str]) -> bytes:
        """The body, from so many servers; `names` are those of their volumes. Raises PeerUnreachable."""
        body, given = b"", set[VolumeId]()
        for place in held.locations:
            for volume in place.members:
                if volume in given:
                    continue
                try:
                    found = await self._fetch(volume, place)
                except (PeerUnreachable, OSError):
                    continue
                if len(found) == held.length and crc32c(found) == held.checksum:
                    body = found
                    given.add(volume)
                if hosts(given, names) >= wanted:
                    return body
        found_on = hosts(given, names)
        raise PeerUnreachable(f"message {held.message.hex()} is on {found_on} servers that answer, not on {wanted}")

    async def _bury(self, row: TombstoneRow) -> None:
        """Through any writer, the own one first. Raises PeerUnreachable."""
        servers = sorted(self._table().servers, key=lambda server: (server.name != self._server, server.draining))
        failure: PeerUnreachable | None = None
        for server in servers:
            try:
                await self._peers.bury(server.writer, [row])
                return
            except PeerUnreachable as error:
                failure = error
        raise failure or PeerUnreachable("the mirroring table names no server")


def hopeless(duplicate: Duplicate) -> str | None:
    """Why this copy is not dropped whatever becomes of it, or None."""
    dropped, kept = duplicate.dropped, duplicate.kept
    if (kept.placement.record, kept.placement.index) >= (dropped.placement.record, dropped.placement.index):
        return "it is the older one"  # nobody writes such a row; both would be dropped in the end
    if not dropped.alive:
        return "it is gone already"
    if not kept.locations or not (kept.alive or duplicate.kept_expunged):
        return "the other one is gone"
    length = duplicate.text_length
    if not 0 < length <= min(dropped.length, kept.length) or max(dropped.length, kept.length) > MAX_BODY:
        return "their texts cannot be compared"
    return None


async def local_or_remote(shelf: Shelf, peers: Peers, volume: VolumeId, place: Location) -> bytes:
    """A body from one certain volume. Raises PeerUnreachable, OSError."""
    if place.length > MAX_BODY:
        raise PeerUnreachable("it is too long")
    if volume == shelf.volume.id:
        holding = shelf.holdings.get(place.segment)
        if holding is None or holding.readable < place.offset + place.length:
            raise PeerUnreachable("it is not here")
        fd = holding.fd(shelf.volume)
        return await shelf.run(lambda: os.pread(fd, place.length, place.offset))
    parts = []
    position, end = place.offset, place.offset + place.length
    while position < end:
        part = await peers.fetch(volume, place.segment, position, min(end, position + PIECE))
        if not part:
            break
        parts.append(part)
        position += len(part)
    return b"".join(parts)


def _fields(duplicate: Duplicate) -> dict[str, str]:
    return {
        "mailbox": duplicate.mailbox,
        "dropped": str(duplicate.dropped.placement),
        "kept": str(duplicate.kept.placement),
    }
