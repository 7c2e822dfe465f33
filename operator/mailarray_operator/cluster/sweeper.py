"""Python's collection of cycles, at a moment of its own choice instead of in the middle of a look.

What hundreds of MailServers are known by is a million objects that live as long as the operator, and going through all
of them takes a third of a second, in which nobody is answered. So the oldest generation is collected only here, while
nothing waits; what has survived is not gone through again, but once an hour. Run by `process`.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

EVERY_SECONDS = 30.0
BUSY_SECONDS, MOST_BUSY = 0.5, 60  # between two looks whether something waits, and how many of them at most
WHOLE = 120  # sweeps from one over everything to the next
YOUNG, MIDDLE, NEVER = 10_000, 50, 1_000_000_000  # thresholds of gc


async def run(busy: Callable[[], bool]) -> None:
    """Until cancelled; `busy` answers whether something waits or is worked on."""
    gc.set_threshold(YOUNG, MIDDLE, NEVER)
    number = 0
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        for _ in range(MOST_BUSY):
            if not busy():
                break
            await asyncio.sleep(BUSY_SECONDS)
        number += 1
        if number % WHOLE == 0:
            gc.unfreeze()
        gc.collect()
        gc.freeze()
