"""Rules 8, 13 and 14."""

from __future__ import annotations

import asyncio

import pytest

from mailarray.catalog.catalog import Catalog, SealRefused
from mailarray.catalog.rows import NotRegistered, Registered
from tests.component.catalog.sidecar import BODY, Sidecar, facts, message


async def test_the_first_proposal_wins(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    await sidecar.register(message("a@x"))
    assert [s.facts for s in await catalog.unsealed_segments(sidecar.mirror)] == [sidecar.segment]
    assert await catalog.propose_seal(sidecar.segment, 300, 1) == 300
    assert await catalog.propose_seal(sidecar.segment, 200, 1) == 300
    assert await catalog.unsealed_segments(sidecar.mirror) == []
    unknown = facts(sidecar.volume, sidecar.mirror, copies=3)
    answers = await asyncio.gather(*(catalog.propose_seal(unknown, length, 1) for length in (1, 2, 3, 4)))
    assert len(set(answers)) == 1
    state = (await catalog.segments([unknown.id]))[unknown.id]
    assert (state.facts, state.sealed_length, state.cursor) == (unknown, answers[0], 0)
    counts = await catalog.counts()
    assert (counts.segments, counts.unsealed_segments, counts.under_replicated_segments) == (2, 0, 1)


async def test_a_proposal_below_the_acknowledged_is_refused(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    await sidecar.register(message("a@x"), message("a@x"))
    with pytest.raises(SealRefused, match="acknowledged"):
        await catalog.propose_seal(sidecar.segment, BODY, 1)
    assert await catalog.propose_seal(sidecar.segment, 2 * BODY, 1) == 2 * BODY


async def test_lowering_removes_what_is_past_it(catalog: Catalog) -> None:
    one, two = Sidecar(catalog, "mail-0"), Sidecar(catalog, "mail-1")
    await one.join()
    await two.check_in()
    kept, moved, gone = message("a@x"), message("a@x"), message("a@x", "b@x")
    await one.register(kept, moved, gone)
    await two.register(moved)
    await catalog.propose_seal(one.segment, 4 * BODY, 1)
    assert not await catalog.lower_seal(one.segment.id, 5 * BODY, BODY, ())
    assert await catalog.lower_seal(one.segment.id, 4 * BODY, BODY, ())
    assert not await catalog.lower_seal(one.segment.id, 4 * BODY, BODY, ())
    state = (await catalog.segments([one.segment.id]))[one.segment.id]
    assert (state.sealed_length, state.cursor, state.acknowledged) == (BODY, BODY, BODY)
    assert [(e.uid, e.message) for e in await catalog.mailbox("a@x")] == [(1, kept.id), (2, moved.id)]
    assert [place.segment for place in (await catalog.mailbox("a@x"))[1].locations] == [two.segment.id]
    assert await catalog.mailbox("b@x") == []
    # It turns up in another segment after all: mail that was lost is new again.
    await two.register(gone)
    assert [(e.uid, e.message) for e in await catalog.mailbox("b@x")] == [(2, gone.id)]


async def test_a_mirror_registers_what_the_seal_covers(catalog: Catalog) -> None:
    writer, mirror = Sidecar(catalog, "mail-0"), Sidecar(catalog, "mail-1")
    await writer.join()
    await mirror.check_in()
    await writer.register(message("a@x"))
    await catalog.propose_seal(writer.segment, 3 * BODY, 1)
    run = writer.run([message("a@x"), message("a@x")], sealed_length=3 * BODY)
    assert await catalog.register(mirror.volume, run) == Registered(1)
    assert await catalog.register(mirror.volume, run) == NotRegistered("cursor", 3 * BODY)
    assert len(await catalog.mailbox("a@x")) == 3


async def test_a_copy_on_a_drained_volume_keeps_the_length(catalog: Catalog) -> None:
    writer, drained = Sidecar(catalog, "mail-0"), Sidecar(catalog, "mail-2")
    await writer.join()
    await drained.check_in()
    await writer.register(message("a@x"), message("a@x"))
    await catalog.propose_seal(writer.segment, 2 * BODY, 1)
    assert await catalog.add_replica(writer.segment.id, drained.volume, 2 * BODY)
    await catalog.mark_retired(drained.volume)
    assert not await catalog.lower_seal(writer.segment.id, 2 * BODY, BODY, ())
    assert (await catalog.segments([writer.segment.id]))[writer.segment.id].sealed_length == 2 * BODY
    assert len(await catalog.mailbox("a@x")) == 2
    await catalog.mark_lost(drained.volume)  # then nothing is to be hoped for from it
    assert await catalog.lower_seal(writer.segment.id, 2 * BODY, BODY, ())
    assert len(await catalog.mailbox("a@x")) == 1


async def test_a_copy_that_was_told_since_keeps_the_length(catalog: Catalog) -> None:
    """From a lost volume that was back for a while: who was asked before knows nothing of it."""
    writer, copied = Sidecar(catalog, "mail-0"), Sidecar(catalog, "mail-2")
    await writer.join()
    await copied.check_in()
    await writer.register(message("a@x"), message("a@x"))
    await catalog.propose_seal(writer.segment, 2 * BODY, 1)
    assert await catalog.add_replica(writer.segment.id, copied.volume, 2 * BODY)
    assert not await catalog.lower_seal(writer.segment.id, 2 * BODY, 0, ())
    assert len(await catalog.mailbox("a@x")) == 2
    assert await catalog.lower_seal(writer.segment.id, 2 * BODY, 0, [copied.volume])  # asked: it holds less
    assert await catalog.mailbox("a@x") == []
