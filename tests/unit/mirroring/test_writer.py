"""The writer: 250 only when a batch is on every member, and no failure that loses or doubles an id."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mailarray.contract.mirroring_ring import ring
from mailarray.journal.disk import Disk
from mailarray.journal.format import Tombstone
from mailarray.mirroring import announce, backoff, writer
from mailarray.mirroring.link import MirrorFailed, MirrorLink
from mailarray.mirroring.peer import Response
from mailarray.model.ids import MessageId, PlacementId
from mailarray.model.message import Committed, Refused
from tests.unit.mirroring.doubles import Bench, held, members_of, servers


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "HEARTBEAT", 0.01)


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_a_message_is_on_both_members_when_it_is_acknowledged(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        ids = [await bench.accept(b"mail %d" % i) for i in range(3)]
        (segment,) = held(bench.volume)
        expected = {id: b"mail %d" % i for i, id in enumerate(ids)}
        assert held(bench.volume)[segment] == expected
        holders = [link for link in bench.links if held(link.store)]
        assert [held(link.store)[segment] for link in holders] == [expected]
        own, mirror = bench.volume.segment_path(segment), holders[0].store.segment_path(segment)
        assert own.read_bytes() == mirror.read_bytes()
        assert bench.writer.pending_bytes == 0 and bench.writer.accepted == 3


async def test_nothing_exists_before_the_first_batch(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        await until(lambda: bench.announcer.said)
        assert bench.volume.list_segments() == []


async def test_no_250_before_the_mirror_answers_and_one_batch_gathers_meanwhile(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=1) as bench:
        gate = bench.links[0].gate = asyncio.Event()
        first = bench.submit()
        await until(lambda: bench.volume.list_segments())
        rest = [bench.submit() for _ in range(5)]
        await asyncio.sleep(0.02)
        assert not any(heard.done() for heard in (first, *rest))
        gate.set()
        assert all(isinstance(outcome, Committed) for outcome in await asyncio.gather(first, *rest))
        (segment,) = held(bench.volume)
        assert bench.announcer.said[-1] == (segment, bench.volume.segment_path(segment).stat().st_size)


async def test_the_sidecar_hears_of_a_segment_before_it_is_acknowledged(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=1) as bench:
        gate = bench.links[0].gate = asyncio.Event()
        heard = bench.submit()
        await until(lambda: bench.volume.list_segments())
        bench.announcer.said.clear()
        await until(lambda: bench.announcer.said)
        assert bench.announcer.said[-1] == (bench.volume.list_segments()[0], 0)
        gate.set()
        await heard


async def test_a_mirror_that_fails_is_left_and_the_batch_goes_on_under_the_same_ids(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        before = await bench.accept(b"before")
        (old,) = held(bench.volume)
        link = next(link for link in bench.links if held(link.store))
        link.fail_after = 0  # it keeps the batch, and its answer is lost
        flight = await bench.accept(b"in flight")
        (new,) = set(held(bench.volume)) - {old}
        assert held(bench.volume) == {
            old: {before: b"before", flight: b"in flight"},
            new: {flight: b"in flight"},
        }
        other = next(one for one in bench.links if one is not link)
        assert held(other.store) == {new: {flight: b"in flight"}}
        assert bench.announcer.left == {old: bench.volume.segment_path(old).stat().st_size}


async def test_a_fenced_mirror_costs_a_new_segment_and_no_message(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=1) as bench:
        await bench.accept(b"one")
        (old,) = held(bench.volume)
        bench.links[0].members[old].fence()
        two = await bench.accept(b"two")
        (new,) = set(held(bench.volume)) - {old}
        assert held(bench.links[0].store)[new] == {two: b"two"}
        assert two not in held(bench.links[0].store)[old]


async def test_without_a_mirror_senders_are_asked_to_come_back_until_one_returns(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=1) as bench:
        bench.links[0].up = False
        outcome = await bench.submit()
        assert isinstance(outcome, Refused) and (outcome.code, outcome.status) == (451, "4.3.0")
        assert bench.volume.list_segments() == []
        refused = bench.writer.refusal()
        assert refused is not None and refused.code == 451
        bench.links[0].up = True
        await until(lambda: bench.writer.refusal() is None)
        await bench.accept()


async def test_a_mirror_that_refuses_batches_is_not_asked_for_each_message(tmp_path: Path) -> None:
    """It says that it serves, and refuses: this server's volume was declared lost. No segment is begun meanwhile."""
    async with Bench(tmp_path, mirrors=1) as bench:
        await bench.accept()
        link = bench.links[0]
        link.up = link.ready = False
        link.refusing = True
        assert isinstance(await bench.submit(b"one"), Refused)
        begun = len(bench.volume.list_segments())
        link.up = True
        for _ in range(3):
            assert isinstance(await bench.submit(b"two"), Refused)
        assert len(bench.volume.list_segments()) == begun
        link.refusing = False
        await bench.accept(b"three")


def test_a_refusal_is_remembered_for_a_moment() -> None:
    now = [100.0]
    link = MirrorLink(servers(1)[0], "token", 1.0, lambda: now[0])
    with pytest.raises(MirrorFailed, match="declared lost"):
        link._judge(Response(503, b'{"error": "the volume was declared lost"}'), 1, now[0])
    assert link.refusing and not link.due
    now[0] += backoff.FIRST
    assert not link.refusing and link.due


def test_a_mirror_with_a_failing_disk_is_asked_less_and_less_until_it_takes_something() -> None:
    now = [100.0]
    link = MirrorLink(servers(1)[0], "token", 1.0, lambda: now[0])
    failed = Response(507, b'{"error": "the volume failed: Input/output error"}')
    for pause in (backoff.FIRST, 2 * backoff.FIRST):
        with pytest.raises(MirrorFailed, match="Input/output"):
            link._judge(failed, 1, now[0])
        now[0] += pause - 0.01
        assert link.refusing and not link.due
        now[0] += 0.01
        assert not link.refusing and link.due
    link._judge(Response(200, b'{"length": 1}'), 0, now[0])  # the word of an idle writer proves no disk
    with pytest.raises(MirrorFailed):
        link._judge(failed, 1, now[0])
    now[0] += 4 * backoff.FIRST - 0.01
    assert link.refusing
    link._judge(Response(200, b'{"length": 1}'), 1, now[0])
    assert not link.refusing


def test_a_mirror_that_is_full_is_there_for_deletions() -> None:
    now = [100.0]
    link = MirrorLink(servers(1)[0], "token", 1.0, lambda: now[0])
    with pytest.raises(MirrorFailed, match="nearly full"):
        link._judge(Response(507, b'{"error": "the volume is nearly full", "full": true}'), 1, now[0])
    assert link.full and not link.refusing


async def test_mirror_loss_may_be_accepted(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=1, on_mirror_loss="Accept") as bench:
        bench.links[0].up = False
        await bench.accept(b"alone")
        (alone,) = held(bench.volume)
        assert members_of(bench.volume, alone) == 1
        bench.links[0].up = True
        await until(lambda: bench.writer.segment is None)  # a missing mirror returned
        await bench.accept(b"together")
        (pair,) = held(bench.links[0].store)
        assert members_of(bench.volume, pair) == 2


async def test_an_under_replicated_segment_is_left_when_a_mirror_returns(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=2, copies=3) as bench:
        bench.links[1].up = False
        await bench.accept()
        (first,) = held(bench.volume)
        assert members_of(bench.volume, first) == 2
        bench.links[1].up = True
        await until(lambda: bench.writer.segment is None)
        await bench.accept()
        (second,) = set(held(bench.volume)) - {first}
        assert members_of(bench.volume, second) == 3
        assert all(second in held(link.store) for link in bench.links)


async def test_a_segment_is_left_when_a_mirror_of_the_best_class_returns(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=2, zones=("east", "west", "east")) as bench:
        far, near = bench.links
        far.up = False
        await bench.accept()
        assert (len(held(far.store)), len(held(near.store))) == (0, 1)
        far.up = True
        await until(lambda: bench.writer.segment is None)
        await bench.accept()
        assert (len(held(far.store)), len(held(near.store))) == (1, 1)
        near.up = near.ready = False
        near.up = near.ready = True  # of the worse class: nothing is left for it
        bench.writer._rotate()
        assert bench.writer.segment is not None


async def test_segments_take_turns_among_the_mirrors(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=3, segment_size=1) as bench:
        for _ in range(6):
            await bench.accept()
        assert [len(held(link.store)) for link in bench.links] == [2, 2, 2]


class FullDisk(Disk):
    """Takes `room` writes, then none."""

    def __init__(self) -> None:
        self.room = 1 << 30
        self.error = errno.ENOSPC

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> None:
        if self.room <= 0:
            raise OSError(self.error, "No space left on device")
        self.room -= 1
        super().write(fd, buffers, offset)


@pytest.mark.parametrize("low,code", [(True, 452), (False, 451)])
async def test_a_full_disk_refuses_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: bool, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk()
    async with Bench(tmp_path, mirrors=1, disk=disk) as bench:
        one = await bench.accept(b"one")
        (first,) = held(bench.volume)
        length = bench.volume.segment_path(first).stat().st_size
        disk.room = 0
        monkeypatch.setattr(bench.writer, "_space_is_low", lambda: low)
        with caplog.at_level(logging.CRITICAL):
            outcome = await bench.submit(b"two")
        assert isinstance(outcome, Refused) and outcome.code == code
        assert (bench.writer.disk_error is None) is low  # a full disk is not a broken one
        assert bench.announcer.left[first] == length  # durable, not what the page cache may show
        disk.room = 1 << 30
        monkeypatch.setattr(bench.writer, "_space_is_low", lambda: False)
        bench.clock += backoff.FIRST
        await until(lambda: bench.writer.refusal() is None)
        three = await bench.accept(b"three")
        found = held(bench.volume)
        assert found.pop(first) == {one: b"one"}
        assert list(found.values()) == [{three: b"three"}]
        assert bench.writer.disk_error is None


async def test_a_failing_disk_is_not_tried_for_each_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = FullDisk()
    async with Bench(tmp_path, mirrors=1, disk=disk) as bench:
        await bench.accept(b"one")
        disk.room = 0
        with caplog.at_level(logging.CRITICAL):
            for pause in (backoff.FIRST, 2 * backoff.FIRST, 4 * backoff.FIRST, backoff.MOST, backoff.MOST):
                assert isinstance(await bench.submit(b"two"), Refused)
                tried = len(bench.volume.list_segments())
                for _ in range(3):
                    assert isinstance(await bench.submit(b"three"), Refused)
                assert len(bench.volume.list_segments()) == tried
                assert bench.writer.refusal() is not None
                bench.clock += pause
                await until(lambda: bench.writer.refusal() is None)
        disk.room = 1 << 30
        await bench.accept(b"four")


async def test_the_reserve_is_kept_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Bench(tmp_path, reserve=1000) as bench:
        monkeypatch.setattr(bench.volume, "free_bytes", lambda: 999, raising=False)
        await until(lambda: bench.writer.refusal() is not None)
        refused = bench.writer.refusal()
        assert refused is not None and refused.code == 452
        monkeypatch.setattr(bench.volume, "free_bytes", lambda: 1000, raising=False)
        await until(lambda: bench.writer.refusal() is None)


async def test_a_fence_during_an_append(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=1) as bench:
        await bench.accept(b"one")
        (old,) = held(bench.volume)
        gate = bench.links[0].gate = asyncio.Event()
        heard = bench.submit(b"two")
        await until(lambda: len(held(bench.volume)[old]) == 2)  # on the own volume, not on the mirror
        answer = await bench.writer.fence(old)
        assert answer is not None and answer.length == bench.volume.segment_path(old).stat().st_size
        gate.set()
        two = await heard
        assert isinstance(two, Committed)
        three = await bench.accept(b"three")
        found = held(bench.volume)
        assert two.id in found[old]  # what was acknowledged lies below the length that the fence answered
        assert three not in found[old]
        assert await bench.writer.fence(old) is None  # no longer this process' to promise for


@pytest.mark.parametrize("setting,value", [("segment_size", 600), ("segment_age", 30.0)])
async def test_segments_end_by_size_and_by_age(tmp_path: Path, setting: str, value: float) -> None:
    changed: dict[str, Any] = {setting: value}
    async with Bench(tmp_path, **changed) as bench:
        await bench.accept(b"x" * 100)
        assert bench.writer.segment is not None
        bench.clock += 29
        await bench.accept(b"x" * 300)
        if setting == "segment_size":
            assert bench.writer.segment is None
        bench.clock += 1
        await until(lambda: bench.writer.segment is None)


async def test_a_changed_row_ends_the_segment_and_another_table_does_not(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=2) as bench:
        await bench.accept()
        segment = bench.writer.segment
        assert bench.writer.set_table(ring(servers(3), 2)) and bench.writer.segment is segment
        assert bench.writer.set_table(ring(servers(2), 3)) and bench.writer.segment is None
        assert not bench.writer.set_table(ring(servers(3), 2))
        bench.attach()
        await bench.accept()
        assert len(held(bench.links[0].store)) >= 1


async def test_a_stop_finishes_what_was_submitted(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=1) as bench:
        gate = bench.links[0].gate = asyncio.Event()
        heard = [bench.submit(b"%d" % i) for i in range(20)]
        await until(lambda: bench.volume.list_segments())
        stopping = asyncio.create_task(bench.writer.stop())
        await asyncio.sleep(0)
        refused = bench.writer.refusal()
        assert refused is not None and refused.code == 421
        gate.set()
        await stopping
        assert bench.task is not None
        await bench.task
        assert all(isinstance(h.result(), Committed) for h in heard)
        assert len(bench.announcer.left) == 1
        late = await bench.submit(b"late")
        assert isinstance(late, Refused) and late.code == 421
        assert isinstance(await bench.writer.expunge([]), Refused)


async def test_an_idle_writer_touches_its_mirrors(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=1) as bench:
        await bench.accept()
        bench.clock += 1
        await until(lambda: bench.links[0].touches > 1)
        bench.links[0].up = False
        bench.clock += 1
        await until(lambda: bench.writer.segment is None)  # found before the next message had to wait for it


async def test_tombstones_are_journalled_like_mail(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=1) as bench:
        id = MessageId(await bench.accept())
        outcome = await bench.writer.expunge([Tombstone(PlacementId(id, 0), id, "anna@mail.example")])
        assert isinstance(outcome, Committed)
        (mirror,) = held(bench.links[0].store).values()
        assert set(mirror) == {id, outcome.id}


async def test_the_batch_is_given_up_after_a_few_segments(tmp_path: Path) -> None:
    async with Bench(tmp_path, mirrors=1) as bench:
        bench.links[0].fail_after = 0
        original = bench.links[0].probe

        async def flapping() -> bool:  # answers every question, and fails every PUT
            bench.links[0].up = True
            bench.links[0].fail_after = 0
            return await original()

        bench.links[0].probe = flapping  # type: ignore[method-assign]
        outcome = await bench.submit(b"unlucky")
        assert isinstance(outcome, Refused) and outcome.code == 451
        assert len(held(bench.volume)) == writer.MAX_ATTEMPTS
        assert len({id for found in held(bench.volume).values() for id in found}) == 1


def test_announcements_come_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    import json

    raw = {"incarnation": "ab" * 16, "worker": 1, "segment": None, "acknowledged": 0, "closed": {"cd" * 16: 7}}
    parsed = announce.parse(json.dumps(raw).encode())
    assert (parsed.segment, parsed.closed) == (None, {b"\xcd" * 16: 7})
    for bad in (b"", b"[]", b"{}", b'{"incarnation": 1}'):
        with pytest.raises(ValueError):
            announce.parse(bad)
    assert bench.writer.segment is None


async def test_a_draining_server_leaves_its_segment_after_each_batch_until_it_serves_again(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        await bench.accept(b"before")
        own, *rest = servers(3)
        assert bench.writer.set_table(ring([dataclasses.replace(own, state="Draining"), *rest], 7))
        assert bench.writer.draining
        await until(lambda: bench.writer.at_rest)
        await bench.accept(b"on its way")
        await until(lambda: bench.writer.at_rest)
        assert len(held(bench.volume)) == 2
        assert bench.writer.set_table(ring([own, *rest], 8))
        await bench.accept(b"after")
        await bench.accept(b"after")
        assert not bench.writer.draining and not bench.writer.at_rest and len(held(bench.volume)) == 3
