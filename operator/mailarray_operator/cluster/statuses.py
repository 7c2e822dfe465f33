"""Writes the status of the user's resources, and what could not be applied into it.

Invariant: a status never says of what was decided that it is done before it has been applied. What the next look is
to apply (a quiet failure) holds back the status of its MailServer, and of the MailCluster, until then.

A status is written only when it differs from what stands there; so a run that changes nothing writes nothing. What the
API server makes of a status (a default, a field it drops) is remembered, so that it is not written for ever.
Called by the reconciler, after everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.applier import Failure, turn
from mailarray_operator.cluster.client import ApiError
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.kinds import Kind
from mailarray_operator.cluster.store import Store
from mailarray_operator.cluster.trim import digest
from mailarray_operator.cluster.writer import Writer
from mailarray_operator.plan.decisions import Decisions
from mailarray_operator.plan.observation import Observation, Resource

APPLIED = "Applied"  # condition; there only while something cannot be applied
STATUSES_A_RUN = 64  # more wait for the next run, which begins at once
MAX_MESSAGE = 1000  # characters

Status = Mapping[str, Any]


class Statuses:
    """See the module."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store = store
        self._writer = writer
        self._turn = 0
        self._written: dict[tuple[Kind, Key], tuple[str, str]] = {}  # digest of what was wanted, of what stood then

    def due(
        self, observation: Observation, decisions: Decisions, failures: Sequence[Failure], now: float
    ) -> tuple[list[tuple[Kind, Resource, Status]], bool]:
        """Those that differ, as many as one run writes; and whether others wait for the next."""
        wanted: list[tuple[Kind, Resource, Status]] = []
        undone = {failure.group for failure in failures if failure.quiet}
        if observation.cluster is not None and decisions.cluster_status is not None and not undone:
            resource = observation.cluster.resource
            status = with_failures(decisions.cluster_status, resource, [f for f in failures if not f.group], now)
            wanted.append((kinds.MAIL_CLUSTER, resource, status))
        for name, decision in decisions.groups.items():
            group = observation.groups.get(name)
            if group is not None and name not in undone:
                found = [f for f in failures if f.group == name]
                wanted.append(
                    (kinds.MAIL_SERVER, group.resource, with_failures(decision.status, group.resource, found, now))
                )
        for name, status in decisions.pair_statuses.items():
            pair = observation.pairs.get(name)
            if pair is not None:
                wanted.append((kinds.MIRROR_PAIR, pair.resource, status))
        due = [w for w in wanted if self._differs(observation.namespace, *w)]
        written_now = turn(due, self._turn, STATUSES_A_RUN)
        self._turn += STATUSES_A_RUN
        return written_now, len(written_now) < len(due)

    def _differs(self, namespace: str, kind: Kind, resource: Resource, status: Status) -> bool:
        if status == resource.status:
            return False
        written = self._written.get((kind, (namespace, resource.name)))
        return written is None or written != (digest(status), digest(resource.status))

    async def write(self, namespace: str, kind: Kind, resource: Resource, status: Status) -> ApiError | None:
        """Write one; answers what went wrong. Raises NotLeader."""
        manifest = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "metadata": {"name": resource.name, "namespace": namespace, "uid": resource.uid},
            "status": status,
        }
        try:
            answer = await self._writer.apply_status(manifest)
        except ApiError as error:
            # Gone, or made anew under the same name: the watch tells, and nothing is to be written.
            return None if error.not_found or error.conflict else error
        self._written[kind, (namespace, resource.name)] = (digest(status), digest(answer.get("status") or {}))
        self._store.take(kind, answer, True)
        return None

    def forget(self, namespace: str, present: Iterable[tuple[Kind, str]]) -> None:
        """Drop what is remembered of a namespace's resources but these."""
        kept = {(kind, (namespace, name)) for kind, name in present}
        for where in [w for w in self._written if w[1][0] == namespace and w not in kept]:
            del self._written[where]


def with_failures(status: Status, resource: Resource, failures: Sequence[Failure], now: float) -> Status:
    """The status with a condition that says what cannot be applied; as it is when all could be."""
    loud = [failure for failure in failures if not failure.quiet]
    if not loud:
        return status
    message = "; ".join(str(failure) for failure in loud)[:MAX_MESSAGE]
    before = next((c for c in resource.status.get("conditions") or () if c.get("type") == APPLIED), None)
    since = before.get("lastTransitionTime") if before else None
    condition = {
        "type": APPLIED,
        "status": "False",
        "reason": "ApplyFailed",
        "message": message,
        "observedGeneration": resource.generation,
        "lastTransitionTime": since or datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    others = [c for c in status.get("conditions") or () if c.get("type") != APPLIED]
    return {**status, "conditions": [*others, condition]}
