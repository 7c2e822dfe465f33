"""Asking servers for their load over HTTP, on loopback: silent ones keep nobody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from mailarray_operator.cluster.loads import Asked, Heard, Loads, together

KEY = ("mail", "example")
SECONDS = 30.0  # a busy machine


@asynccontextmanager
async def server(silent: asyncio.Event) -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        if request.path == "/silent":
            await silent.wait()
        return web.json_response({"load": 0.5, "refusing": None})

    app = web.Application()
    app.router.add_get("/{what}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        silent.set()
        await runner.cleanup()


async def until(holds: object, deadline: float = SECONDS) -> None:
    assert callable(holds)
    async with asyncio.timeout(deadline):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_those_that_answer_are_heard_while_others_are_silent() -> None:
    silent = asyncio.Event()
    async with server(silent) as port:
        loads = Loads(lambda key: "secret")
        mute = {f"mute-{n}": Asked("u", "127.0.0.1", port, "/silent") for n in range(20)}
        well = {f"well-{n}": Asked("u", "127.0.0.1", port, "/well") for n in range(20)}
        refused = {"refused": Asked("u", "127.0.0.1", 1, "/well")}
        loads.follow(KEY, {**well, **refused})
        loads.follow(("mail", "other"), mute)
        assert not loads.all_tried(KEY)
        running = asyncio.create_task(loads.run())
        try:
            await until(lambda: loads.all_tried(KEY))
            heard = loads.heard(KEY)
            assert {name for name, word in heard.items() if word.load == 0.5} == well.keys()
            await until(lambda: loads.all_tried(("mail", "other")))
            assert all(word.at == float("-inf") for word in loads.heard(("mail", "other")).values())
            before = heard["well-0"].at
            await until(lambda: loads.heard(KEY)["well-0"].at > before)  # again and again
            loads.follow(KEY, {"well-0": well["well-0"]._replace(uid="another")})
            assert list(loads.heard(KEY)) == ["well-0"]
            assert not loads.all_tried(KEY), "what another pod said before counts for nothing"
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_nobody_is_asked_without_a_token() -> None:
    loads = Loads(lambda key: "")
    loads.follow(KEY, {"a-0": Asked("u", "127.0.0.1", 1, "/load")})
    running = asyncio.create_task(loads.run())
    await asyncio.sleep(0.1)
    assert not loads.all_tried(KEY)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_a_server_takes_mail_while_one_of_its_volumes_does() -> None:
    free, busy, full = Heard(1.0, 0.2), Heard(2.0, 0.6), Heard(3.0, 1.5, accepts=False)
    assert together([free]) is not None and together([full, None]) == full
    assert together([free, busy, full, None]) == Heard(2.0, 0.4)
    assert together([None]) is None and together([]) is None


async def test_all_volumes_of_a_server_are_asked() -> None:
    async with server(asyncio.Event()) as port:
        loads = Loads(lambda key: "secret")
        loads.follow(KEY, {"mail-0": Asked("u", "127.0.0.1", 1, "/well", 0, (port,))})
        running = asyncio.create_task(loads.run())
        try:
            await until(lambda: loads.heard(KEY)["mail-0"].load == 0.5)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
