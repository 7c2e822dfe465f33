"""Deletes what the operator once applied and renders no more: old settings, Services of servers that are gone.

Invariant: never a StatefulSet, a volume claim, a Secret, nor anything that this operator has not applied itself; never
what belongs to a MailServer that was not rendered this time; and never a settings file that a pod or StatefulSet still
refers to, or that is so young that a pod about to start may. Called by the reconciler after everything was applied.
"""

from __future__ import annotations

from datetime import datetime

from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.held import Key, Thing
from mailarray_operator.cluster.kinds import Kind
from mailarray_operator.cluster.store import Store
from mailarray_operator.cluster.trim import Managed
from mailarray_operator.cluster.writer import Writer

PRUNED: dict[str, Kind] = {
    kind.name: kind for kind in (kinds.CONFIG_MAP, kinds.SERVICE, kinds.DISRUPTION_BUDGET, kinds.NETWORK_POLICY)
}
SETTINGS_AGE = 600.0  # seconds; a StatefulSet may still start a pod of the revision before


async def prune(store: Store, writer: Writer, key: Key, wanted: dict[str, set[Thing]], now: float) -> None:
    """`wanted` is what was rendered, by MailServer, "" for the cluster; `now`: seconds since 1970. Raises ApiError."""
    for thing, managed in superfluous(store, key, wanted, now):
        await writer.delete(PRUNED[thing[0]], thing[1], thing[2], managed.uid)


def superfluous(store: Store, key: Key, wanted: dict[str, set[Thing]], now: float) -> list[tuple[Thing, Managed]]:
    """What `prune` deletes."""
    candidates = [
        (thing, managed)
        for thing, managed in store.managed_of(key)
        if thing[0] in PRUNED
        and managed.applied
        and managed.owned
        and managed.group in wanted
        and thing not in wanted[managed.group]
    ]
    if not candidates:
        return []
    mounted = store.mounted(key[0])
    return [
        (thing, managed)
        for thing, managed in candidates
        if thing[0] != kinds.CONFIG_MAP.name or (thing[2] not in mounted and _age(managed, now) > SETTINGS_AGE)
    ]


def _age(managed: Managed, now: float) -> float:
    try:
        return now - datetime.fromisoformat(managed.created).timestamp()
    except ValueError:
        return 0.0
