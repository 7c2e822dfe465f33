"""What a backup takes out of the catalog, and a restore puts back: only what the journals do not hold.

That is: which sealed segments there should be, flags, the epoch and UIDVALIDITY. Messages, placements and tombstones
are registered from the segments again. A table that keeps more of what only the catalog knows belongs in this file.
Reads come in pages, so that no call is long however large the catalog is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, case, func, select, tuple_, update

from mailarray.catalog import schema
from mailarray.catalog.holders import PIECE
from mailarray.catalog.rows import CatalogState, FlagRow, SealedRow
from mailarray.model.ids import PlacementId, SegmentId

PAGE = 5000  # rows in one call: milliseconds

_segments, _mailboxes, _placements, _state = schema.segments, schema.mailboxes, schema.placements, schema.state


def catalog_state(connection: Connection) -> CatalogState:
    """See `Catalog.state`."""
    row = connection.execute(select(_state.c.epoch, _state.c.open, _state.c.uidvalidity)).one()
    newest = connection.scalar(select(func.max(_mailboxes.c.uidvalidity))) or 0
    return CatalogState(row.epoch, bool(row.open), max(row.uidvalidity, newest))


def segment_rows(connection: Connection, after: int) -> list[SealedRow]:
    """See `Catalog.segment_rows`."""
    columns = (_segments.c.number, _segments.c.id, _segments.c.sealed_length, _segments.c.superseded_by)
    rows = connection.execute(
        select(*columns).where(_segments.c.number > after).order_by(_segments.c.number).limit(PAGE)
    )
    return [
        SealedRow(number, SegmentId(bytes(id)), length, None if by is None else SegmentId(bytes(by)))
        for number, id, length, by in rows
    ]


def mailbox_addresses(connection: Connection, after: str) -> list[str]:
    """See `Catalog.mailbox_addresses`."""
    query = select(_mailboxes.c.address).where(_mailboxes.c.address > after).order_by(_mailboxes.c.address).limit(PAGE)
    return list(connection.scalars(query))


def flags(connection: Connection, after: tuple[int, int]) -> list[FlagRow]:
    """See `Catalog.flags`."""
    columns = _placements.c
    rows = connection.execute(
        select(columns.mailbox, columns.uid, _mailboxes.c.address, columns.record, columns.position, columns.flags)
        .join(_mailboxes, _mailboxes.c.id == columns.mailbox)
        .where(tuple_(columns.mailbox, columns.uid) > tuple_(*after), columns.flags != 0)
        .order_by(columns.mailbox, columns.uid)
        .limit(PAGE)
    )
    return [
        FlagRow((mailbox, uid), address, PlacementId(bytes(record), position), set_)
        for mailbox, uid, address, record, position, set_ in rows
    ]


def set_flags(connection: Connection, rows: Sequence[FlagRow]) -> int:
    """See `Catalog.set_flags`. Within a mailbox placements are found by a scan of it: once for all of its rows."""
    wanted: dict[str, dict[tuple[bytes, int], int]] = defaultdict(dict)
    for row in rows:
        wanted[row.mailbox][row.placement.record, row.placement.index] = row.flags
    changes = []
    addresses = sorted(wanted)
    columns = _placements.c
    for start in range(0, len(addresses), PIECE):
        found = connection.execute(
            select(columns.mailbox, columns.uid, _mailboxes.c.address, columns.record, columns.position)
            .join(_mailboxes, _mailboxes.c.id == columns.mailbox)
            .where(_mailboxes.c.address.in_(addresses[start : start + PIECE]))
        )
        for mailbox, uid, address, record, position in found:
            value = wanted[address].get((bytes(record), position))
            if value is not None:
                changes.append({"of_mailbox": mailbox, "of_uid": uid, "to": value})
    if changes:
        connection.execute(
            update(_placements)
            .where(columns.mailbox == bindparam("of_mailbox"), columns.uid == bindparam("of_uid"))
            .values(flags=bindparam("to"), modseq=columns.modseq + 1),
            changes,
        )
    return len(changes)


def raise_uidvalidity(connection: Connection, above: int) -> None:
    """See `Catalog.raise_uidvalidity`."""
    for table in (_state, _mailboxes):
        column = table.c.uidvalidity
        connection.execute(update(table).values(uidvalidity=case((column > above, column), else_=above + 1)))
