"""Whether servers with several volumes may be made yet: processes of older versions do not know names like `mail-0.1`.

Such a process takes two volumes of one server for two servers, and would count copies on them as two.

Invariant: while a pod of any server of the MailCluster runs, and its processes have not said that they are of a version
that knows, no MailServer with several volumes gets its first server. Silence is not knowledge. What runs is never
stopped for it.

Called by `deciding`. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mailarray_operator.plan import conditions, servers, volumes
from mailarray_operator.plan.observation import Group, Observation

KNOWS_SEVERAL_VOLUMES: Final = (0, 1, 0)  # the first version that says in its status which one it is
_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def held_back(observation: Observation, highest: Mapping[str, int]) -> dict[str, str]:
    """MailServers that get no server yet, and why: a sentence. `highest`: as in `table.by_group`."""
    waiting = [
        name
        for name, group in observation.groups.items()
        if volumes.count(group, None) > 1 and not highest.get(name) and not _there(group)
    ]
    if not waiting:
        return {}
    older = _older(observation)
    if not older:
        return {}
    verb = "has" if len(older) == 1 else "have"
    text = (
        f"its servers have several volumes, and are made when all servers of {observation.name} run a version that "
        f"knows them; {conditions.names(older)} {verb} not said so yet; each does after its restart with the newest "
        "image: see that it runs, and which image the operator gives"
    )
    return dict.fromkeys(waiting, text)


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
