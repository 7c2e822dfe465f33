"""What the catalog is told of volumes that are gone: by who remembers them, and by a server that was emptied."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.catalog.rows import VolumeRow
from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray.model.ids import VolumeId, new_volume_id
from mailarray.tracking.draining import TO_HEAR, Drainer
from mailarray.tracking.losses import Losses
from mailarray.tracking.peers import PeerUnreachable
from mailarray.tracking.repairing import Repairer

OWN, OTHER, GONE = new_volume_id(), new_volume_id(), new_volume_id()


def status(volume: VolumeId, unsettled: int = 0, lag: int = 0, epoch: int = 1, state: str = "up") -> dict[str, Any]:
    """What a sidecar says of itself, as far as it is read."""
    catalog = {"state": state, "epoch": epoch}
    return {"volume": volume.hex(), "segments": {"unsettled": unsettled}, "lag_bytes": lag, "catalog": catalog}


class Volumes:
    """A catalog's rows of volumes."""

    def __init__(self, *rows: VolumeRow) -> None:
        self.rows = {row.id: row for row in rows}
        self.away = False
        self.marked: list[tuple[str, VolumeId]] = []
        self.on_retired: Any = lambda: None
        self.said = {"h:1": status(OWN), "h:3": status(OTHER)}  # by its sidecar; absent: no answer
        self.peers: Any = SimpleNamespace(status=self._status)

    async def _status(self, address: str) -> Any:
        if address not in self.said:
            raise PeerUnreachable(address)
        return self.said[address]

    async def volumes(self) -> list[VolumeRow]:
        return list(self.rows.values())

    async def segments(self, ids: Any) -> dict[Any, Any]:
        return {}

    async def short_segments(self, *_: Any) -> tuple[list[Any], None]:
        return [], None

    async def named_segments(self, *_: Any) -> tuple[list[Any], int]:
        return [], 0

    async def unsealed_segments(self, volume: VolumeId) -> list[Any]:
        return []

    async def introduce(self, servers: Mapping[VolumeId, str]) -> None:
        for volume, server in servers.items():
            self.rows.setdefault(volume, VolumeRow(volume, server, False))
            self.marked.append((server, volume))

    async def mark_lost(self, volume: VolumeId) -> None:
        self._mark("lost", volume, lost=True)

    async def mark_retired(self, volume: VolumeId) -> None:
        self.on_retired()
        self._mark("retired", volume, retired=True)

    def _mark(self, how: str, volume: VolumeId, **change: bool) -> None:
        if self.away:
            raise CatalogUnavailable("gone")
        self.marked.append((how, volume))
        row = self.rows.get(volume, VolumeRow(volume, "", False))
        self.rows[volume] = VolumeRow(
            volume, row.server, row.lost or change.get("lost", False), row.retired or change.get("retired", False)
        )


def repairer(catalog: Volumes, *, lost: set[VolumeId] = frozenset(), retired: set[VolumeId] = frozenset()) -> Repairer:  # type: ignore[assignment]
    servers = (Server("mail-0", "h:1", "h:2"), Server("mail-1", "h:3", "h:4"))
    memory: Any = SimpleNamespace(lost=frozenset(lost), retired=frozenset(retired), repaired=frozenset(), servers={})
    state = SimpleNamespace(epoch=1, open=True)
    link: Any = SimpleNamespace(catalog=catalog, state=state, check_in=AsyncMock(return_value=state))
    rest: Any = Mock(volume=Mock(id=OWN), run=AsyncMock(return_value={}), leftovers=lambda: [])
    rest.volume.free_bytes.return_value = 1
    table: Any = lambda: MirroringTable(1, servers, {})  # noqa: E731
    return Repairer(rest, link, memory, Losses(link, memory, catalog.peers, table), rest, table, "mail-0", 0)


async def test_what_is_lost_is_told_again_although_the_catalog_knows_the_volume() -> None:
    catalog = Volumes(VolumeRow(OWN, "mail-0", False), VolumeRow(GONE, "mail-1", False))
    one = repairer(catalog, lost={GONE})
    await one.look()
    assert catalog.marked == [("lost", GONE)] and one._memory.lost == {GONE}
    await one.look()
    assert len(catalog.marked) == 1


async def test_a_catalog_that_never_heard_of_a_volume_is_told_whose_it_was() -> None:
    catalog = Volumes(VolumeRow(OWN, "mail-0", False), VolumeRow(GONE, "mail-1", False))
    one = repairer(catalog)
    await one.look()
    assert one._memory.servers == {OWN: "mail-0", GONE: "mail-1"} and not catalog.marked
    del catalog.rows[GONE]  # restored to a moment before it began
    await one.look()
    assert catalog.marked == [("mail-1", GONE)]
    await one.look()
    assert catalog.marked == [("mail-1", GONE)] and one._memory.servers[GONE] == "mail-1"


async def test_what_is_retired_is_told_again_unless_its_server_is_back() -> None:
    catalog = Volumes(VolumeRow(OWN, "mail-0", False), VolumeRow(GONE, "mail-7", False))
    one = repairer(catalog, retired={GONE})
    await one.look()
    assert catalog.marked == [("retired", GONE)] and one._memory.retired == {GONE}

    catalog = Volumes(VolumeRow(OWN, "mail-0", False), VolumeRow(GONE, "mail-1", False))
    one = repairer(catalog, retired={GONE})
    await one.look()
    assert catalog.marked == [] and one._memory.retired == frozenset()


async def test_a_lost_volume_is_not_retired_again() -> None:
    catalog = Volumes(VolumeRow(GONE, "mail-7", True))
    one = repairer(catalog, retired={GONE})
    await one.look()
    assert catalog.marked == [] and one._memory.retired == frozenset() and one._memory.lost == {GONE}


async def test_memory_stays_while_the_catalog_cannot_be_told() -> None:
    catalog = Volumes(VolumeRow(GONE, "mail-7", False))
    catalog.away = True
    one = repairer(catalog, retired={GONE}, lost={OWN})
    with pytest.raises(CatalogUnavailable):
        await one.look()
    assert one._memory.retired == {GONE} and one._memory.lost == {OWN}


@pytest.fixture
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailarray.tracking.repairing.DUTY", float("inf"))
    monkeypatch.setattr("mailarray.tracking.losses.ASK_SECONDS", 0.0)
    monkeypatch.setattr("mailarray.tracking.losses.ASK_EACH", 0.0)


def one_is_lost() -> Volumes:
    rows = VolumeRow(OWN, "mail-0", False), VolumeRow(OTHER, "mail-1", False), VolumeRow(GONE, "mail-1", True)
    return Volumes(*rows)


@pytest.mark.parametrize(
    "said",
    [
        None,
        status(OTHER, unsettled=1),
        status(OTHER, lag=1),
        status(OTHER, state="away"),
        status(OTHER, epoch=0),
        status(new_volume_id()),  # and nobody has said anything of the volume that the catalog knows
        {},
    ],
)
async def test_a_lost_volume_is_repaired_when_every_server_has_told_all(said: Any, asked_often: None) -> None:
    catalog = one_is_lost()
    one = repairer(catalog)
    if said is None:
        del catalog.said["h:3"]
    else:
        catalog.said["h:3"] = said
    for _ in range(4):
        await one.look()
    assert one._memory.lost == {GONE} and one._memory.repaired == frozenset()
    catalog.said["h:3"] = status(OTHER)
    await one.look()
    assert one._memory.repaired == {GONE}


async def test_a_server_that_was_emptied_is_not_asked(asked_often: None) -> None:
    catalog = one_is_lost()
    del catalog.said["h:3"]
    catalog.rows[OTHER] = VolumeRow(OTHER, "mail-1", False, True)
    one = repairer(catalog)
    for _ in range(2):
        await one.look()
    assert one._memory.repaired == {GONE}


@pytest.mark.parametrize("found", [SimpleNamespace(epoch=2, open=True), SimpleNamespace(epoch=1, open=False)])
async def test_a_catalog_that_was_another_meanwhile_says_nothing_of_repair(found: Any, asked_often: None) -> None:
    catalog = one_is_lost()
    one = repairer(catalog)
    await one.look()
    one._link.check_in = AsyncMock(return_value=found)  # type: ignore[method-assign]
    await one.look()
    one._link.check_in = AsyncMock(return_value=one._link.state)  # type: ignore[method-assign]
    await one.look()
    assert one._memory.repaired == frozenset()
    await one.look()
    assert one._memory.repaired == {GONE}


def drainer(catalog: Volumes) -> Drainer:
    shelf: Any = type("Shelf", (list,), {"volume": Mock(id=OWN), "run": AsyncMock(return_value=[])})()
    link: Any = SimpleNamespace(catalog=catalog, state=SimpleNamespace(epoch=1, open=True))
    peers: Any = Mock(status=AsyncMock(return_value={"draining": True, "at_rest": True}))
    table: Any = Mock(return_value=MirroringTable(1, (), {}), draining=True)
    return Drainer(shelf, link, peers, Mock(unsettled=[]), Mock(current=None), table, "h:2")


async def test_a_drain_is_done_only_when_the_catalog_heard_it() -> None:
    catalog = Volumes(VolumeRow(OWN, "mail-0", False))
    one = drainer(catalog)
    before: list[Any] = []
    catalog.on_retired = lambda: before.append((one.progress, one.stays_retired()))
    catalog.away = True
    with pytest.raises(CatalogUnavailable):
        await one.look()
    assert one.progress is not None
    assert (one.progress["done"], one.progress["waiting_for"]) == (False, TO_HEAR)
    assert one.stays_retired()  # or the next check-in would undo what is about to be told
    catalog.away = False
    await one.look()
    assert one.progress["done"] and catalog.marked == [("retired", OWN)]
    assert not any(progress and progress["done"] for progress, _ in before) and all(stays for _, stays in before)
