"""Whether a MailServer may get its first server yet, where the number of volumes of a server could do harm.

Invariants
- Processes of older versions do not know names like `mail-0.1`: such a one takes two volumes of one server for two
  servers, and would count copies on them as two. So while a pod of any server of the MailCluster runs, and its
  processes have not said that they are of a version that knows, no MailServer with several volumes begins. Silence is
  not knowledge.
- A MailServer that was deleted and made again with fewer volumes does not begin beside the claims of the others: there
  may be mail on them, whose copies are on claims that are left out, too.
- What runs is never stopped for it.

The CRD refuses another number of volumes while a MailServer is there. Called by `deciding`. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mailarray.contract.server_names import number_of
from mailarray_operator.plan import conditions, reasons, servers, volumes
from mailarray_operator.plan.conditions import Condition
from mailarray_operator.plan.observation import Group, Observation

KNOWS_SEVERAL_VOLUMES: Final = (0, 1, 0)  # the first version that says in its status which one it is
_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def held_back(observation: Observation, highest: Mapping[str, int]) -> dict[str, Condition]:
    """MailServers that get no server yet, and why. `highest`: as in `table.by_group`."""
    new = {name: group for name, group in observation.groups.items() if group.spec is not None and not _there(group)}
    found = {name: _no(reasons.VOLUMES_LEFT_OUT, text) for name, group in new.items() if (text := _left_out(group))}
    several = [name for name, group in new.items() if volumes.count(group, None) > 1 and not highest.get(name)]
    waiting = [name for name in several if name not in found]
    older = _older(observation) if waiting else []
    if not older:
        return found
    verb = "has" if len(older) == 1 else "have"
    text = (
        f"its servers have several volumes, and are made when all servers of {observation.name} run a version that "
        f"knows them; {conditions.names(older)} {verb} not said so yet; each does after its restart with the newest "
        "image: see that it runs, and which image the operator gives"
    )
    return found | dict.fromkeys(waiting, _no(reasons.OLDER_SERVERS, text))


def _no(reason: str, message: str) -> Condition:
    return Condition("Ready", False, reason, message)


def _left_out(group: Group) -> str:
    count = volumes.count(group, None)
    left = [
        claim.name for volume, claim in sorted(group.claims.items()) if number_of(volume) >= count and claim.capacity
    ]
    if not left:
        return ""
    there = 1 + max(map(number_of, group.claims))
    which = "claim" if len(left) == 1 else "claims"
    return (
        f"the {which} {conditions.names(left)} of an earlier MailServer {group.resource.name} may hold mail, and "
        f"spec.storage.volumes is {count} now; make it again with volumes: {there}, or, if its servers were "
        f"drained, delete the {which}"
    )


def _there(group: Group) -> bool:
    return bool(group.pods) or (group.stateful_set is not None and group.stateful_set.replicas > 0)


def _older(observation: Observation) -> list[str]:
    """Servers with a pod of which some process has not said that it knows."""
    found = []
    for group in observation.groups.values():
        count = volumes.count(group, observation.table)
        for name, pod in sorted(group.pods.items()):
            _, said = servers.said_by(observation, pod, name, count)
            if not all(_knows(process) for one in said for process in (one.sidecar, one.writer)):
                found.append(name)
    return found


def _knows(status: Mapping[str, Any] | None) -> bool:
    match = _NUMBERS.match(str((status or {}).get("version") or ""))
    return match is not None and tuple(map(int, match.groups())) >= KNOWS_SEVERAL_VOLUMES
