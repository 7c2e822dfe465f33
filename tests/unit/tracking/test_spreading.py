"""Which segments are in one zone against the table's wish, and who brings them apart."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mailarray.catalog.catalog import Catalog
from mailarray.catalog.rows import LookedAt, SegmentFacts, ShortSegment, ShortSegments, VolumeRow
from mailarray.contract.mirroring_ring import Spread, class_rows, ring_rows
from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray.model.ids import IncarnationId, SegmentId, VolumeId
from mailarray.tracking.spreading import Together, wants_zones
from mailarray.tracking.targets import RANK_SECONDS

VOLUMES = [VolumeId(bytes([i]) * 16) for i in range(6)]
SERVERS = [Server(f"mail-{i}", f"h{i}:1", f"h{i}:2", zone, f"n{i}") for i, zone in enumerate(("a", "b") * 3)]
COUNTING = dict(zip(VOLUMES, SERVERS, strict=True))
ROWS = [VolumeRow(volume, server.name, False) for volume, server in COUNTING.items()]


def table(spread: Spread = "Zone") -> MirroringTable:
    return MirroringTable(1, tuple(SERVERS), ring_rows(SERVERS, spread))


def segment(number: int, *holders: int, copies: int = 2) -> ShortSegment:
    members = tuple(VOLUMES[i] for i in holders)
    facts = SegmentFacts(SegmentId(bytes([number]) * 16), members[0], IncarnationId(bytes(16)), 0, members, copies)
    return ShortSegment(facts, 1000, members, members)


class FakeCatalog:
    """Answers by what it was asked for."""

    def __init__(self, *segments: ShortSegment) -> None:
        self.segments = segments
        self.asked: list[LookedAt | None] = []

    async def held_by_none_of(self, counting: Any, others: Any, before: LookedAt | None = None) -> ShortSegments:
        self.asked.append(before)
        found = [s for s in self.segments if not set(s.everywhere) & set(others)]
        return ShortSegments(found, LookedAt(7, ()))


async def looked(*segments: ShortSegment, spread: Spread = "Zone") -> Together:
    together = Together()
    await together.look(cast(Catalog, FakeCatalog(*segments)), table(spread), ROWS, COUNTING, True)
    return together


def fetching(together: Together, seconds: float = 0.0) -> list[int]:
    since = dict.fromkeys(together.segments, seconds)
    return [i for i, volume in enumerate(VOLUMES) if together.to_fetch(COUNTING, volume, since)]


async def test_what_is_in_one_zone_is_counted_once_and_fetched_by_one_server_of_another() -> None:
    together = await looked(segment(1, 0, 2), segment(2, 1, 2))
    assert [id[0] for id in together.segments] == [1]
    assert [together.count(volume) for volume in VOLUMES] == [1, 0, 0, 0, 0, 0]
    first = fetching(together)
    assert len(first) == 1 and SERVERS[first[0]].zone == "b"
    later = fetching(together, 2 * RANK_SECONDS)
    assert set(first) < set(later) == {1, 3, 5}  # others of that zone, when it takes long; never one of the same


async def test_what_is_on_too_few_servers_is_left_to_repair() -> None:
    assert not (await looked(segment(1, 0))).segments


async def test_the_table_may_want_copies_together() -> None:
    assert not (await looked(segment(1, 0, 2), spread="Node")).segments
    rows = ring_rows(SERVERS) | class_rows(["mail-0"], [["mail-2", "mail-4"], ["mail-1"]])  # somebody's MirrorPair
    wished = MirroringTable(1, tuple(SERVERS), rows)
    assert not wants_zones(wished, "mail-0") and wants_zones(wished, "mail-2")
    assert wants_zones(wished, "gone-1")


async def test_nothing_is_asked_with_one_zone_or_none() -> None:
    catalog = FakeCatalog(segment(1, 0, 2))
    for zone in ("a", ""):
        alone = {v: Server(s.name, s.sidecar, s.writer, zone, s.node) for v, s in COUNTING.items()}
        await Together().look(cast(Catalog, catalog), table(), ROWS, alone, True)
    assert not catalog.asked


@pytest.mark.parametrize(("anew", "before"), [(False, LookedAt(7, ())), (True, None)])
async def test_a_look_goes_on_from_the_last_one_while_the_volumes_are_the_same(
    anew: bool, before: LookedAt | None
) -> None:
    catalog, together = FakeCatalog(), Together()
    await together.look(cast(Catalog, catalog), table(), ROWS, COUNTING, True)
    await together.look(cast(Catalog, catalog), table(), ROWS, COUNTING, anew)
    assert catalog.asked == [None, None, before, before]
