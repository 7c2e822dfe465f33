"""Starts the processes of an array, starts again what dies, and stops all in order. Knows nothing of mail.

Invariants:
- No process outlives the supervisor: each is told to end with its parent (`lifeline.py`), and leads a session of its
  own, so that Ctrl-C reaches the supervisor alone, which then stops them in order.
- What dies is started again at once, and later and later (at most every 10 s) while it keeps dying young.
- `stop` ends: SIGTERM, a time limit for each phase, SIGKILL for the rest.

Called by `up.py`; tests give another command prefix and tiny children.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from mailarray.local.child import Child

log = logging.getLogger(__name__)

YOUNG_SECONDS = 10.0  # a process that dies younger than this counts as dying repeatedly
FIRST_DELAY = 0.25  # seconds before the second restart of one that keeps dying; doubled each time
MAX_DELAY = 10.0  # seconds; often enough for a person who just mended the cause
CANNOT_START = 127  # as shells say it

COMMAND = (sys.executable, "-m", "mailarray")


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to keep running."""

    name: str  # unique, for people: mail-0/smtp
    server: str
    role: str  # smtp, sidecar, access
    arguments: tuple[str, ...]  # after the command prefix
    stop_phase: int = 0  # lower phases are stopped first
    stop_seconds: float = 5.0  # between SIGTERM and SIGKILL


@dataclass(frozen=True, slots=True)
class Death:
    """A process ended though nobody asked it to."""

    name: str
    how: str  # `exit code 1`, `signal 9 (SIGKILL)`
    last_words: str
    lived: float  # seconds
    restart_in: float  # seconds


@dataclass(slots=True)
class ProcessState:
    """A process as it is now."""

    spec: ProcessSpec
    pid: int | None = None
    started: float = 0.0  # monotonic seconds
    restarts: int = 0
    young_deaths: int = 0  # in a row
    last_death: Death | None = None
    child: Child | None = field(default=None, repr=False)


def restart_delay(young_deaths: int) -> float:
    """Seconds to wait after the n-th death in a row of a young process; 0 for the first."""
    if young_deaths <= 1:
        return 0.0
    exponent = min(young_deaths - 2, 30)
    return float(min(FIRST_DELAY * 2**exponent, MAX_DELAY))


def describe_exit(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"signal {-code} ({signal.Signals(-code).name})"
    return f"signal {-code}"


class Supervisor:
    """Keeps a set of processes running."""

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        *,
        command: Sequence[str] = COMMAND,
        max_delay: float = MAX_DELAY,
        on_start: Callable[[ProcessState], None] = lambda _: None,
        on_death: Callable[[Death], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._command = tuple(command)
        self._max_delay = max_delay
        self._on_start = on_start
        self._on_death = on_death
        self._clock = clock
        self._sleep = sleep
        self._stopping = False
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self.states = {spec.name: ProcessState(spec) for spec in specs}

    def start(self) -> None:
        """Start all; returns at once."""
        for state in self.states.values():
            self._keepers[state.spec.name] = asyncio.create_task(self._keep(state), name=state.spec.name)

    async def stop(self) -> None:
        """Stop all, phase by phase; returns when every process is gone. May be called twice."""
        self._stopping = True
        for phase in sorted({s.spec.stop_phase for s in self.states.values()}):
            await asyncio.gather(*(self._end(s) for s in self.states.values() if s.spec.stop_phase == phase))

    def kill(self) -> None:
        """SIGKILL for all that is left: for a person who will not wait."""
        self._stopping = True
        for state in self.states.values():
            _signal(state, signal.SIGKILL)

    async def _end(self, state: ProcessState) -> None:
        keeper = self._keepers.pop(state.spec.name, None)
        if keeper is None:
            return
        if state.child is None:
            keeper.cancel()  # it waits for its next start
        else:
            _signal(state, signal.SIGTERM)
        done, _ = await asyncio.wait([keeper], timeout=state.spec.stop_seconds)
        if not done:
            log.warning("process did not stop in time, killed", extra={"name_of_process": state.spec.name})
            _signal(state, signal.SIGKILL)
            await asyncio.wait([keeper])

    async def _keep(self, state: ProcessState) -> None:
        while not self._stopping:
            last_words = await self._run_once(state)
            if self._stopping:
                return
            delay = self._record_death(state, last_words)
            if delay:
                await self._sleep(delay)
            state.restarts += 1

    async def _run_once(self, state: ProcessState) -> tuple[int, str]:
        state.started = self._clock()
        try:
            child = Child((*self._command, *state.spec.arguments))
        except (OSError, subprocess.SubprocessError) as error:
            return CANNOT_START, f"cannot be started: {error}"
        state.child, state.pid = child, child.pid
        try:
            self._on_start(state)
            return await child.wait(), child.last_words()
        finally:
            child.close()
            state.child = state.pid = None

    def _record_death(self, state: ProcessState, ended: tuple[int, str]) -> float:
        lived = self._clock() - state.started
        state.young_deaths = state.young_deaths + 1 if lived < YOUNG_SECONDS else 1
        delay = min(restart_delay(state.young_deaths), self._max_delay)
        state.last_death = Death(state.spec.name, describe_exit(ended[0]), ended[1], lived, delay)
        log.error(
            "process died",
            extra={
                "name_of_process": state.spec.name,
                "how": state.last_death.how,
                "last_words": ended[1],
                "lived_seconds": round(lived, 3),
                "restart_in_seconds": delay,
            },
        )
        self._on_death(state.last_death)
        return delay


def _signal(state: ProcessState, number: signal.Signals) -> None:
    if state.child is not None:
        state.child.signal(number)
