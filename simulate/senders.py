"""A sender, as RFC 5321 section 5.1 has it: lowest preference first, by chance among equals, the next one when an
attempt fails, and later again when all have failed (section 4.5.4.1).

Of a name with several addresses one is tried, by chance, before the next name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from simulate.resolvers import Answer as Records

ATTEMPTS = 5  # targets tried in a row; Postfix' smtp_mx_session_limit is 2, others go through all
FIRST_RETRY = (300.0, 900.0)  # seconds, by chance in between; Postfix begins with 300
RETRIES = 6  # then the trace is over, or the sender is one that gives up


def targets(records: Records, chance: Callable[[], float]) -> Iterator[int]:
    """Servers in the order in which they are tried."""
    left = ATTEMPTS
    for names in records:
        if left == ATTEMPTS:  # mostly the first attempt succeeds, so only one is drawn
            first = int(chance() * len(names))
            servers = names[first]
            yield servers[int(chance() * len(servers))]
            left -= 1
            rest = [*names[:first], *names[first + 1 :]]
        else:
            rest = list(names)
        while rest and left:
            servers = rest.pop(int(chance() * len(rest)))
            yield servers[int(chance() * len(servers))]
            left -= 1


def retry_after(retries: int, chance: Random) -> float:
    """Seconds; doubled each time."""
    return chance.uniform(*FIRST_RETRY) * float(2**retries)
