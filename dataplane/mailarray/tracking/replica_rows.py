"""What the catalog says of repaired copies on this volume, compared with what is here.

A catalog that was restored may name copies that were given back since, and a statement that hung may come after a later
one.

Invariants (rules 19 and 25):

- In every epoch rows of what is not here are gone before this volume says that it told everything, and they are looked
  for again every few minutes. A copy that is here and has no row is told again, by `settling.py`.
- Rows are removed between two passes of `settling.py`, which is the only one that adds them: none that was added for a
  copy that came meanwhile goes.

Called by `settling.py` in each pass.
"""

from __future__ import annotations

import logging
import time

from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.shelf import Shelf

log = logging.getLogger(__name__)

AGAIN = 300.0  # seconds between two looks in one epoch


class ReplicaRows:
    """See the module."""

    def __init__(self, shelf: Shelf, link: CatalogLink) -> None:
        self._shelf = shelf
        self._link = link
        self._seen = (-1, float("-inf"))  # epoch and time of the last look

    async def correct(self, epoch: int) -> None:
        """Once in every epoch, and every few minutes. Raises CatalogUnavailable."""
        now, own = time.monotonic(), self._shelf.volume.id
        if self._seen[0] == epoch and now - self._seen[1] < AGAIN:
            return
        here = {h.segment for h in self._shelf if h.settled_epoch == epoch and h.is_replica(own) and not h.leaving}
        rows = await self._link.catalog.replicas_on(own)
        untrue = {segment for segment in rows if not self._shelf.holds(segment)}
        if untrue:
            await self._link.catalog.forget_replicas(own, untrue)
            log.info("rows of copies that are not here removed", extra={"segments": len(untrue)})
        for segment in here - rows:
            holding = self._shelf.holdings.get(segment)
            if holding is not None and not holding.leaving:
                holding.settled_epoch = -1
        self._seen = (epoch, now)
