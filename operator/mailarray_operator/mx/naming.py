"""Preferences and names: beyond `maxTargets` names, servers share names, so that every server still receives.

Invariants
- At most `maxTargets` names, at least `minTargets` while there are that many servers, and every server of the array
  stands behind one of them.
- Names of one preference carry nearly equal numbers of servers, since senders choose among names: a server that is
  alone behind one of few names would get twice the mail of one that shares.
- A server keeps its name while it can; a name keeps its preference for ever, as it is made of it (10-3).

Called by `planning`, when all bands are settled. Refuses to know addresses: `rendering` puts them behind the names.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from mailarray_operator.mx.policy import MAX_PREFERENCE, Strategy
from mailarray_operator.mx.published import Member
from mailarray_operator.mx.seats import Table

UNEVEN = 1.05  # a server's share of the mail, in fair shares, that is accepted to have more names


def name_all(table: Table) -> None:
    """Set preference and slot of every member."""
    policy = table.policy
    preferences = _preferences(table)
    for name, member in table.members.items():
        preference = preferences.get(name, 0)
        if member.preference != preference:
            table.members[name] = replace(member, preference=preference)
    own = sorted((m for m in table.own()), key=lambda m: (m.preference, m.server))
    externals = sum(m.external and m.band is not None for m in table.members.values())
    if len(own) + externals <= policy.max_targets:
        slots: dict[str, tuple[int, str]] = {m.server: (m.preference, "") for m in own}
    else:
        slots = _share(own, policy.max_targets - externals, policy.min_targets - externals)
    for name, member in table.members.items():
        preference, slot = slots.get(name, (member.preference, ""))
        if (member.preference, member.slot) != (preference, slot):
            table.members[name] = replace(member, preference=preference, slot=slot)


def _preferences(table: Table) -> dict[str, int]:
    policy = table.policy
    externals = {external.hostname: external.preference for external in policy.external}
    static = policy.strategy is Strategy.STATIC
    base = {
        m.server: policy.preferences.get(m.server, policy.bands[0]) if static else policy.bands[0] for m in table.own()
    }
    base |= {m.server: externals[m.server] for m in table.members.values() if m.external and m.band is not None}
    # The last resort comes after everything that a person wrote, not only after the server's own preference.
    worst = max((base[m.server] for m in table.own()), default=0)
    found = {}
    for name, preference in base.items():
        band = table.members[name].band or 0
        start = worst if band == policy.last and not table.members[name].external else preference
        found[name] = min(start + policy.bands[band] - policy.bands[0], MAX_PREFERENCE)
    return found


def _share(own: list[Member], names: int, at_least: int) -> dict[str, tuple[int, str]]:
    tiers: dict[int, list[Member]] = defaultdict(list)
    for member in own:
        tiers[member.preference].append(member)
    while len(tiers) > names:  # more preferences than names: the worst ones become one
        *_, better, worst = tiers
        tiers[better] += tiers.pop(worst)
    spare = names - len(tiers)
    limits = {p: 1 + spare * len(members) // len(own) for p, members in tiers.items()}
    left = names - sum(limits.values())
    for preference in sorted(tiers):  # the best tier gets what rounding leaves, as far as it has servers for it
        more = min(left, max(len(tiers[preference]) - limits[preference], 0))
        limits[preference] += more
        left -= more
    counts = {p: _even(len(members), limits[p]) for p, members in tiers.items()}
    for preference, members in tiers.items():  # names enough go before even ones
        counts[preference] = max(
            counts[preference],
            min(limits[preference], len(members), counts[preference] + at_least - sum(counts.values())),
        )
    slots: dict[str, tuple[int, str]] = {}
    for preference, members in tiers.items():
        assigned = _assign(members, preference, counts[preference])
        slots |= {server: (preference, slot) for server, slot in assigned.items()}
    return slots


def _even(servers: int, limit: int) -> int:
    """The most names, up to the limit, behind which so many servers stand evenly."""
    if servers <= limit:
        return servers
    share = {names: servers / (names * (servers // names)) for names in range(1, limit + 1)}
    best = min(uneven for names, uneven in share.items() if names >= min(max(limit // 3, 2), limit))
    return max(names for names, uneven in share.items() if uneven <= max(UNEVEN, best))


def _assign(members: list[Member], preference: int, count: int) -> dict[str, str]:
    labels = [f"{preference}-{number}" for number in range(1, count + 1)]
    seated: dict[str, list[str]] = {label: [] for label in labels}
    homeless: list[str] = []
    for member in members:
        seated.get(member.slot, homeless).append(member.server)
    small, large = divmod(len(members), count)
    for label in sorted(labels, key=lambda label: -len(seated[label])):  # the fullest names may keep one more
        size = small + (large > 0)
        if len(seated[label]) >= size:
            large -= size > small
        homeless += seated[label][size:]
        del seated[label][size:]
    for server in sorted(homeless):
        emptiest = min(labels, key=lambda label: len(seated[label]))
        seated[emptiest].append(server)
    return {server: label for label, servers in seated.items() for server in servers}
