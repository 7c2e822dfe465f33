"""What happens to an array: how much mail comes when, which servers are slow, which are away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

MESSAGES = 10.0  # a second, of a server at full speed


@dataclass(frozen=True, slots=True)
class Outage:
    """A server that answers nobody for a time, and then comes back."""

    server: int
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One story. Times are seconds from its beginning."""

    name: str
    title: str
    seconds: float
    servers: int = 30
    load: float  # offered, of all that the array can do
    slow: tuple[int, ...] = ()  # servers at half speed, for good
    crowd: tuple[float, float, float] | None = None  # start, end, factor
    outages: tuple[Outage, ...] = field(default=())
    messages: float = MESSAGES
    seed: int = 1

    def speed(self, server: int) -> float:
        return self.messages * (0.5 if server in self.slow else 1.0)

    @property
    def rate(self) -> float:
        """Fresh messages a second."""
        return self.load * sum(self.speed(server) for server in range(self.servers))

    def factor(self, now: float) -> float:
        if self.crowd is not None and self.crowd[0] <= now < self.crowd[1]:
            return self.crowd[2]
        return 1.0


STEADY = Trace(name="steady", title="Steady: 30 servers, 80 % load", seconds=900, load=0.8)
CROWD = Trace(
    name="crowd", title="Flash crowd: ten times the mail for 60 s", seconds=1800, load=0.5, crowd=(300, 360, 10.0)
)
SLOW = Trace(name="slow", title="One server at half speed for good, 80 % load", seconds=3600, load=0.8, slow=(7,))
ROLLING = Trace(
    name="rolling",
    title="Rolling outage: each server away for 60 s, one after the other",
    seconds=1500,
    load=0.6,
    outages=tuple(Outage(server, 60.0 + 40 * server, 120.0 + 40 * server) for server in range(30)),
)
ZONE = Trace(
    name="zone",
    title="One of three zones away for 5 minutes",
    seconds=1200,
    load=0.5,
    outages=tuple(Outage(server, 240.0, 540.0) for server in range(0, 30, 3)),
)
MANY = Trace(
    name="many",
    title="500 servers, 20 of them at half speed",
    seconds=480,
    servers=500,
    load=0.75,
    slow=tuple(range(0, 500, 25)),
    messages=4.0,
)

ALL: Sequence[Trace] = (STEADY, CROWD, SLOW, ROLLING, ZONE, MANY)


def short(trace: Trace) -> Trace:
    """For tests: the same story, told in less time, and with less mail where only time counts."""
    if trace is SLOW:
        return replace(trace, seconds=1500.0)
    if trace is CROWD:
        return replace(trace, seconds=900.0)
    return replace(trace, seconds=min(trace.seconds, 240.0))


def with_seed(trace: Trace, seed: int) -> Trace:
    return replace(trace, seed=seed)
