"""Keeps a snapshot file up to date: runs in the sidecar of each server, and in each access server.

It asks the database for its revision each second, which costs one row, and takes what has changed. With the database
away it may ask somebody else's snapshot. It never fails for good: whatever goes wrong is logged once, and tried again.

It refuses to follow a database that came up without its accounts (`snapshot_file.py` says when): the snapshot is held,
which is told in the log, in the status and by a metric, until the accounts are there again or a person accepts that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from mailarray.directory import metrics
from mailarray.directory.rows import AccountsUnavailable, Source, TooFewAccounts
from mailarray.directory.snapshot_file import SnapshotError, SnapshotWriter

POLL_SECONDS = 1.0  # between two looks at the database
HELD_SECONDS = 10.0  # the same while the snapshot is held: each look reads all the accounts there are
FALLBACK_SECONDS = 10.0  # between two looks at somebody else's snapshot, which may send all it holds

log = logging.getLogger(__name__)


class SnapshotKeeper:
    """Keeps one file. `fallback` may be set later."""

    def __init__(
        self,
        file: Path,
        database: Source,
        fallback: Source | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.file = file
        self.fallback = fallback
        self._database = database
        self._clock = clock
        self._writer = SnapshotWriter(file)
        self._fallback_due = self._database_due = float("-inf")
        self._looked = asyncio.Event()
        self._complaint = ""  # logged last, until all is well
        self.held = ""  # why the database is not followed although it is there; a sentence that says what to do

    async def first_pass(self, seconds: float) -> None:
        """Wait until `run` has looked once, but no longer than this."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._looked.wait(), seconds)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self.one_pass()
                self._looked.set()
                await asyncio.sleep(POLL_SECONDS)
        finally:
            await self.close()

    async def close(self) -> None:
        """Let go of the file, which stays."""
        await self._writer.close()

    async def one_pass(self) -> bool:
        """Take what has changed; True when the file is what the database says now. Never raises."""
        if self._clock() < self._database_due:
            return False
        try:
            await self._take(self._database)
        except TooFewAccounts as error:
            self._hold(str(error))
            return False
        except AccountsUnavailable as error:
            self._complain(str(error))
            await self._fall_back()
            return False
        except SnapshotError as error:
            self._complain(str(error))
            return False
        except Exception as error:  # a bug here must not take the sidecar along: mail goes on from the snapshot
            if not self._complaint:
                log.exception("accounts not followed")
            self._complaint = repr(error)
            return False
        metrics.SNAPSHOT_CHECKED.set(time.time())
        metrics.SNAPSHOT_HELD.set(0)
        self.held = ""
        if self._complaint:
            self._complaint = ""
            log.info("accounts followed again", extra={"file": str(self.file)})
        return True

    async def _fall_back(self) -> None:
        if self.fallback is None or self._clock() < self._fallback_due:
            return
        self._fallback_due = self._clock() + FALLBACK_SECONDS
        with contextlib.suppress(
            AccountsUnavailable, SnapshotError, TooFewAccounts
        ):  # the complaint about the database says enough
            if await self._take(self.fallback):
                log.info("accounts taken from another server's snapshot", extra={"file": str(self.file)})

    async def _take(self, source: Source) -> bool:
        position = await self._writer.position()
        taken = await source.feed(position, self._writer)
        if taken or position is None:
            position = await self._writer.position()
        metrics.SNAPSHOT_REVISION.set(-1 if position is None else position.revision)
        return taken

    def _hold(self, reason: str) -> None:
        if reason != self.held:
            log.error("accounts not followed, the snapshot stays as it is", extra={"reason": reason})
        self.held = self._complaint = reason
        metrics.SNAPSHOT_HELD.set(1)
        self._database_due = self._clock() + HELD_SECONDS

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            log.warning("accounts not followed, the snapshot stays as it is", extra={"reason": reason})
        self._complaint = reason
