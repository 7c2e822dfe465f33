"""Deletion at QUIT: tombstones are journalled through a writer, then applied in the catalog (rule 21).

Any writer will do, since a tombstone names its message by id; repeating one changes nothing. Called by a session in
its UPDATE state. The catalog is told for the next login's sake only: it learns the same from the journal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from mailarray.access.array import ANSWER_ERRORS, ServerArray, writer_url
from mailarray.access.maildrop import CATALOG_PATIENCE, MailboxCatalog, Message
from mailarray.access.metrics import EXPUNGE_FAILURES, EXPUNGED
from mailarray.catalog.catalog import CatalogClosed, CatalogUnavailable
from mailarray.catalog.rows import TombstoneRow
from mailarray.contract import paths
from mailarray.contract.mirroring_table import Server

log = logging.getLogger(__name__)

# Seconds for a writer to acknowledge, in each round over all writers. The second is for an array that is just
# leaving a dead mirror, which takes its writers longer than the first allows.
ROUNDS = (1.0, 3.0)
BATCH = 1000  # tombstones in one request: about 150 KB of JSON, below what HTTP servers take by default


class Expunger:
    """Deletes for the sessions of one access server."""

    def __init__(self, catalog: MailboxCatalog, array: ServerArray) -> None:
        self._catalog = catalog
        self._array = array
        self._turn = 0

    async def expunge(self, mailbox: str, messages: Sequence[Message]) -> bool:
        """True when all deletions are acknowledged; False when some are not, or it is not known."""
        rows = [TombstoneRow(m.placement, m.message, mailbox) for m in messages]
        done = 0
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            if not await self._journal(batch):
                break
            done += len(batch)
        if done:
            EXPUNGED.inc(done)
            await self._tell_catalog(mailbox, rows[:done])
        if done == len(rows):
            return True
        EXPUNGE_FAILURES.inc()
        log.error("deletions not acknowledged", extra={"mailbox": mailbox, "messages": len(rows) - done})
        return False

    async def _journal(self, rows: Sequence[TombstoneRow]) -> bool:
        body = [{"placement": str(r.placement), "message": r.message.hex(), "mailbox": r.mailbox} for r in rows]
        for seconds in ROUNDS:
            for server in self._writers():
                if await self._post(server, body, seconds):
                    return True
        return False

    def _writers(self) -> list[Server]:
        servers = list(self._array.servers())
        self._turn += 1
        turn = self._turn % len(servers) if servers else 0
        # A draining one takes none; it is asked all the same, last, since the table may be older than its state.
        return sorted(
            servers[turn:] + servers[:turn], key=lambda server: (server.draining, self._array.is_bad(server.name))
        )

    async def _post(self, server: Server, body: list[dict[str, str]], seconds: float) -> bool:
        try:
            async with (
                asyncio.timeout(seconds),
                self._array.http.post(writer_url(server, paths.TOMBSTONES), json=body) as response,
            ):
                if response.status == 200:
                    return True
                reason = f"status {response.status}"
        except ANSWER_ERRORS as error:
            reason = repr(error)
        log.warning("writer did not take tombstones", extra={"server": server.name, "reason": reason})
        return False

    async def _tell_catalog(self, mailbox: str, rows: Sequence[TombstoneRow]) -> None:
        try:
            async with asyncio.timeout(CATALOG_PATIENCE):
                await self._catalog.expunge(rows)
        except (CatalogUnavailable, CatalogClosed, TimeoutError) as error:
            log.warning("catalog learns of deletions later", extra={"mailbox": mailbox, "reason": repr(error)})
