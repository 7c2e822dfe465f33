"""Choosing mirrors for a new segment: the next candidates of the best class in turn. Pure.

Invariant: a better class is used up before a worse one; within a class the turn moves with every segment, so that a
server's segments are spread over all its candidates and its rebuild reads from many. No two of those that are chosen
are volumes of one host, which may be lost as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mailarray.contract.server_names import host_of


def choose(
    classes: Sequence[Sequence[str]], ready: Collection[str], count: int, turn: int, chosen: Sequence[str] = ()
) -> list[str]:
    """Names of up to `count` ready candidates. `turn` is the number of segments opened so far; `chosen` are in already,
    and not counted."""
    more: list[str] = []
    hosts = {host_of(name) for name in chosen}
    for group in classes:
        usable = [name for name in group if name in ready]
        start = turn % len(usable) if usable else 0
        for name in usable[start:] + usable[:start]:
            if len(more) < count and host_of(name) not in hosts:
                hosts.add(host_of(name))
                more.append(name)
    return more
