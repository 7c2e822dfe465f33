"""Asks this server's sidecar how full mailboxes are, for `quotas.py`: those that mail came for, every few seconds.

The sidecar has the catalog, and answers 503 while that is away; then what is known stays. Refuses to ask for mailboxes
that nobody writes to: an idle array costs nothing, a busy one a look-up a mailbox every ASK_SECONDS and server.
"""

from __future__ import annotations

import asyncio
import json
import logging

from mailarray.contract import paths
from mailarray.mirroring.peer import PeerConnection, PeerError
from mailarray.smtp.quotas import Quotas

log = logging.getLogger(__name__)

ASK_SECONDS = 5.0  # so old may an answer be; one mailbox fills in that time at most by what all servers take for it
GATHER_SECONDS = 0.05  # new mailboxes that come together are asked for together
AT_ONCE = 5000  # mailboxes in one question; some 200 KB
TIMEOUT = 10.0  # seconds for an answer; a busy database is better than none


class QuotaKeeper:
    """See the module."""

    def __init__(self, quotas: Quotas, sidecar: str, token: str) -> None:
        self._quotas = quotas
        self._sidecar = PeerConnection(sidecar, token)
        self._silent = False

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        asked_all = float("-inf")
        try:
            while True:
                try:
                    async with asyncio.timeout(max(0.0, asked_all + ASK_SECONDS - loop.time())):
                        await self._quotas.unknown.wait()
                    await asyncio.sleep(GATHER_SECONDS)
                except TimeoutError:
                    pass
                due = loop.time() - asked_all >= ASK_SECONDS
                if due:
                    asked_all = loop.time()
                if not await self.ask(all=due):
                    await asyncio.sleep(1.0)  # those of which nothing is known would ask again at once
        finally:
            self._sidecar.close()

    async def ask(self, *, all: bool = True) -> bool:
        """Ask once; answers whether everything was answered."""
        wanted = self._quotas.wanted(all=all)
        names = list(wanted)
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            try:
                self._quotas.learn({name: wanted[name] for name in part}, await self._used(part))
            except (PeerError, ValueError, KeyError, TypeError) as error:
                self._quotas.want_again(names[start:])
                if not self._silent:
                    log.warning("mailboxes' sizes unknown, the last ones hold", extra={"reason": str(error)})
                self._silent = True
                return False
            self._silent = False
        return True

    async def _used(self, mailboxes: list[str]) -> dict[str, int | None]:
        body = json.dumps(mailboxes).encode("utf-8", "surrogateescape")
        response = await self._sidecar.request("POST", paths.USAGE, TIMEOUT, [body], len(body))
        if response.status != 200:
            raise PeerError(f"the sidecar answered {response.status}")
        used = json.loads(response.body)["used"]
        return {str(mailbox): None if count is None else int(count) for mailbox, count in used.items()}
