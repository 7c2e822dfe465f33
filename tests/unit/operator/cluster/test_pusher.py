"""The mirroring table reaches every process, and again who falls behind."""

# ruff: noqa: ASYNC110  # polls with a deadline: what is awaited has no event
from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable

import pytest

from mailarray.contract import mirroring_table
from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray_operator.cluster import pusher as module
from mailarray_operator.cluster.pusher import Pusher, Target
from tests.unit.operator.cluster.fake_api import FakeApi

KEY = ("mail", "example")
ONE, TWO = Target("uid-1", "10.0.0.1:2510"), Target("uid-2", "10.0.0.2:2510")


def table(generation: int) -> MirroringTable:
    """One server."""
    return MirroringTable(generation, (Server("a-0", "a-0:2520", "a-0:2510"),), {"a-0": ()})


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF", 0.02)
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)


async def test_everyone_once_and_who_was_deaf_later() -> None:
    api = FakeApi()
    pusher = Pusher(api)
    api.deaf.add(TWO.address)
    task = asyncio.create_task(pusher.run())
    pusher.want(KEY, table(3), "token", {ONE: None, TWO: None})
    await until(lambda: len(api.pushed) == 1)
    api.deaf.clear()
    await until(lambda: len(api.pushed) == 2)
    await asyncio.sleep(0.05)
    task.cancel()
    assert [address for address, _ in api.pushed] == [ONE.address, TWO.address]
    assert mirroring_table.parse(gzip.decompress(api.pushed[0][1]).decode()) == table(3)


async def test_who_is_heard_to_be_behind_is_pushed_again() -> None:
    api = FakeApi()
    pusher = Pusher(api)
    task = asyncio.create_task(pusher.run())
    pusher.want(KEY, table(3), "token", {ONE: 3, TWO: 2})
    await until(lambda: len(api.pushed) == 1)
    pusher.want(KEY, table(3), "token", {ONE: 1, TWO: 3})  # a container has restarted with an older file
    await until(lambda: len(api.pushed) == 2)
    task.cancel()
    assert [address for address, _ in api.pushed] == [TWO.address, ONE.address]


async def test_nobody_is_told_without_a_token_nor_when_gone() -> None:
    api = FakeApi()
    pusher = Pusher(api)
    task = asyncio.create_task(pusher.run())
    pusher.want(KEY, table(3), "", {ONE: None})
    await asyncio.sleep(0.05)
    pusher.forget(KEY)
    await asyncio.sleep(0.05)
    task.cancel()
    assert api.pushed == []
