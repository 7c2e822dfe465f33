"""The network between servers, and where it is cut: packets of one user to the ports of another are dropped.

Every server runs under a user of its own on one loopback device, so the user id tells who sends. Connections that are
open hang, and new ones get no answer, as with a cable that was pulled: nobody is told. Both directions are cut, unless
asked otherwise. Needs root, nft, and a network namespace of its own: the machine's rules are not touched.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

_TABLE = """
table inet faults {
 set cut {
  type uid . inet_service
 }
 chain out {
  type filter hook output priority 0
  meta skuid . tcp dport @cut drop
 }
}
"""


class Network:
    """Who reaches whom. Names are servers, `access` and `database`; one without a user id starts no connections."""

    def __init__(self, users: Mapping[str, int], ports: Mapping[str, Sequence[int]]) -> None:
        self._users, self._ports = users, ports
        self._cuts: list[tuple[str, str]] = []
        _nft(_TABLE)

    def cut(self, *pairs: tuple[str, str]) -> None:
        """The first of each pair does not reach the second any more."""
        self._cuts += pairs
        self._apply()

    def mend(self, *pairs: tuple[str, str]) -> None:
        """Take one cut back; what others have cut stays."""
        for pair in pairs:
            self._cuts.remove(pair)
        self._apply()

    def _apply(self) -> None:
        elements = {(self._users[a], port) for a, b in self._cuts if a in self._users for port in self._ports[b]}
        lines = ["flush set inet faults cut"]
        if elements:
            lines.append("add element inet faults cut {" + ", ".join(f"{u} . {p}" for u, p in sorted(elements)) + "}")
        _nft("\n".join(lines) + "\n")


def both_ways(one: str, others: Sequence[str]) -> list[tuple[str, str]]:
    """All cuts that part one from the others."""
    return list(itertools.chain.from_iterable(((one, other), (other, one)) for other in others))


def problem() -> str | None:
    """Why nothing can be cut here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    return None if shutil.which("nft") else "needs nft"


def _nft(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, capture_output=True)
