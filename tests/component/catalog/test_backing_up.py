"""What a backup takes out of the catalog and a restore puts back."""

from __future__ import annotations

import pytest

from mailarray.catalog.catalog import Catalog
from mailarray.catalog.rows import FlagRow, SealedRow
from mailarray.model.ids import PlacementId, new_message_id
from tests.component.catalog.sidecar import BODY, Sidecar, message


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailarray.catalog.backing_up.PAGE", 2)


async def test_flags_go_out_page_by_page_and_come_back(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    await sidecar.register(message("a@x"), message("a@x", "b@x"), message("b@x"), message("a@x"))
    entries = {box: await catalog.mailbox(box) for box in ("a@x", "b@x")}
    wanted = {(box, e.placement): 3 + i for box in entries for i, e in enumerate(entries[box]) if i != 1}
    rows = [FlagRow((0, 0), box, placement, flags) for (box, placement), flags in wanted.items()]
    rows.append(FlagRow((0, 0), "a@x", PlacementId(new_message_id(), 0), 9))  # not there
    rows.append(FlagRow((0, 0), "nobody@x", entries["a@x"][0].placement, 9))
    assert await catalog.set_flags(rows) == len(wanted) >= 3
    found: list[FlagRow] = []
    while page := await catalog.flags(found[-1].key if found else (0, 0)):
        assert len(page) <= 2
        found += page
    assert {(row.mailbox, row.placement): row.flags for row in found} == wanted
    assert await catalog.set_flags([]) == 0


async def test_segments_and_mailboxes_page_by_page(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    segments = []
    for number in range(5):
        await sidecar.register(message(f"{number}@x"))
        segments.append(sidecar.segment)
        if number % 2:
            await catalog.propose_seal(sidecar.segment, BODY, sidecar.epoch)
        sidecar.next_segment()
    rows: list[SealedRow] = []
    while page := await catalog.segment_rows(rows[-1].number if rows else 0):
        rows += page
    assert [(row.id, row.sealed_length) for row in rows] == [
        (segment.id, BODY if number % 2 else None) for number, segment in enumerate(segments)
    ]
    addresses: list[str] = []
    while names := await catalog.mailbox_addresses(addresses[-1] if addresses else ""):
        addresses += names
    assert addresses == [f"{number}@x" for number in range(5)]


async def test_uidvalidity_only_grows(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    await sidecar.register(message("a@x"))
    before = (await catalog.state()).uidvalidity
    await catalog.raise_uidvalidity(before + 100)
    assert (await catalog.state()).uidvalidity == before + 101
    await catalog.raise_uidvalidity(before)
    assert (await catalog.state()).uidvalidity == before + 101
