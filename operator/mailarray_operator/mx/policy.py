"""What a person asks of the MX records, and every figure that the planner goes by, each with its reason.

`docs/mx.md` says what the figures do together, and `make simulate` shows it. Made by the operator from `spec.mx`; a
figure that is not in the resource is a default here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MAX_PREFERENCE = 65535  # RFC 1035 section 3.3.9: 16 bits


class Strategy(StrEnum):
    """How servers are chosen."""

    LOAD = "Load"  # a loaded server stands back
    ROUND_TABLE = "RoundTable"  # servers stand back in turn, the first after the last
    RANDOM = "Random"  # servers stand back by chance
    STATIC = "Static"  # each has the preference that a person gave it


@dataclass(frozen=True, slots=True)
class External:
    """A server in another network or domain: it is published under its own name, with the preference given."""

    hostname: str
    preference: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Seconds, and shares from 0 to 1."""

    strategy: Strategy = Strategy.LOAD
    ttl: int = 60
    min_targets: int = 2  # names; a single one has nothing to fall back on
    max_targets: int = 20  # names; senders try few, and larger answers need TCP
    external: tuple[External, ...] = ()
    preferences: Mapping[str, int] = field(default_factory=dict)  # by server; Static alone
    seed: int = 0  # Random alone

    bands: tuple[int, ...] = (10, 20, 30)
    """Preferences: in service, standing back, last resort. Senders use the best one alone while it answers, so more
    bands would tell them nothing more. Steps of ten leave people room for servers of their own in between."""

    high: float = 0.90
    """A server that is not above this is never moved, however idle the others are: it refuses nothing."""
    margin: float = 0.15
    """And it must be this much above its peers' median: when all are loaded alike, moving one helps nobody."""
    low: float = 0.60
    """A server that stood back returns below this. Far from `high`: in between nothing happens."""
    room: float = 0.85
    """A server does not leave when the others would then be above this on average: the next one would tip over."""
    confirm: float = 15.0
    """How long a load must last: four reports at the usual 5 seconds. Bursts of mail are shorter, mostly."""
    dwell_ttls: int = 2
    """TTLs between two changes of one server, at least. After one TTL all resolvers know of the change, in the second
    one its effect can be seen."""
    forget: float = 3600.0
    """A server that had to stand back again within this time after its return has its dwell doubled. Its load,
    compared with its peers', is remembered for this long."""
    budget: float = 0.25
    """Share of the servers that may change within one dwell; at least two servers may."""
    resting: float = 0.10
    """Share of the servers that stand back in each turn of RoundTable and Random, rounded down."""
    stale_after: float = 30.0
    """An older report says nothing of now: six were missed."""

    @property
    def dwell(self) -> float:
        """Seconds."""
        return float(self.dwell_ttls * self.ttl)

    @property
    def last(self) -> int:
        """Index of the worst band."""
        return len(self.bands) - 1

    def changes(self, servers: int) -> int:
        """How many of so many servers may change within one dwell."""
        return max(2, int(servers * self.budget))

    def __post_init__(self) -> None:
        if self.ttl < 1:
            raise ValueError(f"ttl is {self.ttl} seconds; give at least 1")
        if not 1 <= self.min_targets <= self.max_targets:
            raise ValueError(
                f"minTargets is {self.min_targets}, maxTargets {self.max_targets}; give 1 <= minTargets <= maxTargets"
            )
        if len(self.bands) < 2 or list(self.bands) != sorted(set(self.bands)):
            raise ValueError(f"bands are {self.bands}; give at least two preferences, best first")
        if self.dwell_ttls < 2:
            raise ValueError(f"dwell_ttls is {self.dwell_ttls}; give at least 2")
        if not 0 < self.low < self.high <= 1:
            raise ValueError(f"low is {self.low} and high {self.high}; give 0 < low < high <= 1")
