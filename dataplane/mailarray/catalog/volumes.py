"""Volumes, the epoch and the beats: who is there, and whether readers may use the catalog (rules 15 and 19).

Everything that looks at several volumes or changes the epoch runs alone (see `Engine.write`): two volumes that
catch up at the same moment must see each other.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, delete, func, insert, or_, select, update

from mailarray.catalog import schema
from mailarray.catalog.holders import ByHolders, living
from mailarray.catalog.rows import CheckIn, VolumeRow, WaitsFor
from mailarray.catalog.sql import upsert
from mailarray.contract.server_names import hosts
from mailarray.model.ids import IncarnationId, VolumeId

_volumes, _state, _beats = schema.volumes, schema.state, schema.beats
_members, _segments = schema.segment_members, schema.segments

_THIS = _volumes.c.id == bindparam("volume")
_STATE = select(_state)
_ALL = select(_volumes)
_OF_SERVER = _ALL.where(or_(_THIS, _volumes.c.server == bindparam("of_server")))
_IN_ORDER = _ALL.order_by(_volumes.c.server, _volumes.c.id)
_INSERT = insert(_volumes)
_TOLD_NOTHING = {"lost": False, "counter": 0, "caught_up_epoch": 0, "retired": False}
_UPDATE = (
    update(_volumes).where(_THIS).values({name: bindparam(f"new_{name}") for name in ("server", "counter", "retired")})
)
_OUSTED = update(_volumes).where(_THIS).values(lost=True)
_CAUGHT_UP = update(_volumes).where(_THIS).values(caught_up_epoch=bindparam("epoch"))
_MEMBERS = select(_members.c.volume).distinct()
_NEW_EPOCH = update(_state).values(epoch=bindparam("to_epoch"), open=False, uidvalidity=bindparam("to_uidvalidity"))
_NEW_UIDVALIDITY = update(schema.mailboxes).values(uidvalidity=bindparam("to_uidvalidity"))
_OPEN = update(_state).values(open=True)
_BEATS = select(_beats)
_BEAT = (
    update(_beats)
    .where(
        _beats.c.volume == bindparam("of_volume"),
        _beats.c.incarnation == bindparam("of_incarnation"),
        _beats.c.worker == bindparam("of_worker"),
    )
    .values(counter=bindparam("now"))
)
_STOPPED = delete(_beats).where(
    _beats.c.volume == bindparam("of_volume"), _beats.c.incarnation != bindparam("of_incarnation")
)


def _lost_members(holders: ColumnElement[int]) -> Select[Any]:
    return (
        select(_members.c.volume)
        .distinct()
        .join(_segments, _segments.c.number == _members.c.segment)
        .where(
            _members.c.volume.in_(select(_volumes.c.id).where(_volumes.c.lost)),
            func.coalesce(_segments.c.sealed_length, 1) > 0,
            _segments.c.superseded_by.is_(None),
            holders < _segments.c.copies,
        )
    )


_NOT_REPAIRED = ByHolders(living, _lost_members)
_TO_REPAIR = ByHolders(living, lambda holders: _lost_members(holders).where(holders > 0))


def check_in(
    connection: Connection,
    volume: VolumeId,
    server: str,
    epoch: int,
    counter: int,
    serving: bool,
    heard: Collection[tuple[VolumeId, int]] | None = (),
    instead: Collection[VolumeId] = (),
) -> CheckIn:
    """See `Catalog.check_in`."""
    now = _read_state(connection)
    everybody = heard is not None
    rows = connection.execute(*((_ALL,) if everybody else (_OF_SERVER, {"volume": volume, "of_server": server}))).all()
    row = next((row for row in rows if row.id == volume), None)
    known = row.counter if row is not None else 0
    counters = {VolumeId(bytes(row.id)): row.counter for row in rows}
    # What others registered, too: whoever did may be gone for good. Not what was heard in an earlier epoch: that the
    # catalog was restored has been noticed since.
    fewer = epoch == now.epoch and any(count > counters.get(other, 0) for other, count in heard or ())
    if epoch > now.epoch or counter > known or fewer:
        raise_epoch(connection, max(epoch, now.epoch) + 1)
        now = _read_state(connection)
    known = max(known, counter)  # or it would look restored for ever
    # Every server says this once a second: mostly there is nothing new in it, and then nothing is written.
    if row is None:
        connection.execute(
            _INSERT,
            {"id": volume, "server": server, "lost": False, "counter": known, "caught_up_epoch": 0, "retired": False},
        )
    elif (row.server, row.counter, row.retired) != (server, known, row.retired and not serving):
        retired = row.retired and not serving
        connection.execute(
            _UPDATE, {"volume": volume, "new_server": server, "new_counter": known, "new_retired": retired}
        )
    beside = {VolumeId(bytes(o.id)) for o in rows if o.id != volume and o.server == server and not o.lost}
    if row is None or not row.lost:  # a lost one that comes back does not drive out the one in its place
        for other in beside.intersection(instead):
            connection.execute(_OUSTED, {"volume": other})
            beside.discard(other)
    else:
        beside = set()
    counters[volume] = known
    return CheckIn(now.epoch, known, now.open, counters if everybody else None, frozenset(beside))


def raise_epoch(connection: Connection, epoch: int) -> None:
    """Begin a new epoch: closed to readers until the volumes have caught up, with a new UIDVALIDITY everywhere."""
    now = _read_state(connection)
    # A time, so that it is new also against what this database gave out before it was restored; 32 bits (RFC 9051).
    uidvalidity = max(now.uidvalidity + 1, int(time.time()))
    connection.execute(_NEW_EPOCH, {"to_epoch": epoch, "to_uidvalidity": uidvalidity})
    connection.execute(_NEW_UIDVALIDITY, {"to_uidvalidity": uidvalidity})


def caught_up(connection: Connection, volume: VolumeId, epoch: int, expected: Iterable[VolumeId], copies: int) -> bool:
    """See `Catalog.caught_up`."""
    now = _read_state(connection)
    if epoch != now.epoch:
        return bool(now.open)
    connection.execute(_CAUGHT_UP, {"volume": volume, "epoch": epoch})
    if now.open:
        return True
    rows = connection.execute(_ALL).all()
    missing = frozenset().union(*_waits_for(connection, rows, epoch, expected))
    names = {VolumeId(bytes(row.id)): row.server for row in rows if row.server and not row.lost}
    if hosts(missing, names) > copies - 1:  # each lost one counts, whatever is in its place now
        return False
    connection.execute(_OPEN)
    return True


def waits_for(connection: Connection) -> WaitsFor | None:
    """See `Catalog.waits_for`."""
    now = _read_state(connection)
    return None if now.open else _waits_for(connection, connection.execute(_ALL).all(), now.epoch, ())


def _waits_for(connection: Connection, rows: Sequence[Row[Any]], epoch: int, expected: Iterable[VolumeId]) -> WaitsFor:
    known = {bytes(row.id) for row in rows}
    members = {bytes(volume) for volume in connection.scalars(_MEMBERS)}
    silent = (row.id for row in rows if not row.lost and not row.retired and row.caught_up_epoch != epoch)
    away = _ids(silent), _ids((set(expected) | members) - known)  # mirroring table or headers name the latter
    return WaitsFor(away[0], _ids(_lost_and_not_repaired(connection, any(away))), away[1])


def _ids(volumes: Iterable[bytes]) -> frozenset[VolumeId]:
    return frozenset(VolumeId(bytes(volume)) for volume in volumes)


def _lost_and_not_repaired(connection: Connection, hope: bool) -> set[bytes]:
    """Lost volumes with a segment that has too few holders left; one that was lowered to nothing holds nothing. Without
    `hope`, since everybody told all, what has no holder at all is lost for ever: to wait for it would close the catalog
    to all other mail, too."""
    return {bytes(row) for row in connection.scalars((_NOT_REPAIRED if hope else _TO_REPAIR).of(connection))}


def introduce(connection: Connection, servers: Mapping[VolumeId, str]) -> None:
    """See `Catalog.introduce`."""
    known = {bytes(row.id) for row in connection.execute(_ALL)}
    for volume, server in servers.items():
        if volume not in known:
            connection.execute(_INSERT, {"id": volume, "server": server, **_TOLD_NOTHING})


def mark_lost(connection: Connection, volume: VolumeId) -> None:
    """See `Catalog.mark_lost`."""
    row = {"id": volume, "server": "", "lost": True, "counter": 0, "caught_up_epoch": 0, "retired": False}
    connection.execute(upsert(connection.dialect.name, _volumes, ("lost",)), row)


def mark_retired(connection: Connection, volume: VolumeId) -> None:
    """See `Catalog.mark_retired`."""
    row = {"id": volume, "server": "", "lost": False, "counter": 0, "caught_up_epoch": 0, "retired": True}
    connection.execute(upsert(connection.dialect.name, _volumes, ("retired",)), row)


def volumes(connection: Connection) -> list[VolumeRow]:
    """See `Catalog.volumes`."""
    rows = connection.execute(_IN_ORDER)
    return [VolumeRow(VolumeId(bytes(row.id)), row.server, row.lost, row.retired) for row in rows]


def beat(connection: Connection, volume: VolumeId, incarnation: IncarnationId, worker: int, counter: int) -> None:
    """See `Catalog.beat`."""
    of = {"of_volume": volume, "of_incarnation": incarnation}
    if connection.execute(_BEAT, {**of, "of_worker": worker, "now": counter}).rowcount:
        return
    # A volume has one incarnation at a time; earlier ones have stopped, and a missing beat says so, too.
    connection.execute(_STOPPED, of)
    row = {"volume": volume, "incarnation": incarnation, "worker": worker, "counter": counter}
    connection.execute(upsert(connection.dialect.name, _beats, ("counter",)), row)


def beats(connection: Connection) -> dict[tuple[VolumeId, IncarnationId, int], int]:
    """See `Catalog.beats`."""
    return {
        (VolumeId(bytes(row.volume)), IncarnationId(bytes(row.incarnation)), row.worker): row.counter
        for row in connection.execute(_BEATS)
    }


def reset(connection: Connection) -> int:
    """See `Catalog.reset`. Volumes stay, with their counters and with what is lost: no journal tells that again."""
    for table in (
        schema.placements,
        schema.locations,
        schema.messages,
        schema.tombstones,
        schema.fingerprints,
        schema.duplicates,
        schema.mailboxes,
        schema.segment_members,
        schema.segment_replicas,
        schema.superseded,
        schema.segment_wear,
        schema.segments,
        schema.beats,
    ):
        connection.execute(delete(table))
    epoch = int(_read_state(connection).epoch) + 1
    raise_epoch(connection, epoch)
    return epoch


def _read_state(connection: Connection) -> Row[tuple[int, int, bool, int]]:
    return connection.execute(_STATE).one()
