"""Room that is left on nearly full volumes is for deletions."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from mailarray.contract.mirroring_ring import mirrors_among, ring_rows
from mailarray.journal.format import Tombstone
from mailarray.mirroring.gather import PendingMessage, PendingTombstones, deletions_first, gather
from mailarray.model.ids import PlacementId, new_message_id
from mailarray.model.message import Committed, Refused
from tests.unit.mirroring.doubles import Bench, FakeLink, held, members_of, servers


async def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def tombstone() -> Tombstone:
    message = new_message_id()
    return Tombstone(PlacementId(message, 0), message, "anna@mail.example")


class FullLink(FakeLink):
    """Says that it is nearly full."""

    async def probe(self) -> bool:
        self.full, self.ready = self.up, False
        return False


def fill(bench: Bench) -> None:
    bench.links = [FullLink(link.server, link.store) for link in bench.links]
    bench.attach()


async def test_mirrors_that_are_full_take_deletions_and_no_mail(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=1) as bench:
        roomy = bench.links
        fill(bench)
        outcome = await bench.submit(b"one")
        assert isinstance(outcome, Refused) and outcome.code == 451
        assert isinstance(await bench.writer.expunge([tombstone()]), Committed)
        (segment,) = held(bench.volume)
        assert members_of(bench.volume, segment) == 2
        assert bench.links[0].members[segment].length  # durable on both
        assert bench.writer.refusal() is not None  # mail is refused at MAIL
        # Room again: mail goes, and not into the segment that was begun for deletions.
        bench.links = roomy
        bench.attach()
        await until(lambda: bench.writer.refusal() is None)
        await bench.accept(b"two")
        assert len(held(bench.volume)) == 2


async def test_mail_leaves_a_segment_of_deletions_even_when_its_mirror_still_answers(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=2) as bench:
        fill(bench)
        assert isinstance(await bench.writer.expunge([tombstone()]), Committed)
        (first,) = held(bench.volume)
        roomy = FakeLink(bench.links[1].server, bench.links[1].store)
        bench.links[1] = roomy
        bench.attach()
        await bench.accept(b"one")
        assert list(held(bench.volume)[first]) != [] and len(held(bench.volume)) == 2
        assert list(roomy.members) != [first]


async def test_deletions_do_not_wait_behind_mail_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Bench(tmp_path, mirrors=1, reserve=1000) as bench:
        await bench.accept(b"one")
        monkeypatch.setattr(bench.volume, "free_bytes", lambda: 999, raising=False)
        mails = [bench.submit(b"two"), bench.submit(b"three")]
        deleted = await bench.writer.expunge([tombstone()])
        assert isinstance(deleted, Committed)
        for mail in mails:
            outcome = await mail
            assert isinstance(outcome, Refused) and (outcome.code, outcome.status) == (452, "4.3.1")


def test_what_is_gathered_apart_is_of_one_kind() -> None:
    stones = [PendingTombstones((tombstone(),), lambda outcome: None) for _ in range(2)]
    queue: deque[PendingMessage | PendingTombstones] = deque([stones[0], stones[1]])
    deletions_first(queue)
    assert list(queue) == stones
    assert gather(queue, 1000, apart=True).batch.entries == 2


@pytest.mark.parametrize(("copies", "full", "out"), [(2, {"mail-1"}, True), (2, {"mail-1", "mail-2"}, False)])
def test_a_full_server_is_in_nobodys_row_while_enough_others_are_left(copies: int, full: set[str], out: bool) -> None:
    every = servers(4)
    rows = ring_rows(mirrors_among(every, full, copies))
    named = {name for row in rows.values() for group in row for name in group}
    assert set(rows) == {server.name for server in every}
    assert (not named & full) is out
    assert all(rows.values())
    assert ring_rows(mirrors_among(every, (), copies)) == ring_rows(every)
