"""How long a repair, a rebuild or a drain takes still, by the pace of the last while.

Invariants:

- Nothing is promised that was not seen: no time is told before LEAST seconds of work, nor when nothing moved within
  WINDOW (no source, no room, a database that is away), nor when nothing is left.
- Work that is found on the way makes the time longer, not the pace lower: a pace is bytes that went, over seconds.

Decides nothing. What is left comes from `repairing.py` and `draining.py`; `process.py` shows it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from mailarray.tracking import metrics

WINDOW = 120.0  # seconds looked back: the copy of a segment of 256 MiB at an eighth of the default pace fits
LEAST = 5.0  # seconds of work that a pace is told of
EVERY = 5.0  # seconds between two looks

Progress = Mapping[str, Any]


class Estimate:
    """Of one kind of work."""

    def __init__(self) -> None:
        self._left = 0
        self._gone = 0  # bytes since the work began
        self._seen: deque[tuple[float, int]] = deque()  # when, and bytes that had gone by then

    def see(self, left: int, now: float) -> None:
        """So many bytes are left; `now` in seconds of a clock that never goes back."""
        if left <= 0:
            self._seen.clear()
            self._left = self._gone = 0
            return
        self._gone += max(0, self._left - left) if self._seen else 0
        self._left = left
        self._seen.append((now, self._gone))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW:
            self._seen.popleft()

    def seconds(self) -> int | None:
        """As of the last look; None: nobody knows."""
        if not self._seen:
            return None
        began, before = self._seen[0]
        last, gone = self._seen[-1]
        if last - began < LEAST or gone == before:
            return None
        return math.ceil(self._left * (last - began) / (gone - before))


class TimeLeft:
    """Of all work of a sidecar, by its name."""

    def __init__(self, works: Mapping[str, Callable[[], Progress | None]]) -> None:
        self._works = works
        self._estimates = {name: Estimate() for name in works}
        self._told: set[str] = set()  # names whose metric is there

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look(time.monotonic())
            await asyncio.sleep(EVERY)

    def look(self, now: float) -> None:
        """See how far the works are."""
        for name, estimate in self._estimates.items():
            progress = self._works[name]()
            left = 0 if progress is None or progress.get("done") else int(progress["bytes_left"])
            estimate.see(left, now)
            metrics.BYTES_LEFT.labels(name).set(left)
            seconds = estimate.seconds()
            if seconds is not None:
                metrics.SECONDS_LEFT.labels(name).set(seconds)
                self._told.add(name)
            elif name in self._told:
                metrics.SECONDS_LEFT.remove(name)  # no figure is better than an old one
                self._told.remove(name)

    def show(self, name: str) -> dict[str, Any] | None:
        """What is told of that work, for /v1/status, with its `seconds_left`."""
        progress = self._works[name]()
        if progress is None:
            return None
        idle = progress.get("done") or not progress["bytes_left"]
        return {**progress, "seconds_left": None if idle else self._estimates[name].seconds()}
