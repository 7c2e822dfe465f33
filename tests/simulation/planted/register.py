"""The rules of registering, and of reading what is registered (16 to 20)."""

from __future__ import annotations

from typing import Any

import sqlalchemy

from mailarray.access import sidecars
from mailarray.catalog import registration as grounds
from mailarray.catalog import registration_sqlite, volumes
from mailarray.catalog.rows import NotRegistered
from mailarray.tracking import settling
from tests.simulation.planted.plants import Put, plant


@plant(
    "second-sight",
    "16!",
    "a second sight of an id adds a location, never a second message",
    "partition",
    "deliver_through_two",
)
def _second_sight(put: Put) -> None:
    register, place = registration_sqlite.register, registration_sqlite._place
    every: list[Any] = []

    def remembering(db: Any, volume: Any, registration: Any) -> Any:
        every[:] = registration.messages
        return register(db, volume, registration)

    put(registration_sqlite, "register", remembering)
    put(registration_sqlite, "_place", lambda db, fresh, validity: place(db, list(every), validity))


@plant("second-location", "16!", "a second sight of an id adds a location", "compact", "roll_over")
def _second_location(put: Put) -> None:
    put(registration_sqlite, "_INSERT_LOCATION", "INSERT OR IGNORE INTO locations SELECT ?1, ?2, ?3 WHERE 0")


@plant(
    "ground",
    "17!",
    "its transaction refuses it when its ground is no longer the catalog's state",
    "late_registration",
)
def _ground(put: Put) -> None:
    refusal = grounds.refusal

    def cursor_only(ground: Any, volume: Any, registration: Any) -> NotRegistered | None:
        refused = refusal(ground, volume, registration)
        if refused is not None and ground.counter is not None and (ground.cursor or 0) == registration.start:
            return None
        return refused

    put(registration_sqlite, "refusal", cursor_only)


@plant("cursor", "18!", "the cursor is in the catalog, so a restored catalog registers again", "snapshot", "restore")
def _cursor(put: Put) -> None:
    def ever(self: Any) -> list[Any]:
        return [h for h in self._shelf if h.settled_epoch < 0 and h is not self._follower.current]

    put(settling.Settler, "unsettled", property(ever))


@plant(
    "closed",
    "19!",
    "a restored catalog is closed until all volumes but copies - 1 have registered everything",
    "snapshot",
    "restore",
    "drop_catalog",
    "read",
)
def _closed(put: Put) -> None:
    def raise_epoch(connection: Any, epoch: int) -> None:
        before(connection, epoch)
        connection.execute(sqlalchemy.update(volumes._state).values(open=True))

    before = volumes.raise_epoch
    put(volumes, "raise_epoch", raise_epoch)


@plant(
    "half-a-mailbox",
    "20",
    "without answers from all volumes but copies - 1, never half a mailbox",
    "catalog_away",
    "cut_off",
    "read",
)
def _half_a_mailbox(put: Put) -> None:
    put(sidecars, "missing_volumes", lambda *_: 0)
