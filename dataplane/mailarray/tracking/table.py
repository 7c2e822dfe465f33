"""The mirroring table as this sidecar knows it: the newest of its file, read again when it changes, and what is pushed.

Invariant: a generation that was in force is never followed by a lower one while the process runs; the last good table
stays while the file cannot be read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from mailarray.contract import mirroring_table
from mailarray.contract.mirroring_table import MirroringTable, Server

log = logging.getLogger(__name__)


class NewestTable:
    """See the module."""

    def __init__(self, server: str, path: str) -> None:
        """Raises OSError or ValueError when there is no good table to begin with."""
        self._server = server
        self._path = Path(path)
        self._table = mirroring_table.load(self._path)
        self._signature = self._look()
        self.wake: list[Callable[[], None]] = []  # called when another table is in force

    def __call__(self) -> MirroringTable:
        """The table in force."""
        signature = self._look()
        if signature is not None and signature != self._signature:
            self._signature = signature
            try:
                table = mirroring_table.load(self._path)
            except (OSError, ValueError) as error:
                log.error("mirroring table not read, the old one stays", extra={"reason": str(error)})
            else:
                if table.generation >= self._table.generation:
                    self._adopt(table)
        return self._table

    def take(self, table: MirroringTable) -> bool:
        """Take a pushed table when its generation is higher; answers whether it was."""
        if table.generation <= self().generation:
            return False
        self._adopt(table)
        return True

    @property
    def own(self) -> Server | None:
        """This server; None when the table does not name it (yet, or any more)."""
        return self().server(self._server)

    @property
    def draining(self) -> bool:
        """This server is to be emptied."""
        own = self.own
        return own is not None and own.draining

    @property
    def serving(self) -> bool:
        """This server is named, and not being emptied."""
        own = self.own
        return own is not None and own.serving

    def _adopt(self, table: MirroringTable) -> None:
        changed = table != self._table
        self._table = table
        if changed:
            log.info("mirroring table taken", extra={"generation": table.generation})
            for wake in self.wake:
                wake()

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
