"""Who holds a segment: its original members, and repaired copies beyond them. Statements that several files share.

Those that are asked all the time are made once, here and in the files beside: making one anew costs as much as asking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, case, distinct, func, null, select, update

from mailarray.catalog import schema
from mailarray.catalog.rows import SegmentFacts
from mailarray.contract.server_names import SEPARATOR, host_of
from mailarray.model.ids import IncarnationId, SegmentId, VolumeId

PIECE = 500  # ids in one statement
_segments, _members, _replicas, _volumes = (
    schema.segments,
    schema.segment_members,
    schema.segment_replicas,
    schema.volumes,
)


def not_holders() -> Select[tuple[bytes]]:
    """Volumes that hold nothing any more, or are about to."""
    return select(_volumes.c.id).where(_volumes.c.lost | _volumes.c.retired)


_MEMBERS_OF = (
    select(_members.c.segment, _members.c.volume)
    .where(_members.c.segment.in_(bindparam("numbers", expanding=True)))
    .order_by(_members.c.segment, _members.c.position)
)
_REPLICAS_OF = (
    select(_replicas.c.segment_id, _replicas.c.volume)
    .where(_replicas.c.segment_id.in_(bindparam("ids", expanding=True)), _replicas.c.volume.not_in(not_holders()))
    .order_by(_replicas.c.segment_id, _replicas.c.volume)
)

_OF_SEVERAL = select(_volumes.c.server).where(_volumes.c.server.contains(SEPARATOR))
_TOLD = update(_volumes).where(_volumes.c.id == bindparam("of")).values(counter=_volumes.c.counter + 1)


def count_told(connection: Connection, volume: VolumeId) -> None:
    """What that volume told changed a segment: it counts like a registration, so that a catalog that was restored to a
    moment before it is noticed, also when nothing was registered since (rule 19)."""
    connection.execute(_TOLD, {"of": volume})


def members_of(connection: Connection, numbers: Iterable[int]) -> dict[int, tuple[VolumeId, ...]]:
    """The replica sets of those segments, writer first."""
    sets: dict[int, list[VolumeId]] = {}
    every = list(numbers)
    for start in range(0, len(every), PIECE):
        rows = connection.execute(_MEMBERS_OF, {"numbers": every[start : start + PIECE]})
        for number, volume in rows:
            sets.setdefault(number, []).append(VolumeId(bytes(volume)))
    return {number: tuple(members) for number, members in sets.items()}


def replicas_of(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, tuple[VolumeId, ...]]:
    """The repaired copies of those segments, by segment id; without those on volumes that are lost or retired."""
    found: dict[bytes, tuple[VolumeId, ...]] = {}
    every = list(ids)
    for start in range(0, len(every), PIECE):
        rows = connection.execute(_REPLICAS_OF, {"ids": every[start : start + PIECE]})
        for segment, volume in rows:
            found[bytes(segment)] = (*found.get(bytes(segment), ()), VolumeId(bytes(volume)))
    return found


Counts = Callable[[ColumnElement[bytes]], ColumnElement[bool]]  # of a column of volumes: which ones count


def volume_count(counts: Counts) -> ColumnElement[int]:
    """How many volumes hold a row of `segments`, in the statement around it."""
    original = select(func.count()).where(_members.c.segment == _segments.c.number, counts(_members.c.volume))
    repaired = select(func.count()).where(_replicas.c.segment_id == _segments.c.id, counts(_replicas.c.volume))
    return original.correlate(_segments).scalar_subquery() + repaired.correlate(_segments).scalar_subquery()


def host_count(counts: Counts) -> ColumnElement[int]:
    """On how many hosts they are: the same, as long as no server has several volumes."""
    # Of an original member nothing may be known yet: then it is taken for a host of its own.
    volumes, others = _volumes.alias(), _volumes.alias()
    original = (
        select(func.count(distinct(_host(volumes.c.server))) + func.count(case((_host(volumes.c.server).is_(None), 1))))
        .select_from(_members.outerjoin(volumes, volumes.c.id == _members.c.volume))
        .where(_members.c.segment == _segments.c.number, counts(_members.c.volume))
    )
    inner = _members.alias()
    originals = (
        select(_host(others.c.server))
        .select_from(inner.join(others, others.c.id == inner.c.volume))
        .where(inner.c.segment == _segments.c.number, counts(inner.c.volume), others.c.server != "")
        .correlate(_segments)
    )
    keepers = _volumes.alias()
    repaired = (
        select(func.count(distinct(_host(keepers.c.server))))
        .select_from(_replicas.join(keepers, keepers.c.id == _replicas.c.volume))
        .where(
            _replicas.c.segment_id == _segments.c.id,
            counts(_replicas.c.volume),
            _host(keepers.c.server).not_in(originals),
        )
    )
    return original.correlate(_segments).scalar_subquery() + repaired.correlate(_segments).scalar_subquery()


S = TypeVar("S")


class ByHolders(Generic[S]):
    """A statement that counts holders, made once for each way to count them: the dear one is needed seldom."""

    def __init__(self, counts: Counts, make: Callable[[ColumnElement[int]], S]) -> None:
        self._of_volumes = make(volume_count(counts))
        self._of_hosts = make(host_count(counts))

    def of(self, connection: Connection) -> S:
        """The one that counts hosts; that is counting volumes, as long as no server has several."""
        names = connection.scalars(_OF_SEVERAL)
        return self._of_hosts if any(host_of(name) != name for name in names) else self._of_volumes


def counted(volume: ColumnElement[bytes]) -> ColumnElement[bool]:
    """`Counts`: the volumes of the parameter `counting`."""
    return volume.in_(bindparam("counting", expanding=True))


def living(volume: ColumnElement[bytes]) -> ColumnElement[bool]:
    """`Counts`: every volume that is neither lost nor retired."""
    return volume.not_in(not_holders())


def _host(server: ColumnElement[str]) -> ColumnElement[str | None]:
    """`server_names.host_of` in SQL; NULL when nothing is known of the volume."""
    head = func.rtrim(server, "0123456789")
    further = (head.like("%" + SEPARATOR)) & (head != server)
    return case((server == "", null()), (further, func.substr(server, 1, func.length(head) - 1)), else_=server)


def facts_of(row: Row[Any], members: tuple[VolumeId, ...]) -> SegmentFacts:
    """From a row of `segments`."""
    return SegmentFacts(
        id=SegmentId(bytes(row.id)),
        writer=VolumeId(bytes(row.writer)),
        incarnation=IncarnationId(bytes(row.incarnation)),
        worker=row.worker,
        members=members,
        copies=row.copies,
    )
