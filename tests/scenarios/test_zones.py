"""A whole zone is lost, with its volumes, while mail comes in and is read: nothing is lost, mail goes on within the
zone that is left, that is said, and when the zone is back everything is in two zones again."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.ledger import Ledger
from tests.faults.readers import Reader, read_all
from tests.faults.senders import Sender
from tests.faults.where import local
from tests.support.array import DOMAIN, Array, wait_for

USERS = tuple(f"{name}@{DOMAIN}" for name in ("anna", "ben"))
LOST, LEFT = (1, 3), (0, 2)  # servers take turns in the zones
LONGEST_GAP = 4.0  # seconds between two acknowledgements of one sender at a server that is left; mirrorTimeout is 1 s
MESSAGES = 100  # acknowledged before, within, and after


@pytest.fixture
def array() -> Iterator[Array]:
    storage = {"segmentSize": "64Ki", "segmentAge": "3s"}
    zones = {"mailarray.io/local-zones": "east west", "mailarray.io/local-max-restart-delay": "500ms"}
    with Array(accounts=USERS, servers=4, spec={"storage": storage}, annotations=zones) as made:
        yield made.start()


def total(array: Array, figure: str) -> int:
    """Of all sidecars that answer."""
    return sum((array.ask(f"{name}/sidecar") or {}).get(figure) or 0 for name in array.names)


def volumes_by_segment(array: Array) -> dict[str, set[int]]:
    """Which servers have a file of which segment, by the disks themselves; segments without a batch left out."""
    held: dict[str, set[int]] = {}
    for index in range(4):
        for file in array.volume(index).glob("segments/*.segment"):
            held.setdefault(file.stem, set()).add(index)
    return held


async def test_the_loss_of_a_zone_loses_nothing_and_is_made_good(array: Array) -> None:
    ledger = Ledger(11)
    senders = [Sender(local(array.smtp(index)), ledger, USERS, random.Random(index), 0.05) for index in (*LEFT, *LOST)]
    reader = Reader(local(array.pop3), ledger, USERS, "", random.Random(5))
    stop = asyncio.Event()
    tasks = [asyncio.create_task(run) for run in (*(sender.run(stop) for sender in senders), reader.run(stop))]

    async def more(messages: int) -> None:
        wanted = ledger.acknowledged + messages
        await asyncio.to_thread(wait_for, lambda: ledger.acknowledged >= wanted, 60, f"{messages} messages more")

    async def until(condition: Any, what: str) -> None:
        await asyncio.to_thread(wait_for, condition, 60, what)

    try:
        await more(MESSAGES)
        processes = [f"mail-{index}/{role}" for index in LOST for role in ("smtp", "sidecar")]
        for sender in senders:
            sender.gap = 0.0
        with array.held_down(*processes):
            for index in LOST:
                for child in array.volume(index).iterdir():
                    shutil.rmtree(child) if child.is_dir() else child.unlink()
            sessions = reader.sessions
            await more(MESSAGES)
            await until(lambda: reader.sessions > sessions + 3, "readers go on")
            await until(lambda: total(array, "in_one_zone") > 0, "it is said that segments are in one zone")
            assert max(sender.gap for sender in senders[: len(LEFT)]) < LONGEST_GAP
        await asyncio.to_thread(array.wait_ready)
        await more(MESSAGES)
    finally:
        stop.set()
        await asyncio.gather(*tasks)

    def spread() -> bool:
        return not total(array, "in_one_zone") and not total(array, "under_replicated") and array.catalog_is_open()

    await asyncio.to_thread(array.wait_settled)
    await until(spread, "everything is in two zones again")
    verdict = ledger.judge({user: await read_all(local(array.pop3), user, 60) for user in USERS})
    print(verdict, f"longest pause {max(s.gap for s in senders[: len(LEFT)]):.2f} s")
    assert verdict.good, str(verdict)
    await asyncio.to_thread(array.stop)
    array.verify_journals()
    for segment, servers in volumes_by_segment(array).items():
        assert {index % 2 for index in servers} == {0, 1}, f"{segment} is on {servers} alone"
