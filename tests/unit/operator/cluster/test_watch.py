"""A watch tells of all that is there, and of all that has gone, whatever happens to the connection."""

# ruff: noqa: ASYNC110  # polls with a deadline: what is awaited has no event
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from mailarray_operator.cluster import kinds
from mailarray_operator.cluster import watch as module
from mailarray_operator.cluster.client import ApiError, Json
from mailarray_operator.cluster.kinds import Kind
from mailarray_operator.cluster.watch import Watch


class FakeServer:
    """Lists in pages of two, and a scripted sequence of watches."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.version = 10
        self.watches: list[list[tuple[str, str] | Exception | asyncio.Event]] = []
        self.since: list[str] = []
        self.lists = 0

    async def get(self, path: str, query: Mapping[str, str], *, metadata_only: bool = False) -> Json:
        begin = int(query.get("continue", "0"))
        self.lists += begin == 0
        rest = str(begin + 2) if begin + 2 < len(self.names) else ""
        items = [_thing(name, self.version) for name in self.names[begin : begin + 2]]
        return {"items": items, "metadata": {"resourceVersion": str(self.version), "continue": rest}}

    async def watch(
        self, path: str, query: Mapping[str, str], *, metadata_only: bool = False
    ) -> AsyncIterator[tuple[str, Json]]:
        self.since.append(query["resourceVersion"])
        if not self.watches:
            await asyncio.Event().wait()
        for step in self.watches.pop(0):
            if isinstance(step, asyncio.Event):
                await step.wait()
                continue
            if isinstance(step, Exception):
                raise step
            self.version += 1
            yield step[0], _thing(step[1], self.version)


def _thing(name: str, version: int) -> Json:
    return {"metadata": {"namespace": "mail", "name": name, "resourceVersion": str(version)}}


class Followed:
    """What a sink believes in."""

    def __init__(self, server: FakeServer, **more: Any) -> None:
        self.there: set[str] = set()
        self.watch = Watch(server, kinds.POD, "mail", self.sink, **more)  # type: ignore[arg-type]

    def sink(self, kind: Kind, thing: Json, there: bool) -> None:
        (self.there.add if there else self.there.discard)(thing["metadata"]["name"])

    async def until(self, server: FakeServer, watches: int) -> None:
        task = asyncio.create_task(self.watch.run())
        async with asyncio.timeout(5):
            while len(server.since) < watches:
                await asyncio.sleep(0.001)
        task.cancel()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAUSE", "FIRST_BACKOFF", "MAX_BACKOFF"):
        monkeypatch.setattr(module, name, 0.001)


async def test_pages_then_changes() -> None:
    server = FakeServer("a", "b", "c", "d", "e")
    server.watches = [[("DELETED", "b"), ("ADDED", "f"), ("BOOKMARK", "")]]
    followed = Followed(server)
    await followed.until(server, 2)
    assert followed.there == {"a", "c", "d", "e", "f"}
    assert server.since == ["10", "13"], "goes on from the bookmark"
    assert server.lists == 1


async def test_too_old_lists_again_and_tells_what_has_gone() -> None:
    server = FakeServer("a", "b", "c")
    followed = Followed(server)
    changed = asyncio.Event()
    server.watches = [[changed, ApiError(410, "Expired", "too old")]]
    task = asyncio.create_task(followed.watch.run())
    await followed.watch.listed.wait()
    server.names = ["c", "d"]
    changed.set()
    async with asyncio.timeout(5):
        while len(server.since) < 2:
            await asyncio.sleep(0.001)
    task.cancel()
    assert followed.there == {"c", "d"}


async def test_a_cut_goes_on_where_it_was() -> None:
    server = FakeServer("a")
    server.watches = [[("ADDED", "b"), ApiError(0, "Unreachable", "gone")], []]
    followed = Followed(server)
    await followed.until(server, 2)
    assert server.since == ["10", "11"] and server.lists == 1
    assert followed.there == {"a", "b"}


async def test_what_is_forbidden_is_listed_when_optional() -> None:
    server = FakeServer()

    async def refuse(*_: Any, **__: Any) -> Json:
        raise ApiError(403, "Forbidden", "nodes is forbidden")

    server.get = refuse  # type: ignore[method-assign]
    watch = Followed(server, optional=True).watch
    task = asyncio.create_task(watch.run())
    async with asyncio.timeout(5):
        await watch.listed.wait()
    task.cancel()
