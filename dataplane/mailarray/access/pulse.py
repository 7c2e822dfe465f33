"""Whether the catalog answers at all: asked cheaply while a call waits, so that no session waits for a dead database.

A node that is cut off says nothing: its connections neither answer nor break. A call may be slow (a mailbox of a
hundred thousand messages), a ping may not: when one fails, every waiting call is given up at once, and none is begun
until a ping succeeds. A wrong guess costs a reading from the sidecars, never a message. Used by `late_catalog.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from mailarray.catalog.catalog import CatalogUnavailable

log = logging.getLogger(__name__)

PATIENCE = 0.15  # seconds that a call may take before the catalog is asked whether it lives
PING_SECONDS = 0.25  # beyond it, it does not: a second is all that a reader should wait, sidecars included
AGAIN_SECONDS = 0.5  # between two pings while it does not

T = TypeVar("T")


class Pulse:
    """Of one catalog. `stop` at the end."""

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self._ping = ping
        self._asking: asyncio.Task[bool] | None = None
        self._recovery: asyncio.Task[None] | None = None

    @property
    def stopped(self) -> bool:
        """The last ping failed."""
        return self._recovery is not None

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """The outcome of a call. Raises CatalogUnavailable when it was not begun, TimeoutError when it was given up."""
        if self.stopped:
            work.close()
            raise CatalogUnavailable("the catalog does not answer")
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=PATIENCE))[0]:
                if not await self._beats():
                    raise TimeoutError("the catalog has stopped answering")
            return task.result()
        finally:
            if not task.done():
                _give_up(task)

    async def stop(self) -> None:
        """End what runs in the background."""
        for task in (self._asking, self._recovery):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _beats(self) -> bool:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> bool:
        if await self._answers():
            return True
        if self._recovery is None:
            log.warning("the catalog does not answer, mailboxes are read from the sidecars")
            self._recovery = asyncio.create_task(self._recover())
        return False

    async def _answers(self) -> bool:
        """One ping, given up when it takes too long."""
        ping = asyncio.create_task(self._call_ping())
        done, _ = await asyncio.wait({ping}, timeout=PING_SECONDS)
        if not done:
            _give_up(ping)
        return bool(done) and ping.result()

    async def _call_ping(self) -> bool:
        try:
            await self._ping()
        except CatalogUnavailable:
            return False
        except Exception as error:  # whatever it is, the catalog did not answer, and is asked again
            if not self.stopped:
                log.error("the catalog cannot be pinged", extra={"reason": f"{type(error).__name__}: {error}"})
            return False
        return True

    async def _recover(self) -> None:
        try:
            while True:
                await asyncio.sleep(AGAIN_SECONDS)
                if await self._answers():
                    break
            log.info("the catalog answers again")
        finally:
            self._recovery = None  # however it ended: the next call that waits asks again


def _give_up(task: asyncio.Task[Any]) -> None:
    """Not awaited: on a dead connection even giving up takes its time."""
    task.add_done_callback(_forget)
    task.cancel()


def _forget(task: asyncio.Task[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()
