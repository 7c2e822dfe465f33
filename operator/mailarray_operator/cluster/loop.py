"""The work queue: each MailCluster is looked at once at a time, and again for whatever happens meanwhile.

Invariant: after the last `look(key)`, a run of that key begins later than it; a key never runs twice at once; a failing
key backs off alone. Refuses to know why it looks: a run observes everything anew. Every watch, handler, report and
timer calls `look`; `main` starts and stops it with the Lease.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from mailarray_operator.cluster import metrics
from mailarray_operator.cluster.client import ApiError
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.writer import NotLeader

log = logging.getLogger(__name__)

RUNS_AT_ONCE = 4  # planning is CPU; writing has a limit of its own
FIRST_BACKOFF, MAX_BACKOFF = 0.5, 60.0  # seconds after a failed run
SLOW_SECONDS = 5.0  # a run that takes longer is worth a line
GATHER_SECONDS = 0.05  # what happens together is looked at together: a scheduler binds a dozen pods in this time


@dataclass(slots=True)
class _Work:
    """One key."""

    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None
    again: float | None = None  # seconds; asked for while running
    failures: int = 0
    since: float = 0.0  # when it was first asked for, for the histogram


class Loop:
    """`run` does one look, and answers after how many seconds it wants the next, if anything is awaited."""

    def __init__(self, run: Callable[[Key], Awaitable[float | None]], at_once: int = RUNS_AT_ONCE) -> None:
        self._run = run
        self._seats = asyncio.Semaphore(at_once)
        self._work: dict[Key, _Work] = {}
        self._active = False
        self.last_error = ""

    def start(self, keys: Iterable[Key]) -> None:
        """Begin, with all that is known."""
        self._active = True
        for key in keys:
            self.look(key)

    async def stop(self) -> None:
        """End what runs and forget what waits."""
        self._active = False
        tasks = []
        for work in self._work.values():
            if work.timer:
                work.timer.cancel()
            if work.task:
                work.task.cancel()
                tasks.append(work.task)
        self._work.clear()
        await asyncio.gather(*tasks, return_exceptions=True)

    def look(self, key: Key, after: float = GATHER_SECONDS) -> None:
        """Look again at a MailCluster, in so many seconds at the latest."""
        if not self._active:
            return
        work = self._work.setdefault(key, _Work())
        if work.task is not None:
            work.again = after if work.again is None else min(work.again, after)
        else:
            self._schedule(key, work, after)

    def depth(self) -> int:
        """Keys that wait or run, for metrics; those that wait for a timer of their own do not count."""
        soon = asyncio.get_running_loop().time() + GATHER_SECONDS
        return sum(w.task is not None or (w.timer is not None and w.timer.when() <= soon) for w in self._work.values())

    def _schedule(self, key: Key, work: _Work, after: float) -> None:
        clock = asyncio.get_running_loop()
        if work.timer is not None:
            if work.timer.when() <= clock.time() + after:
                return
            work.timer.cancel()
        if after <= GATHER_SECONDS:
            work.since = time.monotonic()
        work.timer = clock.call_later(after, self._begin, key, work)

    def _begin(self, key: Key, work: _Work) -> None:
        work.timer = None
        work.task = asyncio.create_task(self._work_on(key, work), name=f"look at {key[0]}/{key[1]}")

    async def _work_on(self, key: Key, work: _Work) -> None:
        again: float | None
        since, work.since = work.since or time.monotonic(), 0.0
        async with self._seats:
            began = time.monotonic()
            try:
                again = await self._run(key)
                work.failures = 0
            except NotLeader:
                self._work.pop(key, None)  # whoever leads next begins with all keys
                return
            except Exception as error:
                # Whatever went wrong with one cluster must neither stop the others, nor end this one's looks.
                again = self._failed(key, work, error)
            took = time.monotonic() - began
            if took > SLOW_SECONDS:
                log.info("a long look", extra={"namespace": key[0], "cluster": key[1], "seconds": round(took, 2)})
            metrics.RECONCILE.observe(took)
            metrics.REACTION.observe(time.monotonic() - since)
        work.task = None
        if work.again is not None:
            again = work.again if again is None or work.failures == 0 else max(work.again, again)
            work.again = None
        if not self._active:
            return
        if again is not None:
            self._schedule(key, work, again)
        elif self._work.get(key) is work:
            del self._work[key]

    def _failed(self, key: Key, work: _Work, error: Exception) -> float:
        work.failures += 1
        backoff: float = min(FIRST_BACKOFF * 2.0 ** (work.failures - 1), MAX_BACKOFF)
        self.last_error = f"{key[0]}/{key[1]}: {error}"
        metrics.FAILURES.inc()
        expected = isinstance(error, ApiError)
        log.warning(
            "cannot bring a MailCluster to what it shall be",
            extra={"namespace": key[0], "cluster": key[1], "reason": str(error), "again_in": backoff},
            exc_info=None if expected else error,
        )
        return backoff
