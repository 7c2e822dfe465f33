"""The default rows of the mirroring table: a ring in which copies go far away, and evenly. Pure, standard library only.

Made once for each change of the table, by whoever makes the table. Refuses to judge which servers are up: a table lists
candidates, and a writer finds out by itself which of them answer.

Invariants
- A server's classes are: servers in another zone, then on another node, then on its own node (with spread Node: on
  another node, then on its own). A class that is empty is left out.
- A server is never its own candidate, nor is another volume of the host that it is on, and one that drains is nobody's;
  it has candidates of its own nevertheless, for the mail that was on its way when it began to drain.
- At most CANDIDATES in all, so that the table of 1,500 servers fits a ConfigMap. RESERVED of them come from the worse
  classes where there are such, so that mail goes on when a whole zone is lost.
- A second volume of a host is a candidate only when each other host has one in the row, as far as the class has room:
  a writer needs as many hosts as copies, and further volumes of them for when a disk is lost.
- Evenly: servers of one zone stand at even distances on the ring, and each takes the next ones that follow it. With
  zones and nodes of equal size all servers are candidates equally often. A zone that is smaller than the others
  mirrors more, since its neighbours have nowhere else to go.
- The same servers give the same rows, in whatever order they are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray.contract.server_names import host_of

CANDIDATES = 8  # for each server, in all classes: six for the most copies there can be, and two for a lost zone
FULL = "Full"  # instead of a server's state, while rows are made; no table says so
RESERVED = 2  # of them from the worse classes, where there are servers in such

Spread = Literal["Zone", "Node"]
Rows = dict[str, tuple[tuple[str, ...], ...]]  # server -> classes of candidates, best first


def ring(servers: Sequence[Server], generation: int) -> MirroringTable:
    """A whole table with the default rows."""
    return MirroringTable(generation, tuple(servers), ring_rows(servers))


def ring_rows(servers: Iterable[Server], spread: Spread = "Zone") -> Rows:
    """Rows for all servers."""
    everyone = sorted(servers, key=lambda server: server.name)
    whole = _Ring([s for s in everyone if s.serving], _zone if spread == "Zone" else _nowhere)
    zones = {key: _Ring(members, _node) for key, members in _buckets(whole.servers, whole.key).items()}
    nodes = {key: _Ring(members, _itself) for key, members in _buckets(whole.servers, _node).items()}
    empty = _Ring([], _itself)
    rows: Rows = {}
    for rank, server in enumerate(everyone):
        rings = (whole, zones.get(whole.key(server), empty), nodes.get(_node(server), empty))
        quotas = _quotas([ring.others(server) for ring in rings])
        around = [ring.around(server, rank) for ring in rings]
        rows[server.name] = _row(server.name, around, quotas)
    return rows


def mirrors_among(servers: Iterable[Server], full: Collection[str], copies: int) -> tuple[Server, ...]:
    """The same servers, for the making of rows: those whose volume is full are nobody's candidates.

    While too few others are left they stay: a writer finds out for itself that they take no mail, and brings them
    deletions, which nobody else could keep.
    """
    every = tuple(servers)
    room = len({server.host for server in every if server.serving and server.name not in full})
    if not full or room <= copies:
        return every
    return tuple(replace(server, state=FULL) if server.serving and server.name in full else server for server in every)


def class_rows(sources: Sequence[str], classes: Sequence[Sequence[str]]) -> Rows:
    """Rows for servers whose classes were named by a person: each takes the next ones of each class, evenly."""
    places = [{name: i for i, name in enumerate(group)} for group in classes]
    hosts = [{host_of(name) for name in group} for group in classes]
    rows: Rows = {}
    for rank, source in enumerate(sources):
        quotas = _quotas([len(group - {host_of(source)}) for group in hosts])
        around: list[Iterator[str]] = []
        for group, place in zip(classes, places, strict=True):
            start = place[source] + 1 if source in place else rank * len(group) // len(sources)
            around.append(_turned(group, start))
        rows[source] = _row(source, around, quotas)
    return rows


def _turned(group: Sequence[str], start: int) -> Iterator[str]:
    return (group[(start + i) % len(group)] for i in range(len(group)))


def _row(server: str, around: Sequence[Iterable[str]], quotas: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """Classes of candidates, out of those of each class in the order in which they come round: `quotas` hosts, then
    further volumes of them, the best class first, up to CANDIDATES."""
    own = host_of(server)
    room = CANDIDATES - sum(quotas)  # for further volumes; none where there are hosts enough
    row: list[list[str]] = []
    spare: list[list[str]] = []
    for candidates, quota in zip(around, quotas, strict=True):
        hosts, chosen, further = {own}, list[str](), list[str]()
        for name in candidates:
            if len(chosen) >= quota and len(further) >= room:
                break
            host = host_of(name)
            if host == own:
                continue
            if host not in hosts and len(chosen) < quota:
                hosts.add(host)
                chosen.append(name)
            else:
                further.append(name)
        row.append(chosen)
        spare.append(further)
    left = CANDIDATES - sum(map(len, row))
    for chosen, further in zip(row, spare, strict=True):
        chosen += further[:left]
        left -= len(further[:left])
    return tuple(tuple(group) for group in row if group)


def spread_that_holds(servers: Iterable[Server], rows: Mapping[str, Sequence[Sequence[str]]]) -> Spread | None:
    """Zone: each serving server's best class is in other zones; Node: on other nodes; None: neither."""
    by_name = {server.name: server for server in servers}
    holds: Spread = "Zone"
    serving = [server for server in by_name.values() if server.serving]
    for server in serving:
        classes = rows.get(server.name, ())
        best = [by_name[name] for name in (classes[0] if classes else ()) if name in by_name]
        if not best or any(mirror.node == server.node for mirror in best):
            return None
        if not server.zone or any(not mirror.zone or mirror.zone == server.zone for mirror in best):
            holds = "Node"
    return holds if serving else None


@dataclass(frozen=True, slots=True)
class _Place:
    index: int  # on the ring
    bucket: str


class _Ring:
    """Servers in a circle, those of one bucket (a zone, a node) at even distances."""

    def __init__(self, servers: Sequence[Server], key: Callable[[Server], str]) -> None:
        self.key = key
        buckets = _buckets(servers, key)
        placed: list[tuple[float, str, Server]] = []
        for order, (name, members) in enumerate(sorted(buckets.items())):
            # Small buckets begin at different places, or their only members would all stand side by side.
            phase = (order + 0.5) / len(buckets)
            # Inside a bucket the nodes take turns too, so that neighbours of one zone are on different nodes.
            inner = members if key is not _zone else _Ring(members, _node).servers
            placed += [((i + phase) / len(members), name, server) for i, server in enumerate(inner)]
        placed.sort(key=lambda place: (place[0], place[1]))
        self.servers: list[Server] = [server for _, _, server in placed]
        self._names = [server.name for server in self.servers]
        self._buckets = [bucket for _, bucket, _ in placed]
        self._places = {name: _Place(i, self._buckets[i]) for i, name in enumerate(self._names)}
        self._sizes = {name: len({server.host for server in members}) for name, members in buckets.items()}
        self._hosts = sum(self._sizes.values())
        self._next = self._next_buckets()

    def _next_buckets(self) -> list[int]:
        """For each place the way to the next one of another bucket: 0 when all are of one."""
        count = len(self._buckets)
        following = [0] * count
        if len(self._sizes) < 2:
            return following
        for i in range(2 * count - 1, -1, -1):
            here, after = i % count, (i + 1) % count
            if self._buckets[here] != self._buckets[after]:
                following[here] = 1
            elif following[after]:
                following[here] = 1 + following[after]
        return following

    def others(self, server: Server) -> int:
        """Hosts in other buckets."""
        return self._hosts - self._sizes.get(self.key(server), 0)

    def around(self, server: Server, rank: int) -> Iterator[str]:
        """All servers of other buckets, as they follow; one that is not on the ring begins where its rank puts it."""
        size = len(self._names)
        if not size:
            return
        bucket = self.key(server)
        place = self._places.get(server.name)
        at = (place.index + 1 if place is not None else rank) % size
        steps = 0
        while steps < size:
            step = 1
            if self._buckets[at] == bucket:
                step = self._next[at] or size  # 0: there are no others
            else:
                yield self._names[at]
            at = (at + step) % size
            steps += step


def _quotas(available: Sequence[int]) -> list[int]:
    """How many candidates each class gives: better ones first, but RESERVED for the worse where they have any."""
    quotas: list[int] = []
    left = CANDIDATES
    for i, count in enumerate(available):
        reserved = 0 if any(quotas) else min(RESERVED, sum(available[i + 1 :]))
        quotas.append(min(count, left - reserved))
        left -= quotas[-1]
    return quotas


def _buckets(servers: Sequence[Server], key: Callable[[Server], str]) -> dict[str, list[Server]]:
    buckets: dict[str, list[Server]] = {}
    for server in servers:
        buckets.setdefault(key(server), []).append(server)
    return buckets


def _zone(server: Server) -> str:
    return server.zone


def _node(server: Server) -> str:
    return f"{server.zone}/{server.node}"


def _nowhere(_: Server) -> str:
    return ""


def _itself(server: Server) -> str:
    return server.host
