"""The mirroring table of an array on one machine while it runs: servers whose volume is full are nobody's mirrors.

The launcher looks at what the sidecars say of themselves once a second, as the operator does in a cluster. Invariants:

- Another table has a higher generation, and is in the file before any process hears of it: one that starts reads it.
- A process that did not take it is told again at the next look. A server that does not answer stays as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from mailarray.contract import mirroring_table
from mailarray.contract.mirroring_ring import mirrors_among, ring_rows
from mailarray.contract.mirroring_table import MirroringTable
from mailarray.local.array_status import SIDECAR, SMTP
from mailarray.local.poller import Answer, Poller

log = logging.getLogger(__name__)


class TableKeeper:
    """See the module."""

    def __init__(self, table: MirroringTable, copies: int, save: Callable[[str], None], poller: Poller) -> None:
        self.table = table
        self._copies = copies
        self._save = save
        self._poller = poller
        self._full: frozenset[str] = frozenset()

    async def follow(self, answers: Mapping[str, Answer]) -> None:
        """Look once; never raises for what a process or the disk does."""
        said = {server.name: answers.get(f"{server.name}/{SIDECAR}") for server in self.table.servers}
        full = frozenset(
            name
            for name, answer in said.items()
            if (answer.status.get("full") if answer is not None else name in self._full)
        )
        if full != self._full:
            rows = ring_rows(mirrors_among(self.table.servers, full, self._copies))
            table = replace(self.table, generation=self.table.generation + 1, rows=rows)
            try:
                self._save(mirroring_table.dump(table))
            except OSError as error:
                log.error("mirroring table not written", extra={"reason": str(error)})
                return
            log.warning("volumes full, or with room again", extra={"full": sorted(full)})
            self.table, self._full = table, full
        if self.table.generation > 1:
            await self._tell(answers)

    async def _tell(self, answers: Mapping[str, Answer]) -> None:
        for target in self._poller.targets:
            answer = answers.get(target.name)
            if target.role not in (SMTP, SIDECAR) or answer is None:
                continue
            known = answer.status.get("table_generation")
            if isinstance(known, int) and known < self.table.generation:
                await self._poller.push_table(target, mirroring_table.dump(self.table))
