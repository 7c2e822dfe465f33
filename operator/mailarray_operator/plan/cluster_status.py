"""The status of a MailCluster, whole, and its events: is it ready, is it degraded, and what is to be done.

Ready means: every server that is wanted serves, mail can be read, and the catalog's database answers. Called by
`deciding`. What is said of DNS was made by `mx_status`; until it is known again, what stands there stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mailarray.contract.mirroring_ring import Spread
from mailarray.contract.mirroring_table import MirroringTable
from mailarray.contract.resources.mailcluster import MailClusterSpec
from mailarray.contract.time_left import told
from mailarray_operator.api import names
from mailarray_operator.plan import conditions, own_secrets, reasons
from mailarray_operator.plan.conditions import Condition
from mailarray_operator.plan.decisions import Event
from mailarray_operator.plan.group_status import Shown
from mailarray_operator.plan.mx_status import KEPT_TYPES
from mailarray_operator.plan.observation import ClusterResource, Observation, Resource
from mailarray_operator.plan.rolling import Rolling
from mailarray_operator.plan.scaling import Fleet

ACCOUNTS_SECRET_LARGE: Final = (
    768 << 10
)  # bytes; a Secret holds 1 MiB at most, and a full one cannot be changed any more


@dataclass(frozen=True, slots=True)
class Whole:
    """What a MailCluster's status is made of."""

    fleets: Sequence[Fleet]
    shown: Sequence[Shown]
    table: MirroringTable
    spread: Spread | None
    rolling: Rolling

    @property
    def desired(self) -> int:
        """Servers that are asked for."""
        return sum(fleet.scale.wanted for fleet in self.fleets)

    def names_in(self, *phases: str) -> list[str]:
        """Servers in these phases."""
        return [s.view.name for s in self.shown if s.phase in phases]


def cluster_status(
    observation: Observation, cluster: ClusterResource, spec: MailClusterSpec, whole: Whole, now: datetime
) -> tuple[dict[str, Any], list[Event]]:
    """Status and events of a MailCluster that is at work."""
    resource = cluster.resource
    under_replicated = sum(
        int(s.view.sidecar.get("under_replicated") or 0) for s in whole.shown if s.view.sidecar is not None
    )
    said = [
        _ready(observation, spec, whole),
        _progressing(whole),
        _degraded(observation, spec, whole, under_replicated),
        Condition("Paused", False, reasons.NOT_PAUSED, "the operator is at work"),
        _spread(spec, whole),
        *_placement(observation, spec),
        *(observation.mx.conditions if observation.mx is not None else ()),
    ]
    mirroring: dict[str, Any] = {
        "generation": whole.table.generation,
        "servers": len({server.host for server in whole.table.servers}),
        "underReplicatedSegments": under_replicated,
    }
    if together := _in_one_zone(whole):
        mirroring["segmentsInOneZone"] = together
    time_left = _copying_takes(whole)
    if time_left:
        mirroring["timeLeft"] = time_left
    if whole.spread is not None:
        mirroring["spread"] = whole.spread
    reference = spec.catalog.database_secret_ref
    database = f"Secret {reference.name}, key {reference.key}" if reference else names.database(observation.name)
    status = {
        "observedGeneration": resource.generation,
        "conditions": [*conditions.merge(resource.status, said, resource.generation, now), *_kept(resource, said)],
        "servers": {"desired": whole.desired, "ready": len(whole.names_in("Serving"))},
        "mirroring": mirroring,
        "catalog": {"database": database},
        **_mx(observation, resource),
    }
    wanting = missing_secrets(observation, spec) is not None or own_secrets.missed(observation, spec) is not None
    told = said[1:] if whole.rolling.whole.outdated and not wanting else said
    return status, conditions.events("MailCluster", resource.name, resource.status, told)


def _copying_takes(whole: Whole) -> str:
    """Until the last server has fetched what it has to; "" when nobody fetches, or one of them cannot say."""
    said = [(s.view.sidecar or {}).get("copying") for s in whole.shown]
    times = [c.get("seconds_left") for c in said if isinstance(c, Mapping) and c.get("segments_left")]
    known = [t for t in times if isinstance(t, (int, float))]
    return told(max(known)) if known and len(known) == len(times) else ""


def _kept(resource: Resource, said: Sequence[Condition]) -> list[dict[str, Any]]:
    """What was said of DNS, while an operator that has just begun knows nothing of it."""
    before = conditions.conditions_of(resource.status)
    now_said = {condition.type for condition in said}
    return [dict(before[type_]) for type_ in KEPT_TYPES if type_ in before and type_ not in now_said]


def _mx(observation: Observation, resource: Resource) -> Mapping[str, Any]:
    if observation.mx is not None:
        return observation.mx.status
    return {field: resource.status[field] for field in ("mx", "mxPlan") if field in resource.status}


def paused_status(cluster: ClusterResource, now: datetime) -> tuple[dict[str, Any], list[Event]]:
    """Only Paused is said; the rest stays as it was."""
    message = "spec.paused is true: the operator changes nothing, mail goes on; set it to false to let it work"
    return _only(cluster, [Condition("Paused", True, reasons.PAUSED, message)], now)


def unreadable_status(cluster: ClusterResource, now: datetime) -> tuple[dict[str, Any], list[Event]]:
    """A spec that cannot be read: nothing changes until it is corrected."""
    error = cluster.resource.error or "spec cannot be read; correct it"
    return _only(cluster, [Condition("Ready", False, reasons.INVALID_SPEC, error)], now)


def _only(cluster: ClusterResource, said: Sequence[Condition], now: datetime) -> tuple[dict[str, Any], list[Event]]:
    resource = cluster.resource
    merged = {c["type"]: c for c in conditions.merge(resource.status, said, resource.generation, now)}
    before = conditions.conditions_of(resource.status)
    kept = [merged.pop(type_, dict(old)) for type_, old in before.items()]
    status = {**resource.status, "observedGeneration": resource.generation, "conditions": [*kept, *merged.values()]}
    return status, conditions.events("MailCluster", resource.name, resource.status, said)


def missing_secrets(observation: Observation, spec: MailClusterSpec) -> tuple[str, str] | None:
    """Reason and sentence for the first Secret, or key of one, that is not there."""
    wanted: list[tuple[str, str, dict[str, str]]] = []  # field, Secret, keys and what belongs under them
    if spec.accounts.secret_ref is not None:
        wanted.append(("spec.accounts.secretRef", spec.accounts.secret_ref.name, {names.KEY_ACCOUNTS: "the accounts"}))
    if spec.tls is not None:
        keys = {"tls.crt": "the certificate", "tls.key": "its private key"}
        wanted.append(("spec.tls.secretRef", spec.tls.secret_ref.name, keys))
    if spec.catalog.database_secret_ref is not None:
        reference = spec.catalog.database_secret_ref
        wanted.append(("spec.catalog.databaseSecretRef", reference.name, {reference.key: "the database's address"}))
    for field, name, keys in wanted:
        if name not in observation.secrets:
            continue  # not looked at yet
        found = observation.secrets[name]
        if found is None:
            return (
                reasons.SECRET_MISSING,
                f"{field} names the Secret {name}, which is not there; make it, or name another",
            )
        for key, what in keys.items():
            if key not in found:
                text = f"{field} names the Secret {name}, which has no key {key}; put {what} under it"
                return reasons.SECRET_KEY_MISSING, text
    return None


def _ready(observation: Observation, spec: MailClusterSpec, whole: Whole) -> Condition:
    def no(reason: str, message: str) -> Condition:
        return Condition("Ready", False, reason, message)

    missing = missing_secrets(observation, spec)
    if missing is not None:
        return no(*missing)
    missed = own_secrets.missed(observation, spec)
    if missed is not None:
        return no(reasons.OWN_SECRET_MISSING, missed)
    if not whole.fleets:
        text = f"no MailServer refers to this MailCluster; make one with spec.clusterRef.name: {observation.name}"
        return no(reasons.NO_SERVERS, text)
    if not whole.shown and not whole.desired:
        return no(reasons.NO_SERVERS, "every MailServer has spec.replicas: 0; raise one")
    few = _too_few(spec, whole)
    if few is not None:
        return no(reasons.TOO_FEW_SERVERS, few)
    unreadable = [
        f.name for f in whole.fleets if f.name in observation.groups and observation.groups[f.name].spec is None
    ]
    if unreadable:
        return no(reasons.SERVERS_NOT_READY, f"the spec of MailServer {conditions.names(unreadable)} cannot be read")
    away = [s for s in whole.shown if s.phase in ("Joining", "Lost", "Rebuilding")]
    restarted = whole.rolling.restart
    away = [s for s in away if s.view.name != restarted or s.view.phase != "Serving"]
    if away:
        first = away[0]
        serving = len(whole.names_in("Serving"))
        staying = len(whole.shown) - len(whole.names_in("Draining", "Drained"))
        return no(
            reasons.SERVERS_NOT_READY,
            f"{serving} of {staying} servers serve; {first.view.name} is {first.phase}: {first.message}",
        )
    for fleet in whole.fleets:
        if (held := fleet.scale.held_back) is not None:
            return no(held.reason, f"{fleet.name}: {held.message}")
    database = _database(observation, spec, whole)
    if database is not None:
        return no(reasons.DATABASE_NOT_READY, database)
    wanted = spec.access.replicas
    if observation.access_ready < wanted:
        return no(
            reasons.ACCESS_NOT_READY,
            f"{observation.access_ready} of {wanted} access servers are ready; mail is accepted meanwhile",
        )
    count = len(whole.shown)
    return Condition("Ready", True, reasons.READY, f"{conditions.servers(count)} and {wanted} access servers are ready")


def _too_few(spec: MailClusterSpec, whole: Whole) -> str | None:
    copies = spec.storage.copies
    there = sum(fleet.replicas for fleet in whole.fleets)
    if there >= copies:
        return None
    return (
        f"spec.storage.copies is {copies}, but there {'is' if there == 1 else 'are'} only {conditions.servers(there)}; "
        "lower it, or raise spec.replicas of a MailServer"
    )


def _database(observation: Observation, spec: MailClusterSpec, whole: Whole) -> str | None:
    """What is to be said when the catalog's database does not answer."""
    after = "mail is still accepted, and is listed as soon as it answers"
    if observation.database_ready is False:
        return f"the catalog's database {names.database(observation.name)} is not ready; {after}"
    words = [s.view.sidecar.get("catalog") for s in whole.shown if s.view.sidecar is not None]
    if not words or any(not isinstance(word, dict) or word.get("state") != "away" for word in words):
        return None
    reference = spec.catalog.database_secret_ref
    where = f"Secret {reference.name}, key {reference.key}" if reference else names.database(observation.name)
    return f"no server reaches the catalog's database ({where}); {after}"


def _progressing(whole: Whole) -> Condition:
    rollout = whole.rolling.whole
    if rollout.outdated:
        done = f"{rollout.total - rollout.outdated} of {rollout.total} servers restarted"
        waits = whole.rolling.waits_for
        return Condition("Progressing", True, reasons.RESTARTING, f"{done}; {waits}" if waits else done)
    shrinking = [fleet.name for fleet in whole.fleets if fleet.drains or fleet.waiting]
    if shrinking:
        verb = "scales" if len(shrinking) == 1 else "scale"
        return Condition("Progressing", True, reasons.SCALING, f"{conditions.names(shrinking)} {verb} down")
    joining = whole.names_in("Joining")
    if joining:
        verb = "joins" if len(joining) == 1 else "join"
        return Condition("Progressing", True, reasons.JOINING, f"{conditions.names(joining)} {verb}")
    rebuilding = whole.names_in("Rebuilding")
    if rebuilding:
        return Condition(
            "Progressing", True, reasons.REBUILDING, f"{conditions.names(rebuilding)} fetches what its volume held"
        )
    return Condition("Progressing", False, reasons.STABLE, "nothing is under way")


def _degraded(observation: Observation, spec: MailClusterSpec, whole: Whole, under_replicated: int) -> Condition:
    found: list[tuple[str, str]] = []
    few = _too_few(spec, whole)
    if few is not None and whole.desired:
        found.append((reasons.TOO_FEW_SERVERS, few))
    lost = [s.view.name for s in whole.shown if s.view.phase == "Lost"]
    if lost:
        verb, pod = ("does", "pod and node") if len(lost) == 1 else ("do", "pods and nodes")
        found.append((reasons.SERVER_LOST, f"{conditions.names(lost)} {verb} not answer; look at the {pod}"))
    bad = [f"{s.view.name}: {one.sentence()}" for s in whole.shown for one in s.view.broken]
    if bad:
        more = f"; and {len(bad) - 1} more broken volumes" if len(bad) > 1 else ""
        found.append((reasons.VOLUME_BROKEN, bad[0] + more))
    database = _database(observation, spec, whole)
    if database is not None:
        found.append((reasons.DATABASE_NOT_READY, database))
    rebuilding = whole.names_in("Rebuilding")
    if rebuilding:
        found.append((reasons.REBUILDING, f"{conditions.names(rebuilding)} fetches what its volume held"))
    if under_replicated:
        some = "1 segment is" if under_replicated == 1 else f"{under_replicated} segments are"
        found.append(
            (reasons.UNDER_REPLICATED, f"{some} on fewer servers than spec.storage.copies asks for, and being repaired")
        )
    accounts = spec.accounts.secret_ref
    size = observation.secret_bytes.get(accounts.name, 0) if accounts is not None else 0
    if accounts is not None and size > ACCOUNTS_SECRET_LARGE:
        found.append(
            (
                reasons.ACCOUNTS_SECRET_LARGE,
                f"the Secret {accounts.name} is {size >> 10} KiB large, and a Secret holds 1024 KiB at most; keep "
                "accounts in the database: spec.accounts.database",
            )
        )
    if not found:
        return Condition("Degraded", False, reasons.AS_EXPECTED, "all is as it should be")
    return Condition("Degraded", True, found[0][0], "; ".join(text for _, text in found))


def _spread(spec: MailClusterSpec, whole: Whole) -> Condition:
    wanted, holds = spec.storage.spread, whole.spread
    together = _together(whole) if wanted == holds == "Zone" else ""
    if together:
        return Condition("SpreadAsAsked", False, reasons.COPIES_IN_ONE_ZONE, together)
    if holds == wanted or holds == "Zone":
        where = "in another zone" if holds == "Zone" else "on another node"
        return Condition("SpreadAsAsked", True, reasons.SPREAD, f"copies are kept {where}")
    there = sum(fleet.replicas for fleet in whole.fleets)
    if sum(server.serving for server in whole.table.servers) < 2:
        return Condition(
            "SpreadAsAsked", False, reasons.SPREAD_NOT_KNOWN, "there are no 2 servers to spread copies over"
        )
    if len(whole.table.servers) < there:
        return Condition("SpreadAsAsked", False, reasons.SPREAD_NOT_KNOWN, "some servers have no node yet")
    if holds == "Node":
        message = (
            "copies are kept on another node, since not every server has another one in another zone; add nodes with "
            f"another label {names.LABEL_ZONE}, or set spec.storage.spread to Node"
        )
    else:
        message = "some copies are kept on the same node, since there is no other one; add nodes"
    return Condition("SpreadAsAsked", False, reasons.SPREAD_NOT_POSSIBLE, message)


def _in_one_zone(whole: Whole) -> int:
    """Segments whose copies are all in one zone against the table, as the servers count them."""
    return sum(int((s.view.sidecar or {}).get("in_one_zone") or 0) for s in whole.shown)


def _together(whole: Whole) -> str:
    """What is to be said of copies that are in one zone alone although there are others; "" when there are none."""
    zones = {server.name: server.zone for server in whole.table.servers}
    alone = []
    for s in whole.shown:
        for writer in s.view.writers:  # of each volume
            mirrors = (writer or {}).get("mirrors")
            used = [m.get("server") for m in mirrors or () if isinstance(m, Mapping) and m.get("in_use")]
            if used and all(zones.get(str(mirror)) == s.view.zone for mirror in used):
                alone.append(s.view.name)
                break
    count = _in_one_zone(whole)
    some = "1 segment is" if count == 1 else f"{count} segments are"
    if alone:
        verb, whose = ("keeps", "its") if len(alone) == 1 else ("keep", "their")
        stored = f"; {some} in one zone alone" if count else ""
        return (
            f"{conditions.names(alone)} {verb} new mail and its copies in {whose} own zone, since no server of another "
            "one takes copies; mail flows, but would not outlive the loss of that zone too; bring back the servers of "
            f"the other zones{stored}"
        )
    if count:
        return f"{some} in one zone alone, since others were away; copies are made in another one as soon as it answers"
    return ""


def _placement(observation: Observation, spec: MailClusterSpec) -> list[Condition]:
    """Nothing is said where no rules are written."""
    if not spec.placement.rules:
        return []
    astray = spec.placement.without_group(observation.groups.keys())
    if not astray:
        return [
            Condition("PlacementAsAsked", True, reasons.GROUPS_FOUND, "every rule names a MailServer that is there")
        ]
    rules, groups = [rule.name for rule in astray], list(dict.fromkeys(rule.group for rule in astray))
    which, name = ("rule", "names") if len(rules) == 1 else ("rules", "name")
    message = (
        f"spec.placement: {which} {conditions.names(rules)} {name} the MailServer {conditions.names(groups)}, which "
        f"this MailCluster does not have; make it with spec.clusterRef.name: {observation.name}, or correct the group; "
        "such mail stays where it is received meanwhile"
    )
    return [Condition("PlacementAsAsked", False, reasons.GROUP_MISSING, message)]
