"""What planning the MX records of one MailCluster takes from a look at it: who there is, in what state, and where.

Invariant: a server is Lost here earlier than in its status, since senders wait while a name does not answer: its pod is
not ready, and it has said nothing for `SILENT_SECONDS`. Silence alone, of a pod that is ready, is no reason: the
operator may be the one who is cut off.
Made by the reconciler at each look; turned into reports by the steering at each plan. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mailarray.contract import paths
from mailarray.contract.resources.mailcluster import MailClusterSpec
from mailarray_operator.api import names
from mailarray_operator.cluster.held import Held
from mailarray_operator.cluster.loads import Asked, Heard
from mailarray_operator.mx import LoadReport, State
from mailarray_operator.plan.decisions import Decisions
from mailarray_operator.plan.observation import Observation, Pod

SILENT_SECONDS = 8.0  # one question that is not answered, and a bit; the pod is not ready besides
STATES: Final[Mapping[str, State]] = {
    "Serving": State.SERVING,
    "Joining": State.JOINING,
    "Rebuilding": State.JOINING,
    "Draining": State.DRAINING,
    "Drained": State.DRAINING,
    "Lost": State.LOST,
}  # phases of a server's status


@dataclass(frozen=True, slots=True)
class Candidate:
    """One server, or access server."""

    state: State
    up: bool  # its pod is ready and stays
    group: str
    asked: Asked | None  # None: it has no address
    hostname: str
    preference: int
    addresses: tuple[str, ...]  # in the outside world, as far as they are known


@dataclass(frozen=True, slots=True)
class Inputs:
    """One MailCluster."""

    uid: str
    spec: MailClusterSpec
    servers: Mapping[str, Candidate]
    access: Mapping[str, Candidate]
    group_uids: Mapping[str, str]
    status: Mapping[str, Any] = field(compare=False)  # of the MailCluster, as it was last written

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(domain.name for domain in self.spec.domains)

    def states(self) -> dict[str, tuple[State, bool]]:
        """What a plan must not wait for when it changes."""
        return {name: (c.state, c.up) for name, c in (*self.servers.items(), *self.access.items())}


def inputs_of(observation: Observation, decisions: Decisions, held: Held) -> Inputs | None:
    """None: nothing is planned, since the MailCluster is paused, not there, or cannot be read.

    The same while one of its MailServers cannot be read: its servers run on, and must not lose their records.
    """
    cluster = observation.cluster
    if cluster is None or cluster.spec is None or not decisions.render:
        return None
    if any(group.spec is None for group in observation.groups.values()):
        return None
    spec, namespace = cluster.spec, observation.namespace
    servers: dict[str, Candidate] = {}
    for name, group in observation.groups.items():
        decision = decisions.groups.get(name)
        if decision is None or group.spec is None:
            continue
        further = tuple(map(names.writer_port, range(1, group.spec.storage.volumes)))
        for entry in decision.status.get("servers") or ():
            server = entry["name"]
            pod = group.pods.get(server)
            servers[server] = Candidate(
                state=STATES.get(entry.get("phase"), State.JOINING),
                up=_up(pod),
                group=name,
                asked=_asked(pod, names.PORT_WRITER, paths.LOAD, further=further),
                hostname=group.spec.hostname(name, server.rpartition("-")[2], spec.domains[0].name),
                preference=group.spec.preference,
                addresses=held.outside(group.spec.expose.type, namespace, server, pod),
            )
    access: dict[str, Candidate] = {}
    if spec.access.hostname:
        service, limit = names.access(observation.name), spec.access.pop3.max_connections
        for pod in held.access_pods((namespace, observation.name)):
            state = State.DRAINING if pod.terminating else State.SERVING if pod.ready else State.JOINING
            outside = held.outside(spec.access.expose.type, namespace, service, pod)
            asked = _asked(pod, names.PORT_ACCESS, paths.STATUS, max(1, limit))
            access[pod.name] = Candidate(state, _up(pod), "", asked, spec.access.hostname, 0, outside)
    return Inputs(
        uid=cluster.resource.uid,
        spec=spec,
        servers=servers,
        access=access,
        group_uids={name: group.resource.uid for name, group in observation.groups.items()},
        status=cluster.resource.status,
    )


def _up(pod: Pod | None) -> bool:
    return pod is not None and pod.ready and not pod.terminating


def _asked(pod: Pod | None, port: int, path: str, sessions: int = 0, further: tuple[int, ...] = ()) -> Asked | None:
    return Asked(pod.uid, pod.ip, port, path, sessions, further) if pod is not None and pod.ip else None


def reports_of(
    candidates: Mapping[str, Candidate],
    heard: Mapping[str, Heard],
    known: frozenset[str],
    since: float,
    clock: float,
    now: float,
) -> list[LoadReport]:
    """`heard`, `since` (asked since then) and `clock` are of the monotonic clock, `now` is the planner's.

    A server that never answered, and is not in the plan yet (`known`), is left out: nobody shall be sent to it.
    """
    found = []
    for name, candidate in candidates.items():
        word = heard.get(name, Heard())
        age = clock - word.at
        state = candidate.state
        if not candidate.up and state is not State.DRAINING and clock - max(word.at, since) >= SILENT_SECONDS:
            state = State.LOST
        if name not in known and word == Heard() and state is not State.SERVING:
            continue
        found.append(LoadReport(name, word.load, now - age, state, word.accepts))
    return found
