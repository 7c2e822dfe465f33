"""Which volume gives back a copy too many. Pure: every sidecar computes the same from the same table and catalog.

Invariants (property-tested):

- Only a repaired copy goes: a volume that the segment's header does not name.
- What is left is on `copies` hosts that count at least, and in as many zones as before, or as `copies`, where the table
  wants zones. So nothing is short or in one zone alone for it, and nobody fetches it again (targets.py, spreading.py).
- The ranking is the same for all. Seen differently by two, both may begin: then asking each other decides
  (giving_back.py), not this.
- Best is the copy that adds least: on a host that holds another one, in a zone that holds most, on a node likewise.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping

from mailarray.catalog.rows import SegmentFacts
from mailarray.contract.mirroring_table import Server
from mailarray.model.ids import VolumeId
from mailarray.tracking.targets import RANK_SECONDS, held_on


def enough(
    facts: SegmentFacts,
    staying: Collection[VolumeId],
    before: Collection[VolumeId],
    servers: Mapping[VolumeId, Server],
    apart: bool,
) -> bool:
    """Whether those that stay are enough for one of `before` to go. `servers` as `counting` made it; `apart`: the
    table wants copies of this writer in other zones."""
    stay = {servers[volume].zone for volume in staying if volume in servers}
    were = {servers[volume].zone for volume in before if volume in servers}
    wanted = min(len(were), facts.copies) if apart else 1
    return held_on(staying, servers) >= max(facts.copies, 1) and len(stay) >= wanted


def leavers(
    facts: SegmentFacts, holders: Collection[VolumeId], servers: Mapping[VolumeId, Server], apart: bool
) -> list[VolumeId]:
    """Those of the holders each of which may go, if it alone does; best first."""
    counted = [volume for volume in holders if volume in servers]
    hosts = Counter(servers[volume].host for volume in counted)
    zones = Counter(servers[volume].zone for volume in counted)
    nodes = Counter(servers[volume].node for volume in counted)

    def rank(volume: VolumeId) -> tuple[int, int, int, bytes]:
        server = servers[volume]
        weight = hashlib.blake2b(facts.id + server.name.encode(), digest_size=8).digest()
        return -hosts[server.host], -zones[server.zone], -nodes[server.node], weight

    free = [volume for volume in counted if volume not in facts.members]
    rest = {volume: [other for other in counted if other != volume] for volume in free}
    return sorted((volume for volume in free if enough(facts, rest[volume], counted, servers, apart)), key=rank)


def too_many(
    facts: SegmentFacts, holders: Collection[VolumeId], servers: Mapping[VolumeId, Server], apart: bool
) -> list[VolumeId]:
    """Those that go if they go one by one, as long as there is one too many."""
    left = [volume for volume in holders if volume in servers]
    gone: list[VolumeId] = []
    while first := leavers(facts, left, servers, apart)[:1]:
        gone += first
        left.remove(first[0])
    return gone


def begins_after(ranking: Collection[VolumeId], own: VolumeId, patience: float, full: bool) -> float | None:
    """Seconds that the holders must have been the same before this volume gives its copy back; None: it does not. The
    later ones step in for one that does not do it; a full volume waits for nobody."""
    order = list(ranking)
    if own not in order:
        return None
    return patience + (0.0 if full else order.index(own) * RANK_SECONDS)
