"""Choosing mirrors for a new segment: the next candidates of the best class in turn. Pure.

Invariant: a better class is used up before a worse one; within a class the turn moves with every segment, so that a
server's segments are spread over all its candidates and its rebuild reads from many.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


def choose(classes: Sequence[Sequence[str]], ready: Collection[str], count: int, turn: int) -> list[str]:
    """Names of up to `count` ready candidates. `turn` is the number of segments opened so far."""
    chosen: list[str] = []
    for group in classes:
        usable = [name for name in group if name in ready and name not in chosen]
        start = turn % len(usable) if usable else 0
        chosen += (usable[start:] + usable[:start])[: count - len(chosen)]
        if len(chosen) >= count:
            break
    return chosen
