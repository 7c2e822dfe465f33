"""The way to the catalog, which may be away at any time, also when the sidecar starts.

Invariant (rule 19): before anything else is said to the catalog, the sidecar checks in with what it remembers, and
does so again whenever it was away; a restored catalog is noticed there: by the own registrations each time, by those
of all volumes when it was away, and now and then. One check-in at a time: an answer that came late would bring an
earlier epoch back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from mailarray.catalog.catalog import Catalog, CatalogUnavailable
from mailarray.catalog.rows import CheckIn
from mailarray.model.ids import VolumeId
from mailarray.tracking import metrics
from mailarray.tracking.memory import CatalogMemory

log = logging.getLogger(__name__)

COUNTERS_A_SECOND = 20  # read and remembered by one sidecar, so that a thousand of them are no load for the database


class CatalogLink:
    """See the module."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Catalog]],
        volume: VolumeId,
        server: str,
        memory: CatalogMemory,
    ) -> None:
        self._connect = connect
        self._volume = volume
        self._server = server
        self._memory = memory
        self._catalog: Catalog | None = None
        self.serving: Callable[[], bool] = lambda: True  # False: a volume that was drained stays retired
        self.reached: Callable[[], None] = lambda: None  # called when the catalog is there again
        self.state: CheckIn | None = None  # None while the catalog is away
        self._all_due = 0.0  # by the monotonic clock: when the registrations of all volumes are to be compared again
        self._turn = asyncio.Lock()
        self._beside: frozenset[VolumeId] = frozenset()  # other volumes of this server, as heard last
        self._complaint = ""  # logged last, until the catalog answers

    @property
    def up(self) -> bool:
        """The last word was an answer."""
        return self.state is not None

    @property
    def epoch(self) -> int:
        """The epoch that was checked in with. Raises CatalogUnavailable."""
        if self.state is None:
            raise CatalogUnavailable("not connected")
        return self.state.epoch

    @property
    def last_epoch(self) -> int:
        """The epoch of the last check-in, also while the catalog is away, and after a start."""
        return self._memory.epoch

    @property
    def catalog(self) -> Catalog:
        """The catalog, after a check-in. Raises CatalogUnavailable."""
        if self._catalog is None or self.state is None:
            raise CatalogUnavailable("not connected")
        return self._catalog

    async def check_in(self) -> CheckIn:
        """Connect if need be, and say who we are. Raises CatalogUnavailable."""
        async with self._turn:
            try:
                if self._catalog is None:
                    self._catalog = await self._connect()
                known = self._memory
                everybody = self.state is None or time.monotonic() >= self._all_due
                while True:
                    state = await self._catalog.check_in(
                        self._volume,
                        self._server,
                        known.epoch,
                        known.counter,
                        self.serving(),
                        known.counters if everybody else None,
                        self._beside,
                    )
                    new, self._beside = state.beside - self._beside, state.beside
                    if not new:
                        break  # else said again: this volume is there, and they are not
            except CatalogUnavailable as error:
                self.away(error)
                raise
            if self.state is None:
                log.info("catalog reached", extra={"epoch": state.epoch, "catalog_open": state.open})
                self.reached()
            if state.epoch != self._memory.epoch:
                self._memory.counter = state.counter  # a new epoch counts anew
            self._memory.epoch = state.epoch
            self._memory.counter = max(self._memory.counter, state.counter)
            if state.counters is not None:
                self._memory.counters = state.counters
                self._all_due = time.monotonic() + len(state.counters) / COUNTERS_A_SECOND
            self.state = state
            metrics.CATALOG_UP.set(1)
            return state

    def away(self, error: CatalogUnavailable) -> None:
        """A call failed: everything has to be asked again."""
        if self.state is not None or str(error) != self._complaint:
            log.warning("catalog away", extra={"reason": str(error)})
        self._complaint = str(error)
        self.state = None
        metrics.CATALOG_UP.set(0)

    async def close(self) -> None:
        """Give connections back."""
        if self._catalog is not None:
            await self._catalog.close()
