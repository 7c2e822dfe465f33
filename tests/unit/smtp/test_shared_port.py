"""The volumes of a server share its SMTP port: one whose disk fails leaves it, and comes back when it takes writes."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from mailarray.smtp.process import share_port, unready

SECONDS = 20.0  # a deadline, never a wait


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not true():  # noqa: ASYNC110 - a deadline is around it
            await asyncio.sleep(0.002)


class Port:
    listening = True

    async def share_port(self, useful: bool) -> None:
        self.listening = useful


async def test_a_disk_that_fails_leaves_the_port_until_it_takes_a_write() -> None:
    failing = True
    tries = 0

    def try_write() -> None:
        nonlocal tries
        tries += 1
        if failing:
            raise OSError(errno.EIO, "Input/output error")

    writer: Any = SimpleNamespace(draining=False, refusal=lambda: None, disk_error=None)
    writer.volume = SimpleNamespace(try_write=try_write)
    listener: Any = Port()
    task = asyncio.create_task(share_port(writer, listener, look=0.005))
    try:
        writer.disk_error = "the own volume failed: Input/output error"
        await until(lambda: not listener.listening)
        assert unready(writer, listener, shared=True) == writer.disk_error
        await until(lambda: tries >= 2)
        assert not listener.listening
        failing = False
        await until(lambda: listener.listening)
        assert writer.disk_error is None and unready(writer, listener, shared=True) is None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
