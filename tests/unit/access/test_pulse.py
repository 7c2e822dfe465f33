"""A catalog that hangs holds nobody up; one that is slow is waited for."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from mailarray.access import pulse
from mailarray.access.pulse import Pulse
from mailarray.catalog.catalog import CatalogUnavailable


class Database:
    """Answers pings while `alive`; calls when told to."""

    def __init__(self) -> None:
        self.alive = asyncio.Event()
        self.alive.set()
        self.answer = asyncio.Event()
        self.pings = 0

    async def ping(self) -> None:
        self.pings += 1
        await self.alive.wait()

    async def call(self) -> str:
        await self.answer.wait()
        return "rows"


async def until(look: object, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not look():  # type: ignore[operator]  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(0.01)


async def test_a_slow_call_is_waited_for() -> None:
    database = Database()
    beat = Pulse(database.ping)
    call = asyncio.create_task(beat.guard(database.call()))
    await until(lambda: database.pings >= 2)
    assert not call.done()
    database.answer.set()
    assert await call == "rows"
    assert not beat.stopped
    await beat.stop()


async def test_a_dead_database_holds_nobody_up_and_comes_back() -> None:
    database = Database()
    database.alive.clear()
    beat = Pulse(database.ping)
    began = time.monotonic()
    calls = [asyncio.create_task(beat.guard(database.call())) for _ in range(5)]
    for call in calls:
        with pytest.raises(TimeoutError):
            await call
    assert time.monotonic() - began < pulse.PATIENCE + pulse.PING_SECONDS + 0.3
    assert database.pings == 1  # one for all
    with pytest.raises(CatalogUnavailable):
        await beat.guard(database.call())
    database.alive.set()
    await until(lambda: not beat.stopped)
    database.answer.set()
    assert await beat.guard(database.call()) == "rows"
    await beat.stop()


async def test_errors_of_a_call_are_its_own() -> None:
    async def fails() -> None:
        raise CatalogUnavailable("gone")

    beat = Pulse(Database().ping)
    with pytest.raises(CatalogUnavailable, match="gone"):
        await beat.guard(fails())
    assert not beat.stopped


async def test_whatever_a_ping_raises_the_catalog_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "AGAIN_SECONDS", 0.02)
    pings: list[Any] = []

    async def ping() -> None:
        pings.append(len(pings))
        if len(pings) <= 3:
            raise RuntimeError("not an error of a catalog")

    database = Database()
    beat = Pulse(ping)
    with pytest.raises(TimeoutError):
        await beat.guard(database.call())
    assert beat.stopped
    await until(lambda: not beat.stopped)
    assert len(pings) == 4
    database.answer.set()
    assert await beat.guard(database.call()) == "rows"
    await beat.stop()
