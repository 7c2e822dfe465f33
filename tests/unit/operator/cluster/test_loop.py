"""The queue: never twice at once, nothing forgotten, failures back off alone."""

# ruff: noqa: ASYNC110  # polls with a deadline: what is awaited has no event
from __future__ import annotations

import asyncio

from mailarray_operator.cluster import loop as module
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.loop import Loop
from mailarray_operator.cluster.writer import NotLeader

A, B = ("mail", "a"), ("mail", "b")


class Runs:
    """What was run; a run of a key in `held` waits."""

    def __init__(self) -> None:
        self.done: list[Key] = []
        self.running: set[Key] = set()
        self.held: dict[Key, asyncio.Event] = {}
        self.fails: dict[Key, int] = {}
        self.again: dict[Key, float] = {}
        self.loop = Loop(self.run)
        self.loop.start(())

    async def run(self, key: Key) -> float | None:
        assert key not in self.running, "twice at once"
        self.running.add(key)
        try:
            if key in self.held:
                await self.held[key].wait()
            self.done.append(key)
            if self.fails.get(key, 0) > 0:
                self.fails[key] -= 1
                raise ValueError("as wanted")
            return self.again.pop(key, None)
        finally:
            self.running.discard(key)

    async def until(self, *wanted: Key) -> None:
        async with asyncio.timeout(5):
            while self.done != list(wanted):
                await asyncio.sleep(0.001)


async def test_many_changes_are_one_run() -> None:
    runs = Runs()
    for _ in range(100):
        runs.loop.look(A)
    await runs.until(A)
    await asyncio.sleep(2 * module.GATHER_SECONDS)
    assert runs.done == [A]


async def test_a_change_during_a_run_is_another_run() -> None:
    runs = Runs()
    runs.held[A] = asyncio.Event()
    runs.loop.look(A)
    async with asyncio.timeout(5):
        while A not in runs.running:
            await asyncio.sleep(0.001)
    runs.loop.look(A)
    runs.loop.look(B)
    await runs.until(B)
    runs.held[A].set()
    await runs.until(B, A, A)


async def test_a_failure_backs_off_and_stops_nobody(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(module, "FIRST_BACKOFF", 0.05)
    runs = Runs()
    runs.fails[A] = 2
    runs.loop.look(A)
    runs.loop.look(B)
    async with asyncio.timeout(5):
        while runs.done.count(A) < 3:
            await asyncio.sleep(0.001)
    assert runs.done.count(B) == 1
    assert "as wanted" in runs.loop.last_error


async def test_look_again_in_time() -> None:
    runs = Runs()
    runs.again[A] = 0.1
    runs.loop.look(A)
    await runs.until(A, A)


async def test_stopped_means_stopped() -> None:
    runs = Runs()
    runs.held[A] = asyncio.Event()
    runs.loop.look(A)
    async with asyncio.timeout(5):
        while A not in runs.running:
            await asyncio.sleep(0.001)
    await runs.loop.stop()
    assert not runs.running and runs.done == []
    runs.loop.look(A)
    assert runs.loop.depth() == 0


async def test_a_lost_lease_is_no_failure() -> None:
    async def run(key: Key) -> float | None:
        raise NotLeader("lost")

    loop = Loop(run)
    loop.start((A,))
    async with asyncio.timeout(5):
        while loop.depth():
            await asyncio.sleep(0.001)
    assert loop.last_error == ""
