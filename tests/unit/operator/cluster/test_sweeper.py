"""Cycles are collected while nothing waits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Iterator

import pytest

from mailarray_operator.cluster import sweeper


class Loose:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sweeper, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(sweeper, "BUSY_SECONDS", 0.001)
    monkeypatch.setattr(sweeper, "MOST_BUSY", 1_000_000)
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


async def test_only_while_nothing_waits() -> None:
    asked, busy = 0, True
    often = asyncio.Event()

    def look() -> bool:
        nonlocal asked
        asked += 1
        if asked == 5:
            often.set()
        return busy

    loose = weakref.ref(Loose())
    task = asyncio.create_task(sweeper.run(look))
    await often.wait()
    assert loose() is not None
    busy = False
    for _ in range(10_000):
        if loose() is None:
            break
        await asyncio.sleep(0.001)
    else:
        raise AssertionError("it is still there")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
