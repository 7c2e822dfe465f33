"""Which volumes are gone, and of which of those nothing is missing any more: what `memory.py` keeps for rule 20.

Invariants:

- Nobody forgets a volume that is gone before the catalog was told: one that was made anew, or restored, does not know.
- Nobody forgets whose volume one was that a restored catalog does not know: headers name it, so the catalog waits for
  it, until another volume of that server says that it is there instead.
- A lost volume counts as repaired only when the catalog says so *and* knows all: mail that was accepted while the
  catalog was away, or was rebuilt, stands nowhere but on the volumes. So every server of the mirroring table is asked
  whether it has told all that it holds, in this epoch; who does not answer may hold something. After that the catalog
  is asked a second time, and was the same one all the while.

Never takes back that a volume is repaired. Used by the repairer, at every look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mailarray.catalog.rows import ShortSegment, VolumeRow
from mailarray.contract.mirroring_table import MirroringTable
from mailarray.model.ids import VolumeId, parse_id
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.memory import CatalogMemory
from mailarray.tracking.peers import Peers, PeerUnreachable

ASK_SECONDS = 15.0  # between two rounds of questions, while some server has not told all
ASK_EACH = 0.3  # seconds more for each server: all ask all, so a server is asked three times a second at most


class Losses:
    """See the module."""

    def __init__(
        self, link: CatalogLink, memory: CatalogMemory, peers: Peers, table: Callable[[], MirroringTable]
    ) -> None:
        self._link = link
        self._memory = memory
        self._peers = peers
        self._table = table
        self._clean: tuple[int, frozenset[VolumeId]] = (-1, frozenset())  # epoch; nothing of those was short in it
        self._asked_at = float("-inf")

    async def remember(self, known: Sequence[VolumeRow]) -> None:
        """Who is lost or retired; the catalog is told what it does not know. Raises CatalogUnavailable."""
        memory = self._memory
        rows = {row.id: row for row in known}
        lost = memory.lost | {row.id for row in known if row.lost}  # for ever
        retired = {row.id for row in known if row.retired}
        named = {server.name for server in self._table().servers}
        # Not retired any more, and the table names its server: it came back, and said so when it checked in.
        again = {v for v in memory.retired - retired - lost if v not in rows or rows[v].server not in named}
        for volume in lost:
            if volume not in rows or not rows[volume].lost:
                await self._link.catalog.mark_lost(volume)
        for volume in again:
            await self._link.catalog.mark_retired(volume)
        strangers = {v: name for v, name in memory.servers.items() if v not in rows and v not in lost | again}
        if strangers:
            await self._link.catalog.introduce(strangers)
        memory.servers = strangers | {row.id: row.server for row in known if row.server}
        memory.retired = frozenset(retired | again)
        memory.lost = frozenset(lost)
        memory.heard = True

    async def all_told(self, known: Sequence[VolumeRow], epoch: int) -> bool:
        """Whether the catalog knows all that any server holds; asked only when a lost volume hangs on it."""
        servers = self._table().servers
        now = time.monotonic()
        if self._clean[0] != epoch or not self._clean[1]:
            return False
        if now - self._asked_at < ASK_SECONDS + ASK_EACH * len(servers):
            return False
        self._asked_at = now
        living = {row.id for row in known if not row.lost and not row.retired}
        emptied = {row.server for row in known if row.retired} - {row.server for row in known if row.id in living}
        for server in servers:
            if server.name not in emptied:
                try:
                    volume = _told(await self._peers.status(server.sidecar), epoch)
                except (PeerUnreachable, ValueError, KeyError, TypeError):
                    volume = None
                if volume is None:
                    return False
                living.discard(volume)
        return not living  # one that is no server's any more cannot be asked

    async def remember_repaired(self, short: Iterable[ShortSegment], epoch: int, all_told: bool) -> None:
        """After a look at what is short: which lost volumes are repaired. Raises CatalogUnavailable."""
        memory = self._memory
        missing = {member for one in short for member in one.facts.members}
        clean = memory.lost - memory.repaired - missing
        clean -= {volume for volume in clean if await self._link.catalog.unsealed_segments(volume)}
        if clean:
            now = await self._link.check_in()  # what was looked at might have been restored, or dropped, unnoticed
            clean = clean if now.open and now.epoch == epoch else frozenset()
        before, self._clean = self._clean, (epoch, clean)
        if all_told and before[0] == epoch:
            memory.repaired |= clean & before[1]


def _told(status: Any, epoch: int) -> VolumeId | None:
    """The volume of a sidecar that has told the catalog of this epoch everything; from its /v1/status."""
    catalog = status["catalog"]
    told = catalog["state"] == "up" and catalog["epoch"] == epoch
    at_rest = not status["segments"]["unsettled"] and not status["lag_bytes"]
    return VolumeId(parse_id(status["volume"])) if told and at_rest else None
