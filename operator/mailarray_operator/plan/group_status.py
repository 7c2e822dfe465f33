"""The status of a MailServer, whole, and the events that its changes deserve. Called by `deciding`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mailarray.contract.time_left import told
from mailarray_operator.api import names
from mailarray_operator.plan import conditions, reasons
from mailarray_operator.plan.conditions import Condition
from mailarray_operator.plan.decisions import Event
from mailarray_operator.plan.drain import State
from mailarray_operator.plan.observation import Group
from mailarray_operator.plan.rolling import Rolling, Rollout
from mailarray_operator.plan.scaling import Fleet
from mailarray_operator.plan.servers import Phase, ServerView, before_by_name, percent
from mailarray_operator.plan.volumes import names_of as volumes_of

VOLUMES_BROKEN: Final = "VolumesBroken"  # a condition's type


@dataclass(frozen=True, slots=True)
class Shown:
    """A server as its status shows it, its drain laid over."""

    view: ServerView
    phase: Phase
    message: str
    progress: int | None
    time_left: str
    mirrors: Sequence[str]

    def entry(self) -> dict[str, Any]:
        """One of status.servers."""
        view = self.view
        entry: dict[str, Any] = {"name": view.name, "phase": self.phase}
        for key, value in (
            ("volume", view.volume),
            ("zone", view.zone),
            ("node", view.node),
            ("message", self.message),
        ):
            if value:
                entry[key] = value
        if self.progress is not None:
            entry["progress"] = self.progress
        if self.time_left:
            entry["timeLeft"] = self.time_left
        if self.mirrors:
            entry["mirrors"] = list(self.mirrors)
        if view.broken and self.phase != "Joining":
            entry["brokenVolumes"] = [{"name": one.name, "reason": one.why} for one in view.broken]
        return entry


def show(fleet: Fleet, rows: Mapping[str, Sequence[Sequence[str]]], rolling: Rolling) -> list[Shown]:
    """All servers that stay in the StatefulSet."""
    shown: list[Shown] = []
    for view in fleet.servers[: fleet.replicas]:
        drain = fleet.drains.get(view.ordinal)
        best = [row[0] for name in volumes_of(view.name, len(view.writers)) if (row := rows.get(name))]
        mirrors = tuple(dict.fromkeys(name for row in best for name in row))
        if drain is None:
            phase, message, progress = view.phase, view.message, view.progress
            if view.name == rolling.refused and phase == "Serving":
                message = "serves; its turn to restart waits for the disruption budget, which allows no eviction now"
            if view.name == rolling.restart and phase == "Serving":
                # Written before the pod is deleted: when it is back, it counts as away until it has settled.
                phase, message = "Joining", "restarts with the newest template"
            shown.append(Shown(view, phase, message, progress, view.time_left, mirrors))
        elif drain.state is State.DRAINED:
            message = "others hold all of its mail; it stops after those above it"
            shown.append(Shown(view, "Drained", message, 100, "", ()))
        else:
            shown.append(Shown(view, "Draining", *_drains(view, drain.state), ()))
    return shown


def _drains(view: ServerView, state: State) -> tuple[str, int, str]:
    """Message, progress and time left."""
    if view.phase == "Lost":
        return "does not answer; its drain ends when it is back, and nothing is assumed until then", _kept(view), ""
    if view.sidecar is None and not view.up:  # one that drains is never ready, since it takes no mail
        return f"{view.message}; its drain goes on when it is back", _kept(view), ""
    if state is State.LEAVING:
        return "takes mail until its MX record is forgotten", 0, ""
    report = (view.sidecar or {}).get("drain")
    if view.awaited is not None:
        done = percent(report) if isinstance(report, Mapping) else _kept(view)
        return f"its other volumes are emptied; it {view.awaited.awaited()}", done, ""
    if isinstance(report, Mapping):
        return "its mail is being copied to others", percent(report), told(report.get("seconds_left"))
    return "is told to drain", _kept(view), ""


def _kept(view: ServerView) -> int:
    kept = view.before.get("progress")
    return kept if view.before.get("phase") == "Draining" and isinstance(kept, int) else 0


def group_status(
    group: Group, fleet: Fleet, shown: Sequence[Shown], rollout: Rollout | None, volumes: Condition, now: datetime
) -> tuple[dict[str, Any], list[Event]]:
    """Status and events of a MailServer whose MailCluster is there."""
    resource = group.resource
    said = [
        _ready(group, fleet, shown),
        _progressing(fleet, shown, rollout, volumes),
        _draining(fleet),
        Condition("ClusterMissing", False, reasons.CLUSTER_FOUND, _found(group)),
        volumes,
        *_broken(shown),
    ]
    status = {
        "observedGeneration": resource.generation,
        "replicas": fleet.replicas,
        "readyReplicas": sum(s.phase == "Serving" for s in shown),
        "selector": f"{names.LABEL_GROUP}={resource.name}",
        "conditions": conditions.merge(resource.status, said, resource.generation, now),
        "servers": [s.entry() for s in shown],
    }
    told = said[1:] if rollout is not None and rollout.outdated else said  # not ready, ready, for each restart
    told = [condition for condition in told if condition.type != VOLUMES_BROKEN]  # `_events` tells of each volume
    return status, conditions.events("MailServer", resource.name, resource.status, told) + _events(group, fleet, shown)


def missing_status(group: Group, cluster: str, now: datetime) -> tuple[dict[str, Any], list[Event]]:
    """Status and events of a MailServer whose MailCluster is not there: all else stays as it was."""
    resource = group.resource
    said = [
        Condition(
            "ClusterMissing",
            True,
            reasons.NOT_FOUND,
            f"there is no MailCluster {cluster} in this namespace; make it, or delete this MailServer; servers "
            "that run go on meanwhile",
        )
    ]
    before = conditions.conditions_of(resource.status)
    if "Ready" not in before or before["Ready"].get("reason") == reasons.CLUSTER_MISSING:
        said.insert(0, Condition("Ready", False, reasons.CLUSTER_MISSING, f"waits for the MailCluster {cluster}"))
    merged = {c["type"]: c for c in conditions.merge(resource.status, said, resource.generation, now)}
    kept = [merged.pop(type_, dict(old)) for type_, old in before.items()]
    status = {**resource.status, "observedGeneration": resource.generation, "conditions": [*kept, *merged.values()]}
    events = conditions.events("MailServer", resource.name, resource.status, said[-1:])
    return status, events


def _found(group: Group) -> str:
    return (
        f"belongs to the MailCluster {group.spec.cluster_ref.name}"
        if group.spec is not None
        else "belongs to a MailCluster"
    )


def _ready(group: Group, fleet: Fleet, shown: Sequence[Shown]) -> Condition:
    if group.spec is None:
        return Condition(
            "Ready", False, reasons.INVALID_SPEC, group.resource.error or "spec cannot be read; correct it"
        )
    if fleet.scale.held_back is not None:
        return fleet.scale.held_back
    away = [s for s in shown if s.phase in ("Joining", "Lost", "Rebuilding") and s.message != _RESTARTS]
    if away:
        first = away[0]
        serving = sum(s.phase == "Serving" for s in shown)
        staying = sum(s.phase not in ("Draining", "Drained") for s in shown)
        return Condition(
            "Ready",
            False,
            reasons.SERVERS_NOT_READY,
            f"{serving} of {staying} servers serve; {first.view.name} is {first.phase}: {first.message}",
        )
    if not shown:
        return Condition("Ready", True, reasons.NO_SERVERS, "no servers are wanted: spec.replicas is 0")
    count = sum(s.phase == "Serving" or s.message == _RESTARTS for s in shown)
    lacking = [one.name for s in shown for one in s.view.broken]
    without = f", without the broken {_volumes(lacking)}" if lacking else ""
    verb = "serves" if count == 1 else "serve"
    return Condition("Ready", True, reasons.READY, f"{conditions.servers(count)} {verb}{without}")


def _volumes(some: Sequence[str]) -> str:
    return f"{'volume' if len(some) == 1 else 'volumes'} {conditions.names(some)}"


def _broken(shown: Sequence[Shown]) -> list[Condition]:
    """Nothing is said where no server has several volumes."""
    if not any(len(s.view.writers) > 1 for s in shown):
        return []
    told = [f"{s.view.name}: {one.sentence()}" for s in shown for one in s.view.broken]
    if not told:
        return [Condition(VOLUMES_BROKEN, False, reasons.VOLUMES_WORK, "no volume is known to be broken")]
    more = f"; and {len(told) - conditions.MAX_NAMED} more" if len(told) > conditions.MAX_NAMED else ""
    return [Condition(VOLUMES_BROKEN, True, reasons.VOLUME_BROKEN, "; ".join(told[: conditions.MAX_NAMED]) + more)]


# What is told of a server that joins or serves, by the phase that it had.
_RETURNS = {
    "Lost": "is back",
    "Rebuilding": "has back what its volume held",
    "Draining": "stays, and takes mail again",
    "Drained": "stays, and takes mail again",
}
_RESTARTS = "restarts with the newest template"


def _progressing(fleet: Fleet, shown: Sequence[Shown], rollout: Rollout | None, volumes: Condition) -> Condition:
    if rollout is not None and rollout.outdated:
        done = rollout.total - rollout.outdated
        return Condition("Progressing", True, reasons.RESTARTING, f"{done} of {rollout.total} servers restarted")
    if fleet.drains or fleet.waiting:
        return Condition(
            "Progressing", True, reasons.SCALING, f"scales down to {conditions.servers(fleet.scale.wanted)}"
        )
    for phase, reason in (("Joining", reasons.JOINING), ("Rebuilding", reasons.REBUILDING)):
        some = [s.view.name for s in shown if s.phase == phase]
        if some:
            verb = "joins" if phase == "Joining" else "is rebuilt from its mirrors"
            verb = verb if len(some) == 1 else {"joins": "join"}.get(verb, "are rebuilt from their mirrors")
            return Condition("Progressing", True, reason, f"{conditions.names(some)} {verb}")
    if volumes.reason == reasons.VOLUMES_GROWING:
        return Condition("Progressing", True, reasons.VOLUMES_GROWING, volumes.message)
    return Condition("Progressing", False, reasons.STABLE, "nothing is under way")


def _draining(fleet: Fleet) -> Condition:
    if fleet.refused:
        return Condition("Draining", False, reasons.WOULD_LOSE_COPIES, fleet.refused)
    if fleet.drains:
        some = [fleet.servers[ordinal].name for ordinal in sorted(fleet.drains)]
        verb = "drains, then stops" if len(some) == 1 else "drain, then stop"
        message = f"{conditions.names(some)} {verb}"
        silent = [fleet.servers[o].name for o in sorted(fleet.drains) if fleet.servers[o].phase == "Lost"]
        if silent:
            word = "does not answer, and its drain ends" if len(silent) == 1 else "do not answer, and their drains end"
            message += f"; {conditions.names(silent)} {word} when {'it is' if len(silent) == 1 else 'they are'} back"
        awaited = (fleet.servers[o].awaited for o in sorted(fleet.drains) if fleet.drains[o].state is not State.DRAINED)
        if (volume := next(filter(None, awaited), None)) is not None:
            message += f"; {volume.awaited()}"
        return Condition(
            "Draining", True, reasons.DRAINING, f"{message}; {fleet.waiting}" if fleet.waiting else message
        )
    if fleet.waiting:
        return Condition("Draining", False, reasons.WAITING_FOR_SERVERS, fleet.waiting)
    return Condition("Draining", False, reasons.NOT_DRAINING, "no server is asked to go")


def _events(group: Group, fleet: Fleet, shown: Sequence[Shown]) -> list[Event]:
    name = group.resource.name
    events: list[Event] = []
    if fleet.scale.wish is not None:
        events.append(
            Event(
                "MailServer",
                name,
                "Normal",
                reasons.SCALE_TAKEN,
                f"the StatefulSet {name} was scaled to {fleet.scale.wish}; taken as spec.replicas of the MailServer",
            )
        )
    before = before_by_name(group.resource.status)
    for s in shown:
        events += _volume_events(name, s)
    for s in shown:
        was, server = s.view.before.get("phase"), s.view.name
        if s.phase == was:
            continue
        if s.phase == "Lost":
            events.append(Event("MailServer", name, "Warning", reasons.SERVER_LOST, f"{server} {s.message}"))
        elif s.phase == "Rebuilding":
            events.append(Event("MailServer", name, "Normal", reasons.REBUILDING, f"{server} {s.message}"))
        elif s.phase == "Draining":
            events.append(Event("MailServer", name, "Normal", reasons.SERVER_DRAINING, f"{server} drains"))
        elif was in _RETURNS and (was != "Rebuilding" or s.phase == "Serving"):
            events.append(Event("MailServer", name, "Normal", reasons.SERVER_RETURNED, f"{server} {_RETURNS[was]}"))
    for view in fleet.servers[fleet.replicas :]:
        if view.name in before and view.ordinal not in fleet.empty:
            text = f"{view.name} is drained and stops; its volume is kept"
            events.append(Event("MailServer", name, "Normal", reasons.SERVER_STOPPED, text))
    return events


def _volume_events(group: str, shown: Shown) -> list[Event]:
    """Of volumes that broke, and that work again, against the status before."""
    view = shown.view
    kept = view.before.get("brokenVolumes")
    was = {str(one.get("name")) for one in kept if isinstance(one, Mapping)} if isinstance(kept, list) else set()
    now = {one.name: one for one in view.broken} if shown.phase != "Joining" else {}
    events = [
        Event("MailServer", group, "Warning", reasons.VOLUME_BROKEN, f"{view.name}: {one.sentence()}")
        for one in now.values()
        if one.name not in was
    ]
    if shown.phase not in ("Joining", "Lost"):
        events += [
            Event("MailServer", group, "Normal", reasons.VOLUME_RETURNED, f"{view.name}: its volume {name} works again")
            for name in sorted(was - now.keys())
        ]
    return events
