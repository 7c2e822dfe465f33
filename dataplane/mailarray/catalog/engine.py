"""What the catalog's operations need of a database: to run a function on a connection in one transaction.

`engine_sqlite` and `engine_postgresql` are the two. Both keep these promises: every call ends within its time
limit, every failure of the database is a `CatalogUnavailable`, and after one the next call tries afresh, so that
nothing has to be restarted when the database returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from mailarray.catalog.rows import NotRegistered, Registered, Registration, TombstoneRow
from mailarray.model.ids import VolumeId

T = TypeVar("T")

CALL_SECONDS = 10.0  # of any call; beyond it the database counts as away, and callers go on without it
SCAN_SECONDS = 600.0  # of calls that read or drop whole tables (reset, lower_seal, counts)


class Engine(Protocol):
    """One database."""

    async def read(self, operation: Callable[[Connection], T], seconds: float = CALL_SECONDS) -> T:
        """Run on one snapshot of the database."""
        ...

    async def write(
        self, operation: Callable[[Connection], T], seconds: float = CALL_SECONDS, *, alone: bool = False
    ) -> T:
        """Run in one transaction; committed and durable when this returns, rolled back when it raises.

        `alone`: no registration, expunge or seal is under way at the same time, nor begins before the end.
        The operation may be run again after a deadlock.
        """
        ...

    async def register(self, volume: VolumeId, registration: Registration) -> Registered | NotRegistered:
        """The hot path, in the driver's own terms."""
        ...

    async def expunge(self, tombstones: Sequence[TombstoneRow]) -> None:
        """The same."""
        ...

    async def migrate(self) -> None:
        """Bring the schema up to date; safe while others do the same."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...
