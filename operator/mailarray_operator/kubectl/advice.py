"""What is wrong and what to do first: a pure function of what was observed, most urgent first.

The operator's conditions carry sentences that say what to do; this puts them in order, and adds what only shows from
outside: an operator that does not act, pods that Kubernetes cannot run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mailarray_operator.kubectl.array import Cluster, Condition, Group, Pod, Resource
from mailarray_operator.kubectl.asking import Answer

# Types and reasons of conditions are words that programs match on, so the operator never changes them.
GOOD_WHEN_TRUE = frozenset(
    {"Ready", "SpreadAsAsked", "PlacementAsAsked", "VolumesAsAsked", "DNSPublished", "MXPlanned"}
)
NEITHER = frozenset({"Progressing", "Draining", "Paused"})  # say what goes on, not that something is wrong
REFUSED = "WouldLoseCopies"  # reason of the condition Draining when the operator refuses to drain
WAITING = "WaitingForServers"  # reason of the same condition when a drain has to wait
GOES_ON = frozenset(
    {"VolumesGrowing", "Publishing", "NoTargets"}
)  # reasons that need nobody, although a good condition is not true


def advice(cluster: Cluster, pods: Mapping[str, Pod], answer: Answer | None) -> list[str]:
    """Sentences, most urgent first; none when all is well. `answer`: of one server, None when none was asked."""
    said = [*_operator(cluster), *_refusals(answer), *_conditions(cluster)]
    said += _servers(cluster, pods, " ".join(said))
    said += _catalog(answer, " ".join(said))
    for group in cluster.groups:
        said += [f"{group.name}: {sentence}" for sentence in _conditions(group) if sentence not in said]
    said += _copies(cluster)
    if cluster.spec.get("paused"):
        said.append(
            "the operator changes nothing while spec.paused is true; mail goes on; set it to false when you are done"
        )
    return list(dict.fromkeys(said))


def bad(condition: Condition) -> bool:
    """Whether somebody should look."""
    if condition.type in GOOD_WHEN_TRUE:
        return condition.status != "True" and condition.reason not in GOES_ON
    if condition.type == "Draining":
        return condition.reason == REFUSED
    return condition.type not in NEITHER and condition.status == "True"


def refusal(group: Group) -> str | None:
    """Why the operator refuses to drain a server of this group, or None."""
    condition = group.condition("Draining")
    return condition.message if condition is not None and condition.reason == REFUSED else None


def waiting(group: Group) -> str:
    """What the operator says of the drains of this group; "" when it says nothing."""
    condition = group.condition("Draining")
    if condition is None or (condition.status != "True" and condition.reason != WAITING):
        return ""
    return condition.message


def _operator(cluster: Cluster) -> Iterable[str]:
    if not cluster.groups:
        yield f"no MailServer refers to {cluster.name}; make one with spec.clusterRef.name: {cluster.name}"
    waiting = [r.name for r in (cluster, *cluster.groups) if r.behind]
    if waiting:
        yield (
            f"the operator has not acted on the newest spec of {', '.join(waiting)} yet; when that lasts longer than "
            "a minute, look whether it runs, and at its log; mail goes on without it"
        )


def _refusals(answer: Answer | None) -> Iterable[str]:
    if answer is not None and answer.writer is not None and answer.writer.get("refusing"):
        server = answer.writer.get("server", "a server")
        yield f"{server} refuses mail now: {answer.writer['refusing']}; senders try again later"
    if answer is not None and answer.sidecar is not None and answer.sidecar.get("accounts_held"):
        yield f"servers go on with the accounts that they know: {answer.sidecar['accounts_held']}"


def _servers(cluster: Cluster, pods: Mapping[str, Pod], said: str) -> Iterable[str]:
    """Those that no condition has named already."""
    named = frozenset(said.replace(",", " ").replace(";", " ").split())
    for row in cluster.servers:
        if row.phase == "Lost" and row.name not in named:
            yield f"{row.name} is lost: {row.message or 'its mail is read from its mirrors; see to its pod and node'}"
    for pod in pods.values():
        if not pod.ready and pod.problem:
            yield f"pod {pod.name}: {pod.problem}; look with `kubectl describe pod {pod.name}`"


def _catalog(answer: Answer | None, said: str) -> Iterable[str]:
    if answer is None or answer.sidecar is None:
        return
    catalog = answer.sidecar.get("catalog") or {}
    if catalog.get("state") == "away":
        if "catalog" not in said:
            yield (
                "the catalog's database does not answer; mail is accepted and read without it, and caught up when it "
                "is back; look at its pod, or at whoever runs it"
            )
    elif catalog.get("open") is False:
        yield (
            "the catalog is closed until it has heard from all servers; readers ask the servers meanwhile; "
            "see to missing servers"
        )


def _conditions(resource: Resource) -> Iterable[str]:
    for condition in resource.conditions:
        if bad(condition):
            yield condition.message or f"{condition.type}: {condition.reason}"


def _copies(cluster: Cluster) -> Iterable[str]:
    under = (cluster.status.get("mirroring") or {}).get("underReplicatedSegments") or 0
    if under:
        yield (
            f"{under} segments are on fewer servers than asked for; take no server away before it is 0; it falls by "
            "itself while enough servers are there"
        )
