"""Reading ahead: what is read together, and that the budgets hold whatever a client does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, cast

import pytest
from crc32c import crc32c

from mailarray.access.maildrop import Message
from mailarray.access.prefetch import WINDOW_BYTES, Budget, ReadAhead, runs
from mailarray.access.replicas import NoReplica, ReplicaReader
from mailarray.catalog.rows import Location
from mailarray.model.ids import MessageId, PlacementId, SegmentId, VolumeId

VOLUMES = (VolumeId(b"a" * 16), VolumeId(b"b" * 16))


def message(number: int, offset: int, length: int, segment: bytes = b"s" * 16) -> Message:
    identity = MessageId(number.to_bytes(16, "big"))
    where = Location(SegmentId(segment), offset, length, VOLUMES)
    return Message(PlacementId(identity, 0), identity, length, crc32c(b""), (where,))


class FakeReader:
    """Answers a body that names its message; fails for those in `broken`."""

    def __init__(self) -> None:
        self.broken: set[MessageId] = set()

    async def body(self, message: Message) -> bytes:
        await asyncio.sleep(0)
        if message.message in self.broken:
            raise NoReplica
        return message.message

    async def run(self, messages: Sequence[Message]) -> list[bytes]:
        return [await self.body(m) for m in messages]


def test_runs() -> None:
    messages = [
        message(0, 0, 100),
        message(1, 300, 100),  # near
        message(2, 1_000_000, 100),  # far
        message(3, 1_000_200, 100),
        message(4, 1_000_400, 100, segment=b"t" * 16),  # elsewhere
        message(5, 0, 100, segment=b"t" * 16),  # before
    ]
    assert list(runs(messages, range(6))) == [[0, 1], [2, 3], [4], [5]]


def test_a_run_does_not_grow_without_bound() -> None:
    messages = [message(i, i * 16_000, 100) for i in range(200)]
    assert max(len(run) for run in runs(messages, range(200))) <= 66


@pytest.mark.parametrize("seed", range(20))
async def test_every_client_gets_what_it_asks_for_and_the_budget_comes_back(seed: int) -> None:
    rng = random.Random(seed)
    offset, messages = 0, []
    for number in range(100):
        length = rng.choice([10, 4_000, 200_000, 300_000])
        messages.append(message(number, offset, length))
        offset += length + rng.choice([100, 100_000])
    reader, budget = FakeReader(), Budget(500_000)
    reader.broken = {messages[rng.randrange(100)].message for _ in range(3)}
    ahead = ReadAhead(cast(ReplicaReader, reader), messages, budget)
    index = 0
    for _ in range(300):
        index = index + 1 if rng.random() < 0.8 else rng.randrange(100)
        index %= 100
        try:
            assert await ahead.body(index) == messages[index].message
        except NoReplica:
            assert messages[index].message in reader.broken
        assert 0 <= budget.left <= 500_000
        assert cast(Any, ahead)._held <= WINDOW_BYTES
    ahead.drop()
    assert budget.left == 500_000
