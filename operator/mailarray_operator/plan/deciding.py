"""One decision: everything that was observed of a MailCluster, and the time, in; what shall be, out.

Invariants
- Pure and level-triggered: the same observation gives the same decisions, whatever happened before; decisions that
  were carried out, and statuses that were written, give the same decisions again.
- While the MailCluster is paused, unreadable or not there, nothing is changed but the status that says so.

Called by the loop of each MailCluster after every change of anything that is observed, so 1,500 servers take well under
a tenth of a second. Refuses nothing: what cannot be done stands in a condition.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from mailarray.contract.mirroring_ring import Rows, spread_that_holds
from mailarray.contract.resources.mailcluster import MailClusterSpec
from mailarray.contract.server_names import group_of
from mailarray_operator.api.configuration import Configuration
from mailarray_operator.plan import (
    beginning,
    broken,
    cluster_status,
    conditions,
    group_status,
    growth,
    own_secrets,
    pairs,
    reasons,
    rolling,
    scaling,
    servers,
    table,
    volumes,
)
from mailarray_operator.plan.broken import Losses
from mailarray_operator.plan.conditions import Condition
from mailarray_operator.plan.decisions import Decisions, Event, GroupDecision, Growth
from mailarray_operator.plan.drain import State
from mailarray_operator.plan.drain import dump as dump_drains
from mailarray_operator.plan.observation import ClusterResource, Group, Observation
from mailarray_operator.plan.scaling import Fleet, Senders

REPORT_WAIT = 2.0  # seconds; a server's own word is awaited, which no watch tells
MIN_WAIT = 0.1  # seconds, so that nothing spins


@dataclass(frozen=True, slots=True)
class _Known:
    """What was decided of a group; valid as long as all that it was made of is the same."""

    group: Group
    made_of: object  # None: never valid again
    decision: GroupDecision
    events: list[Event]
    growths: list[Growth]


_known: dict[tuple[str, str], dict[str, _Known]] = {}  # by MailCluster and group; spares work, decides nothing


def decide(observation: Observation, configuration: Configuration, now: datetime) -> Decisions:
    """Decide everything of one MailCluster. Never raises for what a person wrote."""
    cluster = observation.cluster
    if cluster is None:
        _known.pop((observation.namespace, observation.name), None)
        return _without_cluster(observation, now)
    if cluster.spec is None or cluster.spec.paused:
        make = cluster_status.unreadable_status if cluster.spec is None else cluster_status.paused_status
        status, events = make(cluster, now)
        return Decisions(observation.table, _as_they_are(observation), status, events=tuple(events), render=False)
    return _at_work(observation, cluster, cluster.spec, configuration, now)


def _at_work(
    observation: Observation,
    cluster: ClusterResource,
    spec: MailClusterSpec,
    configuration: Configuration,
    now: datetime,
) -> Decisions:
    copies = spec.storage.copies
    old = observation.table
    known = {server.name: server for server in old.servers} if old is not None else {}
    highest = table.by_group(old)
    groups = sorted(observation.groups.items())
    fleets: list[Fleet] = []
    losses = _losses(observation)
    held = beginning.held_back(observation, highest)
    for name, group in groups:
        scale = scaling.scale_of(group, highest.get(name, 0), held.get(name))
        before = servers.before_by_name(group.resource.status)
        views = [
            servers.look_at(
                observation, group, server, ordinal, before.get(server, {}), volumes.count(group, old), losses
            )
            for ordinal in range(scale.standing)
            for server in (f"{name}-{ordinal}",)
        ]
        fleets.append(scaling.fleet_of(group, scale, views, known if old is not None else None))
    senders = Senders(observation.mx, planned="mxPlan" in cluster.resource.status)
    scaling.decide_drains(observation.name, fleets, copies, old, now, senders)

    members = table.servers_of(observation, fleets, known, configuration.cluster_domain)
    chosen = pairs.choose(observation)
    rows = table.rows_of(members, spec.storage.spread, chosen.rows, table.full_servers(observation), copies)
    mirroring = table.next_table(observation, members, rows, _highest_generation(observation, cluster))
    roll = rolling.next_restart(((group, fleet) for (_, group), fleet in zip(groups, fleets, strict=True)), copies)
    roll = rolling.unless_refused(roll, observation.not_evictable)

    events: list[Event] = []
    growths: list[Growth] = []
    decided: dict[str, GroupDecision] = {}
    shown: list[group_status.Shown] = []
    before_this, made = _known.get((observation.namespace, observation.name), {}), {}
    for (name, group), fleet in zip(groups, fleets, strict=True):
        one, mine = _decide_group(group, fleet, mirroring.rows, roll, now, before_this.get(name))
        decided[name], made[name] = one.decision, one
        events += one.events
        growths += one.growths
        shown += mine
    _known[observation.namespace, observation.name] = made
    whole = cluster_status.Whole(fleets, shown, mirroring, spread_that_holds(members, mirroring.rows), roll)
    status, due = cluster_status.cluster_status(observation, cluster, spec, whole, now)
    events = due + events
    pair_statuses = {}
    staying = {f.name: [v for v in f.servers[: f.replicas] if v.ordinal not in f.drains] for f in fleets}
    for name, pair in sorted(observation.pairs.items()):
        pair_statuses[name], due = pairs.pair_status(observation, pair, chosen, mirroring, staying, copies, now)
        events += due
    events += _deleted_events(observation)
    if roll.restart is not None:
        events += _restart_event(roll.restart, whole)
    return Decisions(
        mirroring,
        decided,
        status,
        pair_statuses,
        own_secrets.to_be_made(observation, spec),
        roll.restart,
        roll.restart is not None and roll.past_budget,
        tuple(growths),
        tuple(events),
        look_again=_look_again(whole, now),
    )


def _decide_group(
    group: Group, fleet: Fleet, rows: Rows, roll: rolling.Rolling, now: datetime, known: _Known | None
) -> tuple[_Known, list[group_status.Shown]]:
    """The decision of a group, the one before when all that it is made of is the same."""
    shown = group_status.show(fleet, rows, roll)
    rollout = roll.groups.get(fleet.name)
    calm = not fleet.drains and not fleet.refused and not fleet.waiting and fleet.replicas == len(fleet.servers)
    made_of = (
        fleet.scale,
        rollout,
        [(s.phase, s.message, s.progress, s.time_left, s.view.volume, s.mirrors, s.view.broken) for s in shown],
    )
    if calm and known is not None and known.group is group and known.made_of == made_of:
        return known, shown
    growths: list[Growth] = []
    as_asked = Condition(growth.VOLUMES_AS_ASKED, True, reasons.VOLUMES_AS_ASKED, "")
    if group.spec is not None:
        claims = [claim for view in fleet.servers[: fleet.replicas] for claim in view.claims]
        growths, as_asked = growth.grow(claims, group.spec.storage.size)
    status, events = group_status.group_status(group, fleet, shown, rollout, as_asked, now)
    replicas = fleet.replicas
    decision = GroupDecision(replicas, dump_drains(fleet.drains), status, fleet.scale.wish)
    return _Known(group, made_of if calm else None, decision, events, growths), shown


def _losses(observation: Observation) -> Losses:
    """Where no server has several volumes nobody asks for these."""
    if not any(volumes.count(group, observation.table) > 1 for group in observation.groups.values()):
        return broken.NO_LOSSES
    said = []
    for group in observation.groups.values():
        before = servers.before_by_name(group.resource.status)
        count = volumes.count(group, observation.table)
        for name, pod in group.pods.items():
            _, heard = servers.said_by(observation, pod, name, count)
            ids = servers.ids_of(heard, before.get(name, {}))
            said += list(zip(ids, (one.sidecar for one in heard), strict=True))
    there = {name for group in observation.groups.values() for name in group.pods}
    named = observation.table.servers if observation.table is not None else ()
    said += [("", None) for server in named if server.host not in there]  # who has no pod says nothing
    return broken.losses(said)


def _restart_event(restart: str, whole: cluster_status.Whole) -> list[Event]:
    """Told once: the status of a pod that is restarted says so from the same decision on."""
    shown = next(s for s in whole.shown if s.view.name == restart)
    if shown.view.before.get("phase") == shown.phase and shown.view.before.get("message") == shown.message:
        return []
    group = restart.rpartition("-")[0]
    message = f"{restart} restarts, to run with the newest template"
    return [Event("MailServer", group, "Normal", reasons.SERVER_RESTARTED, message)]


def _deleted_events(observation: Observation) -> list[Event]:
    """MailServers that were deleted without a drain; told while the table, that is made anew now, still names them."""
    old = observation.table
    lost = Counter(map(group_of, {server.host for server in (old.servers if old is not None else ())}))
    return [
        Event(
            "MailCluster",
            observation.name,
            "Warning",
            reasons.MAIL_SERVER_DELETED,
            f"the MailServer {name} was deleted while its volumes held mail ({conditions.servers(count)}); what is on "
            f"no other server cannot be read now: apply {name} again, and it is all there, since its volumes are kept",
        )
        for name, count in sorted(lost.items())
        if name not in observation.groups
    ]


def _without_cluster(observation: Observation, now: datetime) -> Decisions:
    events: list[Event] = []
    decided: dict[str, GroupDecision] = {}
    for name, kept in _as_they_are(observation).items():
        status, due = group_status.missing_status(observation.groups[name], observation.name, now)
        decided[name] = GroupDecision(kept.replicas, kept.drain, status)
        events += due
    pair_statuses = {}
    for name, pair in sorted(observation.pairs.items()):
        pair_statuses[name], due = pairs.missing_status(pair, observation.name, now)
        events += due
    return Decisions(observation.table, decided, None, pair_statuses, events=tuple(events), render=False)


def _as_they_are(observation: Observation) -> dict[str, GroupDecision]:
    decided = {}
    for name, group in sorted(observation.groups.items()):
        found = group.stateful_set
        replicas = 0 if found is None else found.replicas
        decided[name] = GroupDecision(replicas, "" if found is None else found.drain, group.resource.status)
    return decided


def _highest_generation(observation: Observation, cluster: ClusterResource) -> int:
    """Servers ignore a table that is older than theirs, so a lost or restored ConfigMap must not begin anew."""
    mirroring = cluster.resource.status.get("mirroring")
    seen = [mirroring.get("generation") if isinstance(mirroring, dict) else 0]
    for report in observation.reports.values():
        for process in (process for one in report.volumes for process in (one.sidecar, one.writer)):
            if process is not None:
                seen.append(process.get("table_generation"))
    return max((generation for generation in seen if isinstance(generation, int)), default=0)


def _look_again(whole: cluster_status.Whole, now: datetime) -> float | None:
    waits = [s.view.lost_in for s in whole.shown if s.view.lost_in is not None]
    for fleet in whole.fleets:
        for drain in fleet.drains.values():
            if drain.state is State.LEAVING and drain.not_before is not None:
                waits.append((drain.not_before - now).total_seconds())
    held = any(fleet.scale.held_back for fleet in whole.fleets)
    if held or whole.rolling.whole.outdated or any(s.phase not in ("Serving", "Lost") for s in whole.shown):
        waits.append(REPORT_WAIT)
    return max(min(waits), MIN_WAIT) if waits else None
