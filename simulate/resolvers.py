"""What senders know of the MX records: resolvers that keep an answer for its TTL, and a name server behind them.

A change is at the name server a while after it was planned, since ExternalDNS looks every few seconds, and at a
resolver when its cached answer has run out. Addresses of shared names are cached with the MX records: a simplification.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Mapping
from itertools import accumulate
from random import Random

from mailarray_operator.mx import MxPlan

PUBLISHING = 10.0  # seconds from plan to name server
RESOLVERS = 300  # a few large providers and many small ones: the n-th has 1/n of the first one's mail

Answer = tuple[tuple[tuple[int, ...], ...], ...]  # preferences, best first > names > servers behind them


class NameServer:
    """The published records, and when the next ones will be."""

    def __init__(self) -> None:
        self.records: Answer = ()
        self._coming: deque[tuple[float, Answer]] = deque()

    def publish(self, plan: MxPlan, numbers: Mapping[str, int], at: float) -> None:
        """Change the records after the delay."""
        tiers: dict[int, list[tuple[int, ...]]] = {}
        for target in plan.targets:
            tiers.setdefault(target.preference, []).append(tuple(numbers[server] for server in target.servers))
        self._coming.append((at, tuple(tuple(tiers[preference]) for preference in sorted(tiers))))

    def ask(self, now: float) -> Answer:
        while self._coming and self._coming[0][0] <= now:
            self.records = self._coming.popleft()[1]
        return self.records


class Resolvers:
    """All of them; a message comes by one, the large ones more often."""

    def __init__(self, name_server: NameServer, ttl: float, chance: Random) -> None:
        self._name_server = name_server
        self._ttl = ttl
        self._random = chance.random
        self._shares = list(accumulate(1 / place for place in range(1, RESOLVERS + 1)))
        first = name_server.ask(0.0)
        self._cached: list[Answer] = [first] * RESOLVERS
        self._expires = [chance.random() * ttl for _ in range(RESOLVERS)]

    def any(self) -> int:
        """The resolver of a fresh message."""
        return bisect(self._shares, self._random() * self._shares[-1])

    def ask(self, resolver: int, now: float) -> Answer:
        if self._expires[resolver] <= now:
            self._cached[resolver] = self._name_server.ask(now)
            self._expires[resolver] = now + self._ttl
        return self._cached[resolver]
