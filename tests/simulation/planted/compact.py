"""The rules of deleting and compacting (21 to 24)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mailarray.catalog import registration_sqlite
from mailarray.catalog.rows import TombstoneRow
from mailarray.tracking import compacting
from mailarray.tracking.compacting import Compactor
from mailarray.tracking.proof import Prover
from tests.simulation.planted.plants import Put, plant
from tests.simulation.servers import Port


@plant(
    "unknown-ids",
    "21!",
    "the catalog keeps a tombstone also for ids it does not know yet",
    "expunge",
    "drop_catalog",
    "restore",
    "snapshot",
)
def _unknown_ids(put: Put) -> None:
    expunge = registration_sqlite.expunge

    def known_only(db: Any, tombstones: Any) -> None:
        def known(row: TombstoneRow) -> bool:
            return db.execute("SELECT 1 FROM messages WHERE id = ?", (row.message,)).fetchone() is not None

        expunge(db, [row for row in tombstones if known(row)])

    put(registration_sqlite, "expunge", known_only)


@plant(
    "every-registration", "21!", "and every registration checks it", "expunge", "drop_catalog", "restore", "snapshot"
)
def _every_registration(put: Put) -> None:
    put(registration_sqlite, "_dead", lambda db, messages: set())


@plant("every-holder", "23!", "every member holds it durably to there, and `copies` volumes do", "compact", "roll_over")
def _every_holder(put: Put) -> None:
    async def nothing(self: Any, row: Any, volumes: Any) -> None:
        return None

    put(Prover, "missing", nothing)


@plant("asked-directly", "23!", "each asked directly", "wiped_holder")
def _asked_directly(put: Put) -> None:
    async def as_the_catalog_says(self: Any, row: Any, volumes: Any) -> str | None:
        lost = {volume.id for volume in volumes if volume.lost}
        holders = {*row.facts.members, *row.replicas} - lost
        return None if row.sealed_length and len(holders) >= row.facts.copies else "too few"

    put(Prover, "missing", as_the_catalog_says)


@plant("unknown-records", "24!", "never because the catalog does not know it", "compact", "restore", "kill", why_not=(
    "touched are only segments that this epoch's open catalog has registered, looked at before and after: it knows them"
))  # fmt: skip
def _unknown_records(put: Put) -> None:
    def unknown(db: Any, records: list[bytes]) -> set[bytes]:
        return {
            record
            for record in records
            if not db.execute("SELECT 1 FROM placements WHERE record = ?", (record,)).fetchone()
        }

    _left_out(put, unknown)


@plant("known-elsewhere", "24!", "or knows it elsewhere", "worn_twice")
def _known_elsewhere(put: Put) -> None:
    def elsewhere(db: Any, records: list[bytes]) -> set[bytes]:
        return {
            record
            for record in records
            if db.execute("SELECT 1 FROM locations WHERE message = ?", (record,)).fetchone()
        }

    _left_out(put, elsewhere)


def _left_out(put: Put, which: Callable[[Any, list[bytes]], set[bytes]]) -> None:
    """Compaction leaves those out, too."""
    look_into = Compactor._look_into

    async def and_those(self: Any, segment: Any) -> Any:
        found = await look_into(self, segment)
        if found is None:
            return None
        assert found.holding.member is not None
        fd = os.dup(found.holding.member.fd)
        records = [id for id, _, _ in compacting._messages(found.holding, fd)]
        more = which(Port.world.database.raw, records)
        return replace(found, dead=found.dead | more)

    put(Compactor, "_look_into", and_those)
