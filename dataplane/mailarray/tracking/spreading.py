"""Segments whose copies are all in one zone although the mirroring table wants them in two: written while all other
zones were away, or repaired then.

Invariants:

- Each of them gets one more copy, in another zone, from the moment that one can be had; nothing is removed for it, so
  nobody is worse off at any time. So a zone that is back gets back its share by itself.
- What the table does not want apart stays together: only segments whose writer has candidates of another zone, and no
  others, in its best class. Of a writer that the table does not know (any more), other zones are wanted.
- A server of the same zone never fetches such a copy. One segment is counted by one server: the first that holds it.

Not looked for while the table knows one zone alone, or none. The fetching itself is done by `repairing.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mailarray.catalog.catalog import Catalog
from mailarray.catalog.rows import LookedAt, ShortSegment, VolumeRow
from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking.targets import begins_after, held_on, order


@dataclass(slots=True)
class Together:
    """What was found at the last look."""

    segments: dict[SegmentId, ShortSegment] = field(default_factory=dict)
    _before: dict[str, LookedAt] = field(default_factory=dict)  # by zone

    async def look(
        self,
        catalog: Catalog,
        table: MirroringTable,
        rows: Iterable[VolumeRow],
        servers: Mapping[VolumeId, Server],
        anew: bool,
    ) -> None:
        """`servers` as `targets.counting` made it; `anew` when it, or the catalog, is another than at the last look.
        Raises CatalogUnavailable."""
        if anew:
            self._before = {}
        zones = {server.zone for server in servers.values()} - {""}
        found: dict[SegmentId, ShortSegment] = {}
        names = {row.id: row.server for row in rows}
        for zone in sorted(zones) if len(zones) > 1 else ():
            others = [volume for volume, server in servers.items() if server.zone != zone]
            segments, self._before[zone] = await catalog.held_by_none_of(tuple(servers), others, self._before.get(zone))
            for segment in segments:
                # On too few servers, or on none, is another matter: a copy for that goes to another zone anyway.
                enough = held_on(segment.holders, servers) >= segment.facts.copies
                if enough and wants_zones(table, names.get(segment.facts.writer, "")):
                    found[segment.facts.id] = segment
        self.segments = found

    def count(self, own: VolumeId) -> int:
        """Those that this volume is to count."""
        return sum(segment.holders[0] == own for segment in self.segments.values())

    def to_fetch(
        self, servers: Mapping[VolumeId, Server], own: VolumeId, seconds: Mapping[SegmentId, float]
    ) -> list[ShortSegment]:
        """Those that this volume fetches; `seconds`: for how long each has been known."""
        chosen = []
        for id, segment in self.segments.items():
            zones = {servers[volume].zone for volume in segment.holders if volume in servers}
            elsewhere = {volume: server for volume, server in servers.items() if server.zone not in {*zones, ""}}
            after = begins_after(order(id, elsewhere, segment.holders, (), 1), own, 1)
            if after is not None and seconds.get(id, 0.0) >= after:
                chosen.append(segment)
        return chosen


def wants_zones(table: MirroringTable, writer: str) -> bool:
    """Whether the table wants copies of what that server writes in another zone."""
    server = table.server(writer)
    if server is None:
        return True
    best = next(iter(table.candidates(writer)), ())
    return bool(best) and all(mirror.zone and mirror.zone != server.zone for mirror in best)
