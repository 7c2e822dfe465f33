"""Which of the wished changes may be made now.

Invariants
- Two changes of one server are at least `dwell` apart; for a return to a better band that is doubled as often as the
  server had to stand back soon after its return, up to `forget`.
- Within any time of `dwell`, at most `budget` servers change.
- The best band keeps a server, and one leaves it for its load only when the others have room.

Called by `planning`, last of what changes bands.
"""

from __future__ import annotations

from collections.abc import Iterable

from mailarray_operator.mx import reasons
from mailarray_operator.mx.published import Member
from mailarray_operator.mx.seats import Table
from mailarray_operator.mx.wishes import Wish


def let_through(table: Table, wishes: Iterable[Wish]) -> None:
    """Move whom dwell, budget and room allow, in the order given; write down of the others what they wait for."""
    policy = table.policy
    used = sum(m.spent is not None and table.now - m.spent < policy.dwell for m in table.members.values())
    budget = policy.changes(sum(1 for _ in table.own()))
    best = table.in_best()
    count = len(best)
    loads = [load for m in best if (load := table.load(m.server)) is not None]
    known, total = len(loads), sum(loads)
    back = sum(m.band != 0 for m in table.own())
    for wish in wishes:
        member = table.members[wish.server]
        leaves_best = member.band == 0 and not member.external
        if (left := dwell_of(table, member, wish.band) - (table.now - member.since)) > 0:
            message = f"{wish.server} changed {table.now - member.since:.0f} s ago, and may again in {left:.0f} s"
            table.wait(wish.server, reasons.DWELL, message)
        elif leaves_best and count <= 1:
            table.wait(wish.server, reasons.NO_ROOM, f"{wish.server} is the only server of the best band, and stays")
        elif leaves_best and wish.needs_room and total > policy.room * (known - 1):
            message = f"{wish.server} stays, since the others have no room for its mail: loads of {total:.2f} in all"
            table.wait(wish.server, reasons.NO_ROOM, message)
        elif wish.places is not None and back >= wish.places:
            table.wait(wish.server, reasons.NO_ROOM, f"{wish.server} waits until one that stands back returns")
        elif used >= budget:
            message = f"{wish.server} waits, since {used} of {budget} changes in {policy.dwell:.0f} s were made"
            table.wait(wish.server, reasons.BUDGET, message)
        else:
            used += 1
            if leaves_best:
                count, known = count - 1, known - 1  # the total stays: its load goes to the others
            if not member.external:
                back += (wish.band != 0) - (member.band != 0)
            table.move(wish.server, wish.band, wish.reason, wish.message, ratio=wish.ratio)


def dwell_of(table: Table, member: Member, band: int) -> float:
    """Seconds that must pass since its last change. A server that never changed since the first plan may at once."""
    policy = table.policy
    if member.reason in (reasons.FIRST_PLAN, reasons.EXTERNAL):
        return 0.0
    if member.band is None or band >= member.band:
        return policy.dwell
    return float(min(policy.dwell * 2 ** min(member.level, 30), max(policy.forget, policy.dwell)))
