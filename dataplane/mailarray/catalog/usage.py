"""How many bytes each mailbox holds: a running sum that registration and expunge keep, for quotas.

Invariants:

- `mailboxes.used` changes in the transaction that makes or removes a placement, by the size of its message. A second
  sight of a message makes no placement, so it counts once a mailbox (rule 16); moving bodies about changes nothing.
- NULL is a mailbox that was never counted: of a catalog that an earlier version made. It stays NULL until `count_used`.
- A process of the version before registers without counting, so a sum may be wrong after a rolling upgrade. Whoever
  uses it has it counted anew now and then (`tracking/usage.py`); nothing but quotas depends on it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, func, select, update

from mailarray.catalog import schema
from mailarray.catalog.catalog import CatalogClosed
from mailarray.catalog.holders import PIECE

_boxes, _placements, _messages = schema.mailboxes, schema.placements, schema.messages


def used(connection: Connection, mailboxes: Collection[str]) -> dict[str, int | None]:
    """See `Catalog.used`."""
    if not connection.scalar(select(schema.state.c.open)):
        raise CatalogClosed("the catalog has not heard from all volumes yet")
    wanted = list(mailboxes)
    found: dict[str, int | None] = {}
    for start in range(0, len(wanted), PIECE):
        rows = select(_boxes.c.address, _boxes.c.used).where(_boxes.c.address.in_(wanted[start : start + PIECE]))
        found.update((address, bytes) for address, bytes in connection.execute(rows))
    return found


def count_used(connection: Connection, mailbox: str) -> int:
    """See `Catalog.count_used`. The row is locked first: no placement comes or goes while it is counted."""
    box = connection.scalar(select(_boxes.c.id).where(_boxes.c.address == mailbox).with_for_update())
    if box is None:
        return 0
    join = _placements.join(_messages, _messages.c.id == _placements.c.message)
    total = connection.scalar(select(func.sum(_messages.c.size)).select_from(join).where(_placements.c.mailbox == box))
    connection.execute(update(_boxes).where(_boxes.c.id == box).values(used=int(total or 0)))
    return int(total or 0)


def take_out(connection: Connection, messages: Sequence[bytes]) -> None:
    """The placements of these messages are about to be removed: for whoever removes them other than by tombstones."""
    join = _placements.join(_messages, _messages.c.id == _placements.c.message)
    sums = (
        select(_placements.c.mailbox, func.sum(_messages.c.size).label("bytes"))
        .select_from(join)
        .where(_placements.c.message.in_(messages))
        .group_by(_placements.c.mailbox)
    )
    for box, bytes in connection.execute(sums).all():
        connection.execute(update(_boxes).where(_boxes.c.id == box).values(used=_boxes.c.used - int(bytes)))
