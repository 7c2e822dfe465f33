"""Which fault is done to whom, when, and for how long: made from a seed alone, before anything runs. Pure.

Invariant: the same seed, number and kinds give the same plan. Kinds come as from a deck of cards that is shuffled anew
when it is used up, so that a campaign of n faults has min(n, kinds) kinds, and none is starved.

What a plan cannot fix is the instant: a fault begins when so many messages were acknowledged, or later, when it has to
wait for another one that it must not meet.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SECONDS = 0.3  # that a fault lasts which lasts
MOST_SECONDS = 5.0  # more than twice the silence after which mirrors seal a writer's segments


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault of a plan."""

    number: int  # from 1
    kind: str
    victim: int  # place of a server
    other: int  # place of another one
    seconds: float
    after: int  # acknowledged messages
    seed: int  # for what else the fault decides

    def __str__(self) -> str:
        return f"{self.number:3d} {self.kind}"


def plan(seed: int, faults: int, kinds: Sequence[str], servers: int, messages: int) -> list[Planned]:
    """The faults of one campaign, in order, spread over its messages; the first tenth has none."""
    dice = random.Random(seed)
    deck: list[str] = []
    planned = []
    for number in range(1, faults + 1):
        if not deck:
            deck = list(kinds)
            dice.shuffle(deck)
        victim, other = dice.sample(range(servers), 2)
        planned.append(
            Planned(
                number,
                deck.pop(),
                victim,
                other,
                dice.uniform(LEAST_SECONDS, MOST_SECONDS),
                int(messages * (0.1 + 0.85 * (number - 1) / faults)),
                dice.randrange(1 << 31),
            )
        )
    return planned
