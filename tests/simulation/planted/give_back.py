"""The rule of giving copies back (25)."""

from __future__ import annotations

from typing import Any

from mailarray.catalog import surplus
from mailarray.tracking import giving_back
from mailarray.tracking.giving_back import Returner
from tests.simulation.planted.plants import Put, plant


@plant("stayers", "25!", "those that stay were asked directly, and stand there still", "away_together", "catalog_bad")
def _stayers(put: Put) -> None:
    async def as_the_catalog_said(self: Any, one: Any, holding: Any) -> list[Any]:
        return [volume for volume in one.holders if volume != self._shelf.volume.id]

    def row_only(connection: Any, segment: Any, volume: Any, length: int, staying: Any, epoch: int) -> int:
        surplus.forget_replicas(connection, volume, [segment])
        return 0

    put(Returner, "_ask", as_the_catalog_said)
    put(surplus, "give_back", row_only)
    put(giving_back, "begins_after", lambda ranking, own, patience, full: patience if own in ranking else None)
