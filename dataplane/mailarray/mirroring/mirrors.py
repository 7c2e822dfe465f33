"""All candidate mirrors of one writer, by the mirroring table it holds.

Invariant: a table with a lower generation never replaces a higher one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from mailarray.contract.mirroring_table import MirroringTable
from mailarray.mirroring.candidates import choose
from mailarray.mirroring.link import MirrorLink


class Mirrors:
    """See the module."""

    def __init__(
        self,
        server: str,
        table: MirroringTable,
        token: str,
        timeout: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._token = token
        self._timeout = timeout
        self._now = now
        self.table = table
        self.links: dict[str, MirrorLink] = {}
        self._sync_links()

    def set_table(self, table: MirroringTable) -> tuple[bool, bool]:
        """Take a newer table; answers (taken, our own row or its servers changed)."""
        if table.generation <= self.table.generation:
            return False, False
        before = self.table.candidates(self._server)
        self.table = table
        self._sync_links()
        return True, before != table.candidates(self._server)

    @property
    def draining(self) -> bool:
        """Whether the table says that this server is to be emptied."""
        own = self.table.server(self._server)
        return own is not None and own.draining

    @property
    def others_serve(self) -> bool:
        """Whether the table knows another server that takes mail."""
        return any(server.serving and server.name != self._server for server in self.table.servers)

    def _sync_links(self) -> None:
        wanted = {server.name: server for group in self.table.candidates(self._server) for server in group}
        for name in list(self.links):
            if wanted.get(name) != self.links[name].server:
                self.links.pop(name).close()
        for name, server in wanted.items():
            if name not in self.links:
                self.links[name] = MirrorLink(server, self._token, self._timeout, self._now)

    def ready_count(self) -> int:
        """Mirrors that could be chosen now together: of a host that has several volumes, one."""
        return len({link.server.host for link in self.links.values() if link.ready})

    def better_than(self, links: Sequence[MirrorLink]) -> bool:
        """Whether fewer of these are of the best class than could be: other zones were away, and one is back."""
        best = {server.name for server in next(iter(self.table.candidates(self._server)), ())}
        ready = len({link.server.host for name, link in self.links.items() if name in best and link.ready})
        return sum(link.server.name in best for link in links) < min(len(links), ready)

    async def choose(self, count: int, turn: int, *, full: bool = False) -> list[MirrorLink]:
        """Up to `count` ready mirrors; those not ready are asked first when too few are, but for those that refused a
        batch just now: else a writer whose volume was declared lost, or whose only mirror has a failing disk, begins
        segments as fast as senders come back.

        `full`: where ready ones do not suffice, those that are nearly full will do, too.
        """
        if count and self.ready_count() < count:
            asked = [link for link in self.links.values() if not link.ready and not link.refusing]
            await asyncio.gather(*(link.probe() for link in asked))
        classes = [[server.name for server in group] for group in self.table.candidates(self._server)]
        ready = {name for name, link in self.links.items() if link.ready}
        chosen = choose(classes, ready, count, turn)
        if full and len(chosen) < count:
            nearly_full = {name for name, link in self.links.items() if link.full}
            chosen += choose(classes, nearly_full, count - len(chosen), turn, chosen)
        return [self.links[name] for name in chosen]

    async def probe_due(self) -> None:
        """Ask those that are not ready and whose time has come."""
        await asyncio.gather(*(link.probe() for link in self.links.values() if link.due))

    def close(self) -> None:
        """Drop all connections."""
        for link in self.links.values():
            link.close()
