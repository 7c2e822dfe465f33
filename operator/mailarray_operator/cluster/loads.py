"""Asks every server, and every access server, how loaded it is, for the planner of MX records.

Invariant: 500 servers are asked once in `ASK_SECONDS` each, also when half of them are silent: questions are spread,
each has a deadline, and `AT_ONCE` x `ASK_SECONDS` / `ANSWER_SECONDS` are more than there are. Times are of the
monotonic clock: whoever plans turns them into ages, so that a clock that is set makes no report old or young.
Refuses to judge. Beside `reporter`, which asks for the status, since that is ten times as large and as rarely asked.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp

from mailarray_operator.cluster.asking import ask
from mailarray_operator.cluster.held import Key

ASK_SECONDS = 5.0  # between two questions to one server
AT_ONCE = 256
TICK_SECONDS = 0.25
NEVER = float("-inf")


class Asked(NamedTuple):
    """One process."""

    uid: str  # of its pod
    ip: str
    port: int
    path: str
    sessions: int = 0  # that it takes at most, when it says its sessions and not its load
    further: tuple[int, ...] = ()  # ports of a server's further volumes


@dataclass(frozen=True, slots=True)
class Heard:
    """The last word of a process."""

    at: float = NEVER  # seconds, monotonic
    load: float = float("nan")
    accepts: bool = True


@dataclass(slots=True)
class _Target:
    asked: Asked
    due: float
    heard: Heard = Heard()
    asking: bool = False
    tried: bool = False


class Loads:
    """See the module."""

    def __init__(self, token: Callable[[Key], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token
        self._clock = clock
        self._targets: dict[Key, dict[str, _Target]] = {}  # MailCluster -> process
        self._seats = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, key: Key, processes: Mapping[str, Asked]) -> None:
        """Ask these processes of a MailCluster, and no others of it."""
        known = self._targets.setdefault(key, {})
        for name in known.keys() - processes.keys():
            del known[name]
        now = self._clock()
        for name, asked in processes.items():
            if name not in known or known[name].asked != asked:
                first = 0.0 if len(processes) <= AT_ONCE else random.uniform(0, ASK_SECONDS / 2)
                known[name] = _Target(asked, now + first)

    def forget(self, key: Key) -> None:
        """The MailCluster is gone, or is not planned any more."""
        self._targets.pop(key, None)

    def heard(self, key: Key) -> dict[str, Heard]:
        """The last word of each process that is asked."""
        return {name: target.heard for name, target in self._targets.get(key, {}).items()}

    def all_tried(self, key: Key) -> bool:
        """Whether each was asked once, and answered or not."""
        return all(target.tried for target in self._targets.get(key, {}).values())

    async def run(self) -> None:
        """Until cancelled."""
        connector = aiohttp.TCPConnector(limit=AT_ONCE, limit_per_host=2, keepalive_timeout=15)
        async with aiohttp.ClientSession(connector=connector) as session:
            try:
                while True:
                    now = self._clock()
                    for key, targets in self._targets.items():
                        for target in targets.values():
                            if target.due <= now and not target.asking:
                                target.asking = True
                                task = asyncio.create_task(self._ask(session, key, target))
                                self._tasks.add(task)
                                task.add_done_callback(self._tasks.discard)
                    await asyncio.sleep(TICK_SECONDS)
            finally:
                self._targets.clear()
                for task in self._tasks:
                    task.cancel()

    async def _ask(self, session: aiohttp.ClientSession, key: Key, target: _Target) -> None:
        try:
            token = self._token(key)
            if not token:
                return
            async with self._seats:
                # What waits for a seat is late, not older: the next question is due from here on.
                target.due = self._clock() + ASK_SECONDS * random.uniform(0.9, 1.0)
                asked = target.asked
                ports = (asked.port, *asked.further)
                said = await asyncio.gather(*(ask(session, asked.ip, port, asked.path, token) for port in ports))
            target.tried = True
            heard = together([read(one, target.asked, self._clock()) for one in said if one is not None])
            if heard is not None:
                target.heard = heard
        finally:
            target.asking = False
            target.due = max(target.due, self._clock() + TICK_SECONDS)


def read(said: Mapping[str, Any], asked: Asked, now: float) -> Heard | None:
    """What a process said, or None when that is no load."""
    load = said.get("load")
    if asked.sessions:
        sessions = said.get("sessions")
        load = sessions / asked.sessions if isinstance(sessions, int) else None
    if isinstance(load, bool) or not isinstance(load, int | float):
        return None
    return Heard(now, float(load), said.get("refusing") is None)


def together(heard: Iterable[Heard | None]) -> Heard | None:
    """The volumes of one server: it takes mail while one of them does, and is as loaded as those are on the average."""
    every = [one for one in heard if one is not None]
    able = [one for one in every if one.accepts] or every
    if not able:
        return None
    return Heard(max(one.at for one in able), sum(one.load for one in able) / len(able), able[0].accepts)
