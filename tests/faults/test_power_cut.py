"""Power cuts: what was acknowledged is there afterwards, once, and what was deleted stays deleted.

Two things are shown. An array under load keeps its promises through power cuts of one server and of all at once. And
each sync that guards mail is needed: with that one left out, a scenario finds the loss.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mailarray.catalog.rows import MailboxEntry, SegmentFacts
from mailarray.journal.disk import SyncPoint
from mailarray.journal.fence import load_fence
from mailarray.journal.format import SegmentHeader, Tombstone, crc32c
from mailarray.journal.member import FencedError, Member
from mailarray.journal.scan import survey
from mailarray.journal.volume import VolumeError, open_volume
from mailarray.model.ids import MessageId, PlacementId, VolumeId, new_incarnation_id, new_segment_id
from mailarray.model.message import Committed
from mailarray.tracking.output import Output
from mailarray.tracking.part import Part
from tests.support.array_of_three import Array, fast_clocks
from tests.support.powercut import PowerCutDisk
from tests.support.segments import Made, made, mail

MAILBOXES = ("anna@mail.example", "ben@mail.example", "cleo@mail.example")
SEEDS = int(os.environ.get("POWER_CUT_SEEDS", "6"))  # more of them for a longer look
GUARDS = [point for point in SyncPoint if not point.name.startswith("MEMORY_")]


class Ledger:
    """What senders and readers were told."""

    def __init__(self) -> None:
        self.acknowledged: dict[MessageId, tuple[bytes, tuple[str, ...]]] = {}
        self.deleted: set[PlacementId] = set()  # acknowledged
        self.perhaps_deleted: set[PlacementId] = set()


class Fleet:
    """An array whose servers lose power, with its ledger."""

    def __init__(self, root: Path, seed: int, omit: frozenset[SyncPoint] = frozenset()) -> None:
        self.dice = random.Random(seed)
        self.disks = [PowerCutDisk(omit) for _ in range(3)]
        self.array = Array(root, list(self.disks))
        self.ledger = Ledger()
        self._number = 0

    async def deliver(self, index: int) -> None:
        self._number += 1
        boxes = tuple(self.dice.sample(MAILBOXES, self.dice.randint(1, 2)))
        body = b"Subject: %d\r\n\r\n" % self._number + self.dice.randbytes(self.dice.choice((0, 50, 3000)))
        outcome = await self.array.servers[index].deliver(body, *boxes)
        if isinstance(outcome, Committed):
            self.ledger.acknowledged[outcome.id] = (body, boxes)

    async def expunge(self, index: int) -> None:
        ledger = self.ledger
        message = self.dice.choice(list(ledger.acknowledged))
        boxes = ledger.acknowledged[message][1]
        position = self.dice.randrange(len(boxes))
        placement = PlacementId(message, position)
        ledger.perhaps_deleted.add(placement)
        outcome = await self.array.servers[index].expunge(Tombstone(placement, message, boxes[position]))
        if isinstance(outcome, Committed):
            ledger.deleted.add(placement)

    async def load(self, index: int, steps: int) -> None:
        """Work at one server until its power goes."""
        for _ in range(steps):
            if self.ledger.acknowledged and self.dice.random() < 0.15:
                await self.expunge(index)
            else:
                await asyncio.gather(*(self.deliver(index) for _ in range(self.dice.randint(1, 4))))

    async def cut(self, *indices: int, keep: bool) -> None:
        """All at the same moment."""
        for index in indices:
            self.disks[index] = self.disks[index].power_cut(self.dice.randrange(1 << 30), keep)
        for index in indices:
            server = self.array.servers[index]
            await server.kill()
            server.disk = self.disks[index]

    async def restart(self, *indices: int) -> None:
        for index in indices:
            await self.array.servers[index].start()

    async def check(self) -> None:
        """Every promise, read from the catalog and from the volumes that it names."""
        for server in self.array.servers:
            await server.kill_writer()
        await self.array.settled()
        catalog = await self.array.catalog()
        found: dict[PlacementId, tuple[str, MailboxEntry]] = {}
        for box in MAILBOXES:
            for entry in await catalog.mailbox(box):
                assert entry.placement not in found, "a placement twice"
                found[entry.placement] = (box, entry)
        for message, (body, boxes) in self.ledger.acknowledged.items():
            for position, box in enumerate(boxes):
                placement = PlacementId(message, position)
                if placement in self.ledger.deleted:
                    assert placement not in found, "a deleted message is back"
                    continue
                if placement in self.ledger.perhaps_deleted and placement not in found:
                    continue
                assert placement in found, f"an acknowledged message is gone from {box}"
                assert found[placement][0] == box
                assert self.read(found[placement][1]) == {body}
        for _, entry in found.values():  # also what nobody was told of: readable, or not there
            assert len(self.read(entry)) == 1

    def read(self, entry: MailboxEntry) -> set[bytes]:
        """The bodies that the named replicas give out."""
        bodies = set()
        for location in entry.locations:
            for server in self.array.servers:
                assert server.agent is not None
                volume = server.agent.volume
                path = volume.segment_path(location.segment)
                if volume.id in location.members and path.exists():
                    body = path.read_bytes()[location.offset : location.offset + location.length]
                    if len(body) == location.length and crc32c(body) == entry.checksum:
                        bodies.add(body)
        return bodies


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_no_promise_is_broken_by_power_cuts(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print("seed", seed)
    fast_clocks(monkeypatch)
    fleet = Fleet(tmp_path, seed)
    dice, keep = fleet.dice, bool(seed % 2)
    try:
        await fleet.array.start()
        for _ in range(3):
            hit = (0, 1, 2) if dice.random() < 0.5 else (dice.randrange(3),)
            work = [asyncio.create_task(fleet.load(index, 12)) for index in range(3)]
            await asyncio.sleep(dice.uniform(0.02, 0.25))
            await fleet.cut(*hit, keep=keep)
            await asyncio.sleep(dice.uniform(0, 0.1))
            for index in hit:
                work[index].cancel()
            await fleet.restart(*hit)
            await asyncio.gather(*work, return_exceptions=True)
        await fleet.check()
        assert len(fleet.ledger.acknowledged) > 10
        print(len(fleet.ledger.acknowledged), "acknowledged,", len(fleet.ledger.deleted), "deleted")
    finally:
        await fleet.array.close()


# -- each sync is needed -----------------------------------------------------------------------------------------------
# A scenario raises Lost when a promise is broken. With every sync in place none does; with its own left out it does.


class Lost(Exception):
    """A promise that the power cut broke."""


def append(member: Member, segment: Made, piece: bytes) -> None:
    end = len(segment.data)
    member.append(segment.header, [piece], end - len(piece), end, 0)


def length_after(disk: PowerCutDisk, path: Path, segment: Made, own: bool) -> int:
    again = open_volume(path, disk)
    return Member.recover(again, segment.header.segment, own).fence().length


def batches_are_kept(path: Path, disk: PowerCutDisk, own: bool) -> None:
    """Acknowledged batches survive: the first, and one behind it."""
    segment = made()
    where = open_volume(path, disk)
    member = Member(where, segment.header.segment, own)
    for _ in range(2):
        append(member, segment, segment.add([mail()]))
    if length_after(disk.power_cut(), path, segment, own) < len(segment.data):
        raise Lost("acknowledged batches")


def recovered_bytes_are_kept(path: Path, disk: PowerCutDisk) -> None:
    """A process dies between write and sync; the next one offers the batch, answers for it, and the power goes."""
    segment = made()
    where = open_volume(path, disk)
    first = Member(where, segment.header.segment, own=False)
    append(first, segment, segment.add([mail()]))
    piece = segment.add([mail()])
    first.write([piece], len(segment.data) - len(piece))  # and no more of that process
    second = Member.recover(open_volume(path, disk), segment.header.segment, own=False)
    answered = second.fence().length
    if answered != len(segment.data):
        raise AssertionError("the scenario wants the batch in the page cache")
    disk.power_cut()
    fd = (path / "segments" / where.segment_path(segment.header.segment).name).open("rb")
    with fd:
        if survey(fd.fileno(), segment.header.segment).length < answered:
            raise Lost("bytes that a fence had answered for")


def filled_bytes_are_kept(path: Path, disk: PowerCutDisk) -> None:
    """As before, of a sealed segment: the process died while it fetched what it lacked below L."""
    segment = made()
    where = open_volume(path, disk)
    first = Member(where, segment.header.segment, own=False)
    append(first, segment, segment.add([mail()]))
    piece = segment.add([mail()])
    first.remember(len(segment.data), 1)
    first.write([piece], len(segment.data) - len(piece))
    second = Member.recover(open_volume(path, disk), segment.header.segment, own=False)
    if second.length == len(segment.data) and length_after(disk.power_cut(), path, segment, False) < second.length:
        raise Lost("bytes below L that were offered")


def fence_is_kept(path: Path, disk: PowerCutDisk) -> None:
    """After a fence was answered nothing is taken, also when the answer was a second one after a crash."""
    for died_at in (None, SyncPoint.FENCE_NAME):
        segment = made()
        where = open_volume(path, disk)
        member = Member(where, segment.header.segment, own=False)
        append(member, segment, segment.add([mail()]))
        if died_at is not None:
            die_at(disk, died_at)
            with pytest.raises(ProcessDied):
                member.fence()
            disk.hook = lambda point: None
            member = Member.recover(open_volume(path, disk), segment.header.segment, own=False)
        member.fence()
        disk = disk.power_cut()
        again = Member.recover(open_volume(path, disk), segment.header.segment, own=False)
        try:
            again.check_append(again.length)
        except FencedError:
            continue
        raise Lost("a fence that was answered")


def remembered_length_is_kept(path: Path, disk: PowerCutDisk) -> None:
    segment = made()
    where = open_volume(path, disk)
    member = Member(where, segment.header.segment, own=False)
    append(member, segment, segment.add([mail()]))
    member.remember(len(segment.data), 4)
    again = Member.recover(open_volume(path, disk.power_cut()), segment.header.segment, own=False)
    if (again.fence_state.sealed_length, again.fence_state.epoch) != (len(segment.data), 4):
        raise Lost("a remembered L that was obeyed")


def copied_segment_is_kept(path: Path, disk: PowerCutDisk) -> None:
    """A repaired copy was told to the catalog, and counts as one."""
    segment = made()
    segment.add([mail()])
    where = open_volume(path, disk)
    part = Part(where, segment.header.segment)
    part.append(memoryview(segment.data))
    header = segment.header
    facts = SegmentFacts(header.segment, header.writer, header.incarnation, 0, header.members, header.copies)
    assert part.problem(facts, len(segment.data)) is None
    part.finish(len(segment.data), 1)
    part.close()
    if length_after(disk.power_cut(), path, segment, False) < len(segment.data):
        raise Lost("a copy that was told to the catalog")


def compacted_segment_is_kept(path: Path, disk: PowerCutDisk) -> None:
    """It was told to the catalog, and its inputs went."""
    where = open_volume(path, disk)
    header = SegmentHeader(new_segment_id(), where.id, new_incarnation_id(), 0, 1, 2, (where.id,))
    output = Output(where, header)
    output.end([new_segment_id()])
    output.finish(1)
    output.close()
    again = Member.recover(open_volume(path, disk.power_cut()), header.segment, True)
    if again.length < output.size or again.fence_state.sealed_length != output.size:
        raise Lost("a compacted segment that was offered")


def that_it_counts_is_kept(path: Path, disk: PowerCutDisk) -> None:
    segment = made()
    member = Member(open_volume(path, disk), segment.header.segment, own=True)
    append(member, segment, segment.add([mail()]))
    member.note_counts()
    again = Member.recover(open_volume(path, disk.power_cut()), segment.header.segment, own=True)
    if not again.fence_state.counts:
        raise Lost("that a compacted segment stands for its inputs")


def dropped_segment_stays_dropped(path: Path, disk: PowerCutDisk) -> None:
    """Its fence was answered before, and its room counts as free."""
    segment = made()
    where = open_volume(path, disk)
    member = Member(where, segment.header.segment, own=False)
    append(member, segment, segment.add([mail()]))
    member.drop()
    disk.power_cut()
    if not load_fence(where, segment.header.segment).dropped:
        raise Lost("that the segment was dropped")
    if where.segment_path(segment.header.segment).exists():
        raise Lost("the room of a dropped segment")


def volume_id_is_kept(path: Path, disk: PowerCutDisk) -> None:
    """A server says who it is, a mirror's header names it, the power goes: it must still be the same volume."""
    first = open_volume(path, disk).id
    used: VolumeId = first
    segment = made(used)
    where = open_volume(path, disk)
    append(Member(where, segment.header.segment, own=True), segment, segment.add([mail()]))
    try:
        again = open_volume(path, disk.power_cut()).id
    except VolumeError as error:
        raise Lost(str(error)) from error
    if again != used:
        raise Lost("the volume's id")


class ProcessDied(BaseException):
    """SIGKILL, in the middle of a call."""


def die_at(disk: PowerCutDisk, wanted: SyncPoint) -> None:
    def hook(point: SyncPoint) -> None:
        if point is wanted:
            raise ProcessDied

    disk.hook = hook


Scenario = Callable[[Path, PowerCutDisk], None]
SCENARIOS: dict[SyncPoint, list[Scenario]] = {
    SyncPoint.VOLUME_FILE: [volume_id_is_kept],
    SyncPoint.VOLUME_DIRECTORY: [volume_id_is_kept],
    SyncPoint.OWN_BATCH: [lambda path, disk: batches_are_kept(path, disk, own=True)],
    SyncPoint.OWN_SEGMENT_NAME: [lambda path, disk: batches_are_kept(path, disk, own=True)],
    SyncPoint.MIRROR_BATCH: [lambda path, disk: batches_are_kept(path, disk, own=False)],
    SyncPoint.MIRROR_SEGMENT_NAME: [lambda path, disk: batches_are_kept(path, disk, own=False)],
    SyncPoint.FENCE_FILE: [
        fence_is_kept,
        remembered_length_is_kept,
        that_it_counts_is_kept,
        dropped_segment_stays_dropped,
    ],
    SyncPoint.FENCE_NAME: [
        fence_is_kept,
        remembered_length_is_kept,
        copied_segment_is_kept,
        compacted_segment_is_kept,
        that_it_counts_is_kept,
    ],
    SyncPoint.COPY_FILE: [copied_segment_is_kept],
    SyncPoint.OUTPUT_FILE: [compacted_segment_is_kept],
    SyncPoint.DROPPED: [dropped_segment_stays_dropped],
    SyncPoint.RECOVERED: [recovered_bytes_are_kept, filled_bytes_are_kept],
}
PAIRS = [(point, scenario) for point, scenarios in SCENARIOS.items() for scenario in scenarios]


def test_every_sync_that_guards_mail_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(GUARDS)


@pytest.mark.parametrize("point,scenario", PAIRS)
def test_with_all_syncs_nothing_is_lost(point: SyncPoint, scenario: Scenario, tmp_path: Path) -> None:
    disk = PowerCutDisk()
    scenario(tmp_path / "volume", disk)
    assert disk.synced[point] > 0  # the scenario passes the place that it is about


@pytest.mark.parametrize("point,scenario", PAIRS)
def test_leaving_out_a_sync_is_found(point: SyncPoint, scenario: Scenario, tmp_path: Path) -> None:
    with pytest.raises((Lost, VolumeError)):
        scenario(tmp_path / "volume", PowerCutDisk(frozenset({point})))
