"""Who comes and who goes: joining, lost, draining and removed servers, and externals; whatever dwell and budget say.

Invariants
- A lost or draining server is published only when fewer than `minTargets` would be left without it; it then stands
  in the worst band. Draining ones stay rather than lost ones: they still answer.
- A server comes in the worst band, except in a first plan, in which there is nothing to be careful of.
- The best band is empty only when nobody but lost and draining servers is left: when its last one leaves, the next
  band is lifted whole. That changes no server's share of the mail.

Called by `planning`, before anything that depends on load.
"""

from __future__ import annotations

from dataclasses import replace

from mailarray_operator.mx import reasons
from mailarray_operator.mx.published import Decision, Member
from mailarray_operator.mx.reports import State
from mailarray_operator.mx.seats import Table


def come_and_go(table: Table, first: bool) -> None:
    """Seat who is new, unseat who leaves, lift a band when the best one is empty."""
    _remove(table)
    _externals(table)
    left_out = {external.hostname for external in table.policy.external} - table.members.keys()
    for name, report in table.reports.items():
        if name in left_out:
            continue
        if report.leaves:
            if name not in table.members:
                table.members[name] = Member(server=name, band=None)
        elif name not in table.members or table.members[name].band is None:
            _enter(table, name, first)
    _leave(table)
    _lift(table)


def _remove(table: Table) -> None:
    externals = {external.hostname for external in table.policy.external} - table.reports.keys()
    for name in sorted(table.members.keys() - table.reports.keys() - externals):
        old = table.members.pop(name)
        if old.band is not None:
            message = f"{name} is no longer a server of the array"
            table.decisions.append(Decision(name, old.band, None, reasons.REMOVED, message))


def _externals(table: Table) -> None:
    """An external server that nobody reports of is always there; one that is reported of is planned like the others."""
    kept = _kept_externals(table)
    for name in kept:
        old = table.members.get(name)
        if name in table.reports and (old is None or not old.external):
            table.members[name] = replace(old or Member(server=name, band=None), external=True)
        elif name not in table.reports and (old is None or old.band != 0 or not old.external):
            table.members[name] = Member(server=name, band=None, external=True)
            table.move(name, 0, reasons.EXTERNAL, f"{name} is an external server of the policy")
    for name, member in list(table.members.items()):
        if member.external and name not in kept:
            del table.members[name]


def _kept_externals(table: Table) -> tuple[str, ...]:
    """All that fit, best first; at most half of the names when servers must share names for it."""
    policy = table.policy
    externals = sorted(policy.external, key=lambda e: (e.preference, e.hostname))
    names = {external.hostname for external in externals}
    own = [report for name, report in table.reports.items() if name not in names]
    staying = max(sum(not report.leaves for report in own), min(len(own), policy.min_targets))
    room = max(policy.max_targets // 2, policy.max_targets - staying) if staying else policy.max_targets
    for external in externals[room:]:
        message = f"{external.hostname} is left out: maxTargets leaves {room} names for external servers"
        table.decisions.append(Decision(external.hostname, None, None, reasons.OVER_MAX_TARGETS, message))
    return tuple(external.hostname for external in externals[:room])


def _enter(table: Table, name: str, first: bool) -> None:
    member = table.members.get(name)
    if member is None:
        table.members[name] = Member(server=name, band=None, since=table.now)
    elif member.external and not member.reason:
        table.move(name, 0, reasons.EXTERNAL, f"{name} is an external server of the policy")
        return
    if first and table.serves(name):
        table.move(name, 0, reasons.FIRST_PLAN, f"{name} serves, and nothing was published before")
    else:
        message = f"{name} is new or was away; it starts in the worst band and rises after a while"
        table.move(name, table.policy.last, reasons.JOINING, message)


def _leave(table: Table) -> None:
    leaving = [name for name, report in table.reports.items() if report.leaves and name in table.members]
    if not leaving:
        return
    staying = sum(m.band is not None for m in table.members.values()) - sum(
        table.members[name].band is not None for name in leaving
    )
    short = max(table.policy.min_targets - staying, 0)
    # Who is published already stays rather than who left before, so that nothing flaps.
    leaving.sort(key=lambda name: (table.reports[name].state is State.LOST, table.members[name].band is None, name))
    for place, name in enumerate(leaving):
        band = table.members[name].band
        state = table.reports[name].state
        word = "is lost" if state is State.LOST else "drains"
        if place < short:
            if band != table.policy.last or table.members[name].reason != reasons.KEPT_FOR_MINIMUM:
                message = f"{name} {word}, and stays in the worst band: {staying} others are fewer than minTargets"
                table.move(name, table.policy.last, reasons.KEPT_FOR_MINIMUM, message)
        elif band is not None:
            reason = reasons.LOST if state is State.LOST else reasons.DRAINING
            table.move(name, None, reason, f"{name} {word}, and leaves at once")


def _lift(table: Table) -> None:
    own = list(table.own())
    if not own or any(member.band == 0 for member in own):
        return
    able = [m for m in own if m.server in table.reports and not table.reports[m.server].leaves]
    able = [m for m in able if table.serves(m.server)] or able
    if not able:
        return
    best = min(member.band for member in able if member.band is not None)
    for member in able:
        if member.band == best:
            message = f"{member.server} stands in the best band there is, which becomes the first"
            table.move(member.server, 0, reasons.LIFTED, message)
