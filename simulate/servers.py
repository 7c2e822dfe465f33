"""A server as a queue: one thing at a time, a limit of sessions, and beyond the limit it answers 421 at once.

The load that it reports is the larger of two: the share of the time that it is busy, and its sessions against its
limit. Both are smoothed over a few reports, as in a real server, so that a single burst is not a load.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from random import Random

SESSIONS = 50  # limit; with 10 messages a second, five seconds of work
SMOOTHING = 1 / 3  # share of the newest measurement in the load


class Answer(Enum):
    """What a sender hears at its attempt."""

    ACCEPTED = "250"
    DEFERRED = "421"  # or 451
    NOTHING = "no connection"


class Server:
    """Service times are exponential; `speed` is in messages a second."""

    def __init__(self, speed: float, chance: Random) -> None:
        self.speed = speed
        self.up = True
        self.accepted = 0
        self.load = 0.0
        self.reset(0.0)
        self._expovariate = chance.expovariate

    def reset(self, now: float) -> None:
        """As after a start: no sessions."""
        self._ends: deque[float] = deque()  # of the sessions
        self._free = now  # when all that was accepted will be done
        self._work = 0.0  # accepted, in seconds
        self._done = 0.0  # of it, at the last measurement
        self._measured = now

    def offer(self, now: float) -> Answer:
        """A sender connects with one message."""
        if not self.up:
            return Answer.NOTHING
        ends = self._ends
        while ends and ends[0] <= now:
            ends.popleft()
        if len(ends) >= SESSIONS:
            return Answer.DEFERRED
        work = self._expovariate(self.speed)
        self._free = (self._free if self._free > now else now) + work
        self._work += work
        ends.append(self._free)
        self.accepted += 1
        return Answer.ACCEPTED

    def measure(self, now: float) -> float:
        """The load, 0 to 1; called once an interval."""
        while self._ends and self._ends[0] <= now:
            self._ends.popleft()
        done = self._work - max(self._free - now, 0.0)
        elapsed = now - self._measured
        busy = (done - self._done) / elapsed if elapsed > 0 else 0.0
        self._done, self._measured = done, now
        newest = max(busy, len(self._ends) / SESSIONS)
        self.load += SMOOTHING * (min(newest, 1.0) - self.load)
        return self.load
