"""How full mailboxes are, for the smtp process of this server (POST, `contract.paths.USAGE`).

The catalog keeps a running sum for each mailbox. One that was never counted is counted when it is first asked for, and
every one that is asked for again after RECOUNT_SECONDS, a few at a time: a process of another version may have
registered or expunged without keeping the sum, and a wrong sum must not refuse mail for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from aiohttp import web

from mailarray.catalog.catalog import CatalogClosed, CatalogUnavailable
from mailarray.tracking.answers import answer, refuse
from mailarray.tracking.catalog_link import CatalogLink

RECOUNT_SECONDS = 3600.0  # between two counts of one mailbox by this process
RECOUNTS_AT_ONCE = 10  # in one answer; a mailbox of 10,000 messages takes some 20 ms
ANSWER_SECONDS = 2.0  # spent counting for one answer; the rest is counted for the next ones
MAX_REMEMBERED = 65536  # mailboxes of which the last count is remembered


class MailboxUsage:
    """See the module."""

    def __init__(self, link: CatalogLink, now: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._now = now
        self._counted: dict[str, float] = {}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """One question."""
        try:
            wanted = await request.json()
            if not isinstance(wanted, list) or not all(isinstance(mailbox, str) for mailbox in wanted):
                raise ValueError("mailboxes must be a list of addresses")
        except ValueError as error:
            return refuse(400, str(error))
        try:
            return answer(used=await self.used(wanted))
        except CatalogClosed as error:
            return refuse(503, str(error))
        except CatalogUnavailable as error:
            self._link.away(error)
            return refuse(503, str(error))

    async def used(self, mailboxes: Sequence[str]) -> dict[str, int | None]:
        """Bytes by mailbox; None: not counted yet. Raises CatalogUnavailable, CatalogClosed."""
        found = await self._link.catalog.used(mailboxes)
        now = self._now()
        never = [mailbox for mailbox, used in found.items() if used is None]
        due = [m for m in found if m not in self._counted or now - self._counted[m] >= RECOUNT_SECONDS]
        if len(self._counted) + len(due) > MAX_REMEMBERED:
            self._counted.clear()
        for mailbox in dict.fromkeys((*never, *due[:RECOUNTS_AT_ONCE])):
            found[mailbox] = await self._link.catalog.count_used(mailbox)
            self._counted[mailbox] = now
            if self._now() - now > ANSWER_SECONDS:
                break
        return found
