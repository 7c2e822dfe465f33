"""Asks every process for status and metrics over its internal port; remembers the last answers; hands out tables.

Called by `up.py`. A process that does not answer is shown as such; nothing here raises for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from mailarray.contract import paths
from mailarray.contract.settings import Listen

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # what a person sees as live
ANSWER_SECONDS = 2.0  # a process that needs longer is shown as not answering


@dataclass(frozen=True, slots=True)
class Target:
    """A process to ask."""

    name: str  # mail-0/smtp
    server: str
    role: str
    listen: Listen


@dataclass(frozen=True, slots=True)
class Answer:
    """What a process said, and when (monotonic seconds)."""

    status: dict[str, Any]
    at: float
    accepted_per_second: float = 0.0


class Poller:
    """Asks all targets, each second."""

    def __init__(self, targets: list[Target], token: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.targets = targets
        self._headers = {"Authorization": f"{paths.TOKEN_SCHEME} {token}"}
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self.answers: dict[str, Answer] = {}
        self.ever_answered: set[str] = set()

    async def close(self) -> None:
        """Give connections back."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def poll(self) -> None:
        """Ask all once."""
        await asyncio.gather(*(self._ask(t) for t in self.targets))

    async def metrics(self) -> dict[tuple[str, str], str]:
        """The metrics pages of those that answer, by (server, role)."""

        async def one(target: Target) -> tuple[tuple[str, str], str | None]:
            return (target.server, target.role), await self._get(target, paths.METRICS)

        pages = await asyncio.gather(*(one(t) for t in self.targets))
        return {key: text for key, text in pages if text is not None}

    async def push_table(self, target: Target, text: str) -> None:
        """Hand a mirroring table to a process; whether it took it, its next status says."""
        assert self._session is not None
        try:
            async with self._session.put(
                f"http://{target.listen}{paths.MIRRORING_TABLE}", data=text, headers=self._headers
            ) as response:
                await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.info("table not taken", extra={"process": target.name, "reason": str(error)})

    async def _ask(self, target: Target) -> None:
        text = await self._get(target, paths.STATUS)
        status = _object(text)
        if status is None:
            self.answers.pop(target.name, None)
            return
        now = self._clock()
        before = self.answers.get(target.name)
        self.answers[target.name] = Answer(status, now, _rate(before, status, now))
        self.ever_answered.add(target.name)

    async def _get(self, target: Target, path: str) -> str | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))
        try:
            async with self._session.get(f"http://{target.listen}{path}", headers=self._headers) as response:
                return await response.text() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError):
            return None


def _object(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if text is not None else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _rate(before: Answer | None, status: dict[str, Any], now: float) -> float:
    accepted = status.get("accepted")
    if before is None or not isinstance(accepted, int) or now <= before.at:
        return 0.0
    previous = before.status.get("accepted")
    if not isinstance(previous, int) or accepted < previous:  # it was started again
        return 0.0
    return (accepted - previous) / (now - before.at)
