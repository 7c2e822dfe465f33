"""Rolling restarts: which one pod is deleted next, so that it starts from the new template (updateStrategy OnDelete).

Invariants
- While a pod of the MailCluster is stopping or missing, none is deleted.
- A pod that is ready is deleted only when every server of the cluster is in sync, and enough others serve.
- A pod that is not ready is replaced first: a broken template must not be in the way of its own repair. One whose
  server still answers is not deleted while another one is away.
- A server that drains is not restarted, since it stops soon anyway; unless it is dead, and could not end its drain.
- A server with a broken volume counts as away, and is waited for, until that volume works, or is declared lost and has
  all of its copies elsewhere. Its own restart comes first: the old template may be what breaks it.

Called by `deciding`. `kubectl rollout restart statefulset` changes the template, so it comes this way too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mailarray.contract.server_names import host_of
from mailarray_operator.plan.observation import Group
from mailarray_operator.plan.scaling import Fleet
from mailarray_operator.plan.servers import ServerView
from mailarray_operator.plan.volumes import names_of


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a cluster or a group is."""

    total: int = 0  # pods that have, or shall have, the newest template
    outdated: int = 0


@dataclass(frozen=True, slots=True)
class Rolling:
    """The next restart, and why there is none."""

    restart: str | None
    whole: Rollout
    groups: dict[str, Rollout]
    waits_for: str = ""  # a sentence, while something is outdated and nothing is restarted
    refused: str = ""  # server whose turn it is, and whose pod may not be evicted now
    # The disruption budget is used up by pods that are not ready for the sake of a lost volume that nobody waits for.
    # It keeps everybody else from disrupting, so the restart needs no eviction; and would never be granted one.
    past_budget: bool = False


def in_sync(view: ServerView, enough_servers: bool) -> bool:
    """A server takes mail and has all the copies it wants; where there are too few servers, no more is asked of it."""
    if not view.up or view.phase != "Serving" or view.sidecar is None:
        return False
    if not enough_servers:
        return True
    lost = {volume.name for volume in view.broken}
    named = zip(names_of(view.name, len(view.writers)), view.writers, strict=True)
    return all(_has_copies(writer) for name, writer in named if name not in lost)


def _has_copies(writer: Mapping[str, Any] | None) -> bool:
    """The writer of one volume."""
    if writer is None or writer.get("refusing"):
        return False
    copies = writer.get("copies") or {}
    wanted, now = int(copies.get("wanted") or 1), copies.get("now")
    if now is not None:
        return int(now) >= wanted
    mirrors = [mirror for mirror in writer.get("mirrors") or () if mirror.get("state") == "InSync"]
    return len({host_of(str(mirror.get("server"))) for mirror in mirrors}) >= wanted - 1


def unless_refused(rolling: Rolling, server: str) -> Rolling:
    """The same without a restart, when it is of that server, whose pod may not be evicted now."""
    if not server or rolling.restart != server:
        return rolling
    waits = f"the turn of {server} waits for the disruption budget, which allows no eviction now"
    return dataclasses.replace(rolling, restart=None, waits_for=waits, refused=server)


def next_restart(fleets: Iterable[tuple[Group, Fleet]], copies: int) -> Rolling:
    """Decide over all groups; `copies` as the MailCluster wants it."""
    outdated: list[ServerView] = []
    staying: list[ServerView] = []
    away: list[ServerView] = []
    gone = ""
    groups: dict[str, Rollout] = {}
    total = 0
    drains = False
    for group, fleet in fleets:
        drains = drains or bool(fleet.drains)
        revision = group.stateful_set.update_revision if group.stateful_set is not None else ""
        mine = fleet.servers[: fleet.replicas]
        if fleet.replicas < fleet.scale.standing:
            gone = gone or fleet.servers[-1].name  # it stops by this very decision
        old = 0
        for view in reversed(mine):
            pod, drains_itself = view.pod, view.ordinal in fleet.drains
            if pod is None or pod.terminating:
                gone = gone or view.name
            elif not view.up and (_dead(view) or not drains_itself):  # one that drains is not ready on purpose
                away.append(view)
            if revision and pod is not None and pod.revision != revision and (_dead(view) or not drains_itself):
                old += 1
                if not pod.terminating:
                    outdated.append(view)
        staying += [view for view in mine if view.ordinal not in fleet.drains]
        if revision:
            total += len(mine)
            groups[fleet.name] = Rollout(len(mine), old)
    whole = Rollout(total, sum(rollout.outdated for rollout in groups.values()))
    if not outdated:
        return Rolling(None, whole, groups)
    if gone:
        return Rolling(None, whole, groups, f"waits for {gone}")
    dead = next((view for view in outdated if _dead(view)), None)
    if dead is not None:
        return Rolling(dead.name, whole, groups)
    if away:
        half = next((view for view in outdated if view is away[0] and len(away) == 1), None)
        if half is not None:
            return Rolling(half.name, whole, groups)
        return Rolling(None, whole, groups, _waits_for(away[0]))
    if drains:  # the disruption budget counts a server that drains, and would refuse another one anyway
        return Rolling(None, whole, groups, "waits for the end of a drain")
    enough = len(staying) >= copies
    late = next((view for view in staying if not in_sync(view, enough)), None)
    if late is not None:
        return Rolling(None, whole, groups, f"waits until {late.name} is in sync")
    spent = any(view.holds_budget for view in staying)
    return Rolling(outdated[0].name, whole, groups, past_budget=spent)


def _waits_for(view: ServerView) -> str:
    return f"waits for {view.name}" if view.awaited is None else view.awaited.awaited()


def _dead(view: ServerView) -> bool:
    """Nobody answers there: for long enough that an operator which has just started does not take itself for deaf."""
    return not view.up and view.sidecar is None and (view.phase == "Lost" or not view.volume)
