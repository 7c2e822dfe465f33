"""Who fetches a copy of a segment that too few volumes hold. Pure: every sidecar computes the same, so nobody leads.

Invariants (property-tested):

- A target is a server whose volume counts (`counting`) and holds no copy yet, nor does another volume of its host.
- Counted are hosts, not volumes: two copies on volumes of one host are one (`held_on`). So while the other volumes of
  a host stand in for a target that is full or dead, there may be one copy too many, and never one too few.
- All sidecars with the same table and catalog name the same targets in the same order; a server that joins or goes
  changes the order of the others as little as can be (rendezvous hashing).
- Best is the server whose lost volume was a member: a rebuild brings its mail back to it. Then another zone than those
  that hold a copy, then another node. Before a second volume of a host comes every host that has none in the list.
- The first `missing` targets begin at once, each later one RANK_SECONDS after the one before it while the segment is
  still short: a target that is full or dead is replaced without anybody saying so. Two that fetch the same segment
  make one copy too many, never one too few.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from mailarray.catalog.rows import VolumeRow
from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray.model.ids import SegmentId, VolumeId

RANK_SECONDS = 30.0  # what a first target has to finish, or to begin; copying 256 MiB takes about 4


def counting(table: MirroringTable, rows: Iterable[VolumeRow]) -> dict[VolumeId, Server]:
    """The volumes that a copy may be counted on: of Serving servers, neither lost nor retired."""
    current = {row.server: row.id for row in rows if not row.lost and not row.retired}
    return {current[server.name]: server for server in table.servers if server.serving and server.name in current}


def held_on(volumes: Iterable[VolumeId], servers: Mapping[VolumeId, Server]) -> int:
    """On how many hosts those of the volumes are that count; `servers` as `counting` made it."""
    return len({servers[volume].host for volume in volumes if volume in servers})


def order(
    segment: SegmentId,
    servers: Mapping[VolumeId, Server],
    holders: Collection[VolumeId],
    rebuilding: Collection[str],
    missing: int,
) -> list[VolumeId]:
    """Targets, best first. `servers` as `counting` made it, `rebuilding`: names of servers that lost a member of it."""
    zones = {servers[volume].zone for volume in holders if volume in servers}
    nodes = {servers[volume].node for volume in holders if volume in servers}
    holding = {servers[volume].host for volume in holders if volume in servers}
    left = {v: server for v, server in servers.items() if v not in holders and server.host not in holding}
    hosts: set[str] = set()

    def rank(volume: VolumeId) -> tuple[bool, bool, bool, bool, bytes]:
        server = left[volume]
        weight = hashlib.blake2b(segment + server.name.encode(), digest_size=8).digest()
        taken = server.host in hosts
        return taken, server.name not in rebuilding, server.zone in zones, server.node in nodes, weight

    chosen: list[VolumeId] = []
    while left and len(chosen) < missing:  # one by one: the zone of the one before counts for the next
        best = min(left, key=rank)
        server = left.pop(best)
        zones.add(server.zone)
        nodes.add(server.node)
        hosts.add(server.host)
        chosen.append(best)
    return chosen + sorted(left, key=rank)


def begins_after(targets: Sequence[VolumeId], own: VolumeId, missing: int) -> float | None:
    """Seconds that a segment must have been short before this volume fetches it; None: it is no target."""
    if own not in targets:
        return None
    return max(0, targets.index(own) + 1 - missing) * RANK_SECONDS
