"""Which segments are worth compacting, and who does it. Pure: every sidecar computes the same, so nobody leads.

Invariants:

- Never touched: a segment that too few servers hold.
- The first holder that counts compacts, the writer's volume first; each later one waits RANK_SECONDS longer, so that
  one that is full is replaced without anybody saying so. Once one has begun, a claim in the catalog keeps others away.
- What is left of several segments goes into one of at most `segment_size`; less than `least` dead bytes in all are not
  worth the copying.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mailarray.catalog.rows import SegmentState, WornSegment
from mailarray.contract.mirroring_table import Server
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking.targets import held_on

RANK_SECONDS = 120.0  # what a first holder has to claim the segment, or to begin
MAX_INPUTS = 100  # segments compacted into one: they are held open, and named in its closing record


@dataclass(frozen=True, slots=True)
class Measured:
    """What a segment really holds. Bytes of bodies and of entries."""

    segment: SegmentId
    length: int  # L
    live: int
    dead: int

    def worn(self, percent: int) -> bool:
        """So much of it is dead."""
        return self.dead > 0 and self.dead * 100 >= self.length * percent


def begins_after(state: SegmentState, counting: Mapping[VolumeId, Server], own: VolumeId) -> float | None:
    """Seconds that the segment must have been worn before this volume compacts it; None: it never does."""
    holders = [volume for volume in (*state.facts.members, *state.replicas) if volume in counting]
    if held_on(holders, counting) < state.facts.copies or own not in holders:
        return None
    return holders.index(own) * RANK_SECONDS


def is_taken(worn: WornSegment, counting: Collection[VolumeId], own: VolumeId) -> bool:
    """Another one has begun, and is still there."""
    return worn.compactor is not None and worn.compactor != own and worn.compactor in counting


def fit(measured: Iterable[Measured], percent: int, segment_size: int, room: int) -> list[Measured]:
    """As many worn ones, in order, as fit into one segment and into the room that is left."""
    chosen: list[Measured] = []
    live = 0
    for one in measured:
        if one.worn(percent) and len(chosen) < MAX_INPUTS and live + one.live <= min(room, max(segment_size, one.live)):
            chosen.append(one)
            live += one.live
    return chosen


def pays(chosen: Sequence[Measured], least: int) -> bool:
    """Whether enough comes back."""
    return bool(chosen) and sum(one.dead for one in chosen) >= least
