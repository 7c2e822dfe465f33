"""Where one message lies: what a person is told."""

from __future__ import annotations

from mailarray.catalog.catalog import Catalog
from mailarray.cli.locate import render
from mailarray.model.ids import new_message_id
from tests.component.catalog.sidecar import BODY, Sidecar, message, tombstone


async def test_a_message_with_two_mailboxes_on_two_servers(catalog: Catalog) -> None:
    mirror = Sidecar(catalog, "mail-1")
    sidecar = Sidecar(catalog, "mail-0", mirror.volume)
    await sidecar.join()
    await mirror.check_in()
    first, row = message("c@x"), message("b@x", "a@x")
    await sidecar.register(first, row)
    answer = await catalog.locate(row.id)
    assert answer.catalog_open
    found = render(answer)
    assert found["message"] == row.id.hex()
    assert found["received_at"] == "2023-11-14T22:13:20.000Z"
    assert (found["sender"], found["size"]) == ("sender@far.example", BODY)
    assert found["mailboxes"] == [
        {"mailbox": "a@x", "uid": 1, "uidl": f"{row.id.hex()}.1"},
        {"mailbox": "b@x", "uid": 1, "uidl": f"{row.id.hex()}.0"},
    ]
    assert found["places"] == [
        {
            "segment": sidecar.segment.id.hex(),
            "offset": BODY,
            "sealed": False,
            "copies": 2,
            "superseded": False,
            "holders": [
                {"server": "mail-0", "volume": sidecar.volume.hex(), "role": "writer", "lost": False, "retired": False},
                {"server": "mail-1", "volume": mirror.volume.hex(), "role": "mirror", "lost": False, "retired": False},
            ],
        }
    ]


async def test_lost_volumes_and_deletions_are_said(catalog: Catalog) -> None:
    mirror = Sidecar(catalog, "mail-1")
    sidecar = Sidecar(catalog, "mail-0", mirror.volume)
    await sidecar.join()
    await mirror.check_in()
    row = message("a@x", "b@x")
    await sidecar.register(row)
    await catalog.mark_lost(mirror.volume)
    await catalog.expunge([tombstone(row)])
    found = render(await catalog.locate(row.id))
    assert [m["mailbox"] for m in found["mailboxes"]] == ["b@x"]
    assert found["deleted_from"] == ["a@x"]
    assert [h["lost"] for h in found["places"][0]["holders"]] == [False, True]


async def test_repaired_copies_of_sealed_segments_and_drained_volumes(catalog: Catalog) -> None:
    mirror, third = Sidecar(catalog, "mail-1"), Sidecar(catalog, "mail-2")
    sidecar = Sidecar(catalog, "mail-0", mirror.volume)
    await sidecar.join()
    await mirror.check_in()
    await third.check_in()
    row = message("a@x")
    await sidecar.register(row)
    await catalog.propose_seal(sidecar.segment, sidecar.at, sidecar.epoch)
    assert await catalog.add_replica(sidecar.segment.id, third.volume, sidecar.at)
    await catalog.mark_retired(mirror.volume)
    (place,) = render(await catalog.locate(row.id))["places"]
    assert place["sealed"]
    assert [(h["server"], h["role"], h["retired"]) for h in place["holders"]] == [
        ("mail-0", "writer", False),
        ("mail-1", "mirror", True),
        ("mail-2", "repaired", False),
    ]


async def test_an_unknown_message_and_a_closed_catalog(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.check_in()
    assert render(await catalog.locate(new_message_id())) == {"catalog_open": False, "message": None}
    row = message("a@x")
    await sidecar.register(row)
    found = render(await catalog.locate(row.id))  # closed, and told all the same
    assert not found["catalog_open"] and found["message"] == row.id.hex()
    assert found["places"][0]["holders"][1]["server"] == ""  # the mirror never checked in
