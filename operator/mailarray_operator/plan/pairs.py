"""MirrorPairs: which of them count, and what their statuses say.

Invariants
- A MailServer is the source of one MirrorPair at most: the oldest, by name when made in the same second. Later ones are
  Overlapping and change nothing.
- A MirrorPair that names no MailServer that is there is not used at all: the ring stays, and mail goes on.

Called by `deciding`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mailarray.contract.mirroring_ring import Rows
from mailarray.contract.mirroring_table import MirroringTable
from mailarray.contract.resources.mirrorpair import MirrorPairSpec
from mailarray_operator.plan import conditions, reasons
from mailarray_operator.plan.conditions import Condition
from mailarray_operator.plan.decisions import Event
from mailarray_operator.plan.observation import Observation, PairResource
from mailarray_operator.plan.servers import ServerView
from mailarray_operator.plan.volumes import names_of as volumes_of

MAX_PAIRS: Final = 1000  # in one status, so that it stays far below the 1.5 MiB that the API server stores
_STATES: Final[Mapping[str, str]] = {
    "InSync": "InSync",
    "Failed": "Away",
    "Stopping": "Away",
    "Full": "Away",
}  # a writer's word -> ours


@dataclass(frozen=True, slots=True)
class Chosen:
    """The MirrorPairs of a cluster, judged without looking at servers."""

    rows: Mapping[str, tuple[str, ...]]  # source group -> mirror groups, best first
    winners: Mapping[str, str]  # source group -> name of the MirrorPair that counts


def choose(observation: Observation) -> Chosen:
    """Which MirrorPairs count."""
    rows: dict[str, tuple[str, ...]] = {}
    winners: dict[str, str] = {}
    for name, pair in sorted(observation.pairs.items(), key=lambda item: (item[1].resource.created, item[0])):
        if pair.spec is None:
            continue
        source = pair.spec.source.mail_server_ref.name
        if source in winners:
            continue
        winners[source] = name
        mirrors = tuple(
            m.mail_server_ref.name for m in pair.spec.mirrors if m.mail_server_ref.name in observation.groups
        )
        if source in observation.groups and mirrors:
            rows[source] = mirrors
    return Chosen(rows, winners)


def pair_status(
    observation: Observation,
    pair: PairResource,
    chosen: Chosen,
    table: MirroringTable,
    staying: Mapping[str, Sequence[ServerView]],
    copies: int,
    now: datetime,
) -> tuple[dict[str, Any], list[Event]]:
    """Status and events of one MirrorPair; `staying` are the servers of each group that do not drain."""
    resource, spec = pair.resource, pair.spec
    listed: list[dict[str, str]] = []
    overlapping = Condition("Overlapping", False, reasons.NOT_OVERLAPPING, "no other MirrorPair has the same source")
    if spec is None:
        ready = Condition("Ready", False, reasons.INVALID_SPEC, resource.error or "spec cannot be read; correct it")
    else:
        source = spec.source.mail_server_ref.name
        winner = chosen.winners[source]
        if winner != resource.name:
            message = (
                f"MirrorPair {winner} has the source {source} already and is the one in use; delete one of the two"
            )
            overlapping = Condition("Overlapping", True, reasons.SAME_SOURCE, message)
            ready = Condition("Ready", False, reasons.SAME_SOURCE, message)
        else:
            ready = _ready(observation, spec, source in chosen.rows, staying, copies)
            if source in chosen.rows:
                listed = _pairs(table.rows, staying.get(source, ()))
    said = [ready, overlapping]
    status = {
        "observedGeneration": resource.generation,
        "conditions": conditions.merge(resource.status, said, resource.generation, now),
        "pairs": listed,
    }
    return status, conditions.events("MirrorPair", resource.name, resource.status, said[:1])


def missing_status(pair: PairResource, cluster: str, now: datetime) -> tuple[dict[str, Any], list[Event]]:
    """Status and events of a MirrorPair whose MailCluster is not there."""
    resource = pair.resource
    said = [
        Condition(
            "Ready", False, reasons.CLUSTER_MISSING, f"there is no MailCluster {cluster} in this namespace; create it"
        )
    ]
    merged = conditions.merge(resource.status, said, resource.generation, now)
    kept = [dict(c) for type_, c in conditions.conditions_of(resource.status).items() if type_ != "Ready"]
    status = {**resource.status, "observedGeneration": resource.generation, "conditions": [*merged, *kept]}
    return status, conditions.events("MirrorPair", resource.name, resource.status, said)


def _ready(
    observation: Observation,
    spec: MirrorPairSpec,
    used: bool,
    staying: Mapping[str, Sequence[ServerView]],
    copies: int,
) -> Condition:
    source = spec.source.mail_server_ref.name
    mirrors = [mirror.mail_server_ref.name for mirror in spec.mirrors]
    for field, named in (("spec.source", [source]), ("spec.mirrors", mirrors)):
        unknown = [name for name in named if name not in observation.groups]
        if unknown:
            rest = "the other mirrors are used" if used else "the default ring is used meanwhile"
            text = f"there is no MailServer {conditions.names(unknown)} of the MailCluster {observation.name}; "
            text += f"make it, or correct {field}; {rest}"
            return Condition("Ready", False, reasons.MAIL_SERVER_MISSING, text)
    candidates = sum(len(staying.get(name, ())) for name in mirrors) - (source in mirrors)
    servers = staying.get(source, ())
    if not servers or candidates >= copies - 1:
        return Condition("Ready", True, reasons.READY, f"mail of {source} is copied to the servers named here")
    if candidates < 1:
        return Condition(
            "Ready",
            False,
            reasons.NO_MIRROR,
            f"{servers[0].name} has no mirror by this MirrorPair; add another MailServer to spec.mirrors, or "
            "raise replicas",
        )
    return Condition(
        "Ready",
        False,
        reasons.TOO_FEW_CANDIDATES,
        f"servers of {source} have {candidates} of the {copies - 1} mirrors that spec.storage.copies asks for; add "
        "another MailServer to spec.mirrors, or raise replicas",
    )


def _pairs(rows: Rows, views: Sequence[ServerView]) -> list[dict[str, str]]:
    listed: list[dict[str, str]] = []
    for view in views:
        links = (view.writer or {}).get("mirrors") or ()
        states = {link.get("server"): _STATES.get(str(link.get("state"))) for link in links}
        for volume in volumes_of(view.name, len(view.writers)):
            for mirror in (name for group in rows.get(volume, ()) for name in group):
                entry = {"server": volume, "mirror": mirror}
                state = states.get(mirror)
                if state is not None:
                    entry["state"] = state
                listed.append(entry)
    return listed[:MAX_PAIRS]
