"""What the names of servers say: `<group>-<ordinal>`, and with `.<number>` behind it a further volume of that server.

A server with several volumes runs one writer and one catalog sidecar for each. To journals, mirroring protocol,
catalog and mirroring table each of these pairs is a server like any other, with a name of its own; `mail-0`, `mail-0.1`
and `mail-0.2` are what the server `mail-0` has. What must not lose two copies at once asks `host_of`.

Invariants, which everybody who chooses, counts or proves copies keeps by it:

- Two copies that count are never on one host: all volumes of a server may be lost together.
- A name says its host by itself, to every process that reads it: no field of a table has to arrive first. A server
  with one volume is its own host, so where no server has several nothing of this is seen.

Standard library only: the operator uses it, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

SEPARATOR = "."  # not in an ordinal, so what stands behind the last one is a number only for a further volume
VOLUME = TypeVar("VOLUME")


def volume_name(server: str, number: int) -> str:
    """The name of a server's volume, in the mirroring table and in status; its first has the server's own."""
    return f"{server}{SEPARATOR}{number}" if number else server


def host_of(name: str) -> str:
    """The server that a volume's name belongs to."""
    server, separator, number = name.rpartition(SEPARATOR)
    return server if separator and number.isascii() and number.isdigit() else name


def number_of(name: str) -> int:
    """Which of its server's volumes it is, from 0."""
    host = host_of(name)
    return int(name[len(host) + 1 :]) if host != name else 0


def group_of(name: str) -> str:
    """The MailServer that a server, or one of its volumes, belongs to."""
    return host_of(name).rpartition("-")[0]


def hosts(volumes: Iterable[VOLUME], names: Mapping[VOLUME, str]) -> int:
    """On how many servers these volumes are; one without a name is taken for a server of its own."""
    known, strangers = set(), 0
    for volume in set(volumes):
        if volume in names:
            known.add(host_of(names[volume]))
        else:
            strangers += 1
    return len(known) + strangers
