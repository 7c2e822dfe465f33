"""The killer: picks processes of an array by a seed, and hurts them at moments that the seed chooses.

- `kill`: SIGKILL for one process, whatever it is doing, also while it starts.
- `pair`: SIGKILL for a server's writer and sidecar at once.
- `stop`: SIGSTOP for one process, SIGCONT later: shorter and longer than the mirror timeout and the writers' silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.ledger import Ledger
from tests.support.array import Array

LONGEST_STOP = 4.0  # seconds; twice the silence after which mirrors seal a writer's segments
PATIENCE = 3.0  # seconds to wait for a sign of traffic between two kills


@dataclass(slots=True)
class Killer:
    """Hurts until `kills` processes were killed, or stopped."""

    array: Array
    ledger: Ledger
    faults: tuple[str, ...]
    kills: int
    interval: float  # seconds between two, in the mean
    random: random.Random
    done: int = 0
    stops: int = 0
    by_role: Counter[str] = field(default_factory=Counter)
    idle: int = 0  # kills between which no message was acknowledged

    async def run(self) -> None:
        """Until the number is reached."""
        frozen: set[asyncio.Task[None]] = set()
        names = [f"{server}/{role}" for server in self.array.names for role in ("smtp", "sidecar")] + ["access"]
        try:
            while self.done < self.kills:
                await self._wait_for_traffic()
                fault = self.random.choice(self.faults)
                name = self.random.choice(names)
                if fault == "stop":
                    frozen.add(asyncio.create_task(self._freeze(name, LONGEST_STOP * self.random.random())))
                    continue
                server = name.partition("/")[0]
                both = fault == "pair" and name != "access"
                for victim in (f"{server}/smtp", f"{server}/sidecar") if both else (name,):
                    self._kill(victim)
        finally:
            await asyncio.gather(*frozen)

    async def _wait_for_traffic(self) -> None:
        """Half an interval or more; then until a message is acknowledged, so that kills meet senders at work."""
        before = self.ledger.acknowledged
        end = asyncio.get_running_loop().time() + PATIENCE
        await asyncio.sleep(self.interval * (0.5 + self.random.random()))
        while self.ledger.acknowledged == before:
            if asyncio.get_running_loop().time() > end:
                self.idle += 1
                return
            await asyncio.sleep(0.005)

    def _kill(self, name: str) -> None:
        pid = self.array.processes().get(name)
        if pid is None:
            return  # it is dead already, and not started again yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.done += 1
            self.by_role[name.rpartition("/")[2]] += 1

    async def _freeze(self, name: str, seconds: float) -> None:
        pid = self.array.processes().get(name)
        if pid is None:
            return
        self.stops += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                os.kill(pid, signal.SIGCONT)
