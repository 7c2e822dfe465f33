"""The mirroring table of a MailCluster: who is in it, whose rows a MirrorPair gives, and its generation.

Invariants
- A server enters with its first node, and leaves only when it stops for good (Drained, or its MailServer is deleted).
  Being down is no reason: its mirrors' rows, and where its mail is read, stay as they are.
- Generations only grow: one more than any that was seen, and only when the content differs.
- A server whose volume is nearly full, as it last said, is in nobody's row while enough others are left; its own row
  stays. It takes no mail itself, serves reads, and is back in the rows when it has room again.
- The volumes of a server are in together, each with a row of its own, under the server's address.
- Addresses are DNS names of pods, so a pod may move without a new generation, unless its zone or node differ.

Called by `deciding`; the ring itself is `contract.mirroring_ring`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from mailarray.contract.mirroring_ring import Rows, Spread, class_rows, mirrors_among, ring_rows
from mailarray.contract.mirroring_table import DRAINING, SERVING, MirroringTable, Server
from mailarray.contract.server_names import volume_name
from mailarray_operator.api import names
from mailarray_operator.plan.drain import State
from mailarray_operator.plan.observation import Observation
from mailarray_operator.plan.scaling import Fleet


def by_group(table: MirroringTable | None) -> dict[str, int]:
    """For each group one more than its highest ordinal in the table."""
    counts: dict[str, int] = {}
    for server in table.servers if table is not None else ():
        group, _, ordinal = server.host.rpartition("-")
        if ordinal.isdecimal():
            counts[group] = max(counts.get(group, 0), int(ordinal) + 1)
    return counts


def servers_of(
    observation: Observation, fleets: Iterable[Fleet], known: Mapping[str, Server], cluster_domain: str
) -> tuple[Server, ...]:
    """Who is in, by group and ordinal."""
    domain = f"{names.headless_service(observation.name)}.{observation.namespace}.svc.{cluster_domain}"
    members: list[Server] = []
    for fleet in fleets:
        for view in fleet.servers[: fleet.replicas]:
            pod, old = view.pod, known.get(view.name)  # its volumes come and go together
            placed = pod is not None and bool(pod.node)
            returns = observation.table is None and bool(view.volume)  # the ConfigMap was lost, not the server
            if old is None and not placed and not returns:
                continue
            drain = fleet.drains.get(view.ordinal)
            state = DRAINING if drain is not None and drain.state is not State.LEAVING else SERVING
            zone, node = (old.zone, old.node) if old is not None and not placed else (view.zone, view.node)
            host = f"{view.name}.{domain}"
            for number in range(len(view.writers)):
                name = volume_name(view.name, number)
                sidecar, writer = f"{host}:{names.sidecar_port(number)}", f"{host}:{names.writer_port(number)}"
                server = Server(name, sidecar, writer, zone, node, state)
                old = known.get(name)
                members.append(old if old is not None and old == server else server)
    return tuple(members)


@lru_cache(maxsize=4)  # most changes of a pod leave the table as it is; a table of 1,500 servers takes 30 ms
def _ring(servers: tuple[Server, ...], spread: Spread) -> Rows:
    return ring_rows(servers, spread)


def full_servers(observation: Observation) -> frozenset[str]:
    """Servers, or further volumes of some, that said last that they are nearly full."""
    return frozenset(
        volume_name(name, number)
        for name, report in observation.reports.items()
        for number, said in enumerate(report.volumes)
        if said.sidecar is not None and said.sidecar.get("full")
    )


def rows_of(
    every: tuple[Server, ...],
    spread: Spread,
    pairs: Mapping[str, Sequence[str]],
    full: frozenset[str] = frozenset(),
    copies: int = 2,
) -> Rows:
    """The ring's rows, and those of MirrorPairs in their place: `pairs` is source -> mirrors, groups, best first."""
    servers = mirrors_among(every, full, copies)
    rows = _ring(servers, spread)
    if not pairs:
        return rows
    rows = dict(rows)
    groups: dict[str, list[str]] = {}
    serving: dict[str, list[str]] = {}
    for server in servers:
        group = server.group
        groups.setdefault(group, []).append(server.name)
        if server.serving:
            serving.setdefault(group, []).append(server.name)
    for source, mirrors in pairs.items():
        rows.update(class_rows(groups.get(source, []), [serving.get(mirror, []) for mirror in mirrors]))
    return rows


def next_table(observation: Observation, servers: tuple[Server, ...], rows: Rows, seen: int) -> MirroringTable:
    """The observed table when it says the same, else the next one; `seen` is the highest generation ever heard of."""
    old = observation.table
    if old is not None and old.generation >= seen and old.servers == servers and old.rows == rows:
        return old
    return MirroringTable(max(seen, old.generation if old is not None else 0) + 1, servers, rows)
