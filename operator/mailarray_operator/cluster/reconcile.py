"""One look at one MailCluster: observe, plan, apply, report. A shell around pure parts; run again and again.

The order is that of what depends on what: a wish of `kubectl scale` before the StatefulSet is set back, Secrets and
ConfigMaps before the pods that mount them, the mirroring table in its ConfigMap before it is pushed, then statuses and
events, and last of all a pod is restarted. Its status says Joining by then, so that a server that is back counts as
away until it has settled, also for an operator that knows nothing but the status. A process may die between any two.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mailarray_operator.api import names
from mailarray_operator.api.configuration import Configuration
from mailarray_operator.cluster import kinds, metrics
from mailarray_operator.cluster.applier import Applier, Failure
from mailarray_operator.cluster.client import ApiError
from mailarray_operator.cluster.events import Poster
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.mx_inputs import inputs_of
from mailarray_operator.cluster.pruner import prune
from mailarray_operator.cluster.pusher import Pusher, Target
from mailarray_operator.cluster.reporter import Reporter
from mailarray_operator.cluster.secrets import Secrets
from mailarray_operator.cluster.statuses import Statuses
from mailarray_operator.cluster.steering import Steering
from mailarray_operator.cluster.store import Store
from mailarray_operator.cluster.writer import Writer
from mailarray_operator.plan import volumes
from mailarray_operator.plan.decisions import Decisions, Event
from mailarray_operator.plan.observation import Observation, Pod
from mailarray_operator.render.context import Context

log = logging.getLogger(__name__)

Decide = Callable[[Observation, Configuration, datetime], Decisions]

SECRETS_SECONDS = 1.0  # a Secret's watch begins within it; its answer looks again by itself
BLOCKED_SECONDS = 5.0  # between two tries of a restart that the disruption budget does not allow now
RETRY_SECONDS = 1.0  # for what changed while it was looked at
PRUNE_SECONDS = 60.0  # old settings are found by time, not by a change
CALM = "Serving"  # a server in this phase is asked at leisure


class Incomplete(Exception):
    """Something could not be applied; the status says what, and the loop tries again."""


@dataclass(slots=True)
class Reconciler:
    """See the module."""

    configuration: Configuration
    decide: Decide
    store: Store
    writer: Writer
    applier: Applier
    statuses: Statuses
    secrets: Secrets
    pusher: Pusher
    reporter: Reporter
    steering: Steering
    poster: Poster
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def run(self, key: Key) -> float | None:
        """Answers after how many seconds to look again. Raises Incomplete, ApiError, NotLeader."""
        self.secrets.follow(key)
        if not self.store.secrets_known(key):
            return SECRETS_SECONDS
        at = self.clock()
        now = at.timestamp()
        observation = self.store.observation(key)
        if observation.cluster is None and not observation.groups and not observation.pairs:
            self._forget(key)
            return None
        observation, restored = await self.secrets.restore(observation, self.writer)
        decisions = self.decide(observation, self.configuration, at)
        self._follow(key, observation, decisions)
        failures: list[Failure] = []
        blocked = more = False
        context = Context.of(observation, self.configuration)
        if context is not None and decisions.render:
            failures, more = await self._apply(key, observation, decisions, context, now)
            if not failures and await self._refused(observation, decisions):
                blocked = True
                observation = dataclasses.replace(observation, not_evictable=decisions.restart or "")
                decisions = self.decide(observation, self.configuration, at)
        decisions = dataclasses.replace(decisions, events=(*restored, *decisions.events)) if restored else decisions
        failed, unwritten = await self._report(observation, decisions, failures, now)
        if not failures and not failed and not unwritten:
            blocked = await self._restart(observation, decisions) or blocked
        rendered = context is not None and decisions.render
        return self._again(decisions, failures, failed, blocked=blocked, more=more or unwritten, rendered=rendered)

    async def _apply(
        self, key: Key, observation: Observation, decisions: Decisions, context: Context, now: float
    ) -> tuple[list[Failure], bool]:
        await self.secrets.make(context, decisions.new_secrets, self.writer)
        self.applier.forget(key, decisions.groups)
        failures, more = await self.applier.apply(observation, decisions, context)
        table = (kinds.CONFIG_MAP.name, key[0], names.mirroring_table(key[1]))
        if decisions.table is not None and all(failure.thing != table for failure in failures):
            self.pusher.want(key, decisions.table, self.secrets.token(key), self._targets(key, observation))
        if not failures and not more:
            await prune(self.store, self.writer, key, self.applier.wanted(key), now)
        return failures, more

    def _targets(self, key: Key, observation: Observation) -> dict[Target, int | None]:
        """Every process that works by the mirroring table, and the generation that it was last heard to have."""
        found: dict[Target, int | None] = {}
        several = _several_volumes(observation)
        for pod in self.store.server_pods(key):
            if pod.ip:
                report = observation.reports.get(pod.name)
                said = report.volumes if report is not None else ()
                for number in range(several.get(pod.name, 1)):
                    one = said[number] if number < len(said) else None
                    for port, status in (
                        (names.writer_port(number), one.writer if one is not None else None),
                        (names.sidecar_port(number), one.sidecar if one is not None else None),
                    ):
                        generation = (status or {}).get("table_generation")
                        found[_target(pod, port)] = generation if isinstance(generation, int) else None
        for pod in self.store.access_pods(key):
            if pod.ip:
                found[_target(pod, names.PORT_ACCESS)] = None
        return found

    async def _refused(self, observation: Observation, decisions: Decisions) -> bool:
        """Whether the disruption budget forbids a restart now: asked before a status says that it is under way."""
        pod = _to_restart(observation, decisions)
        if pod is None or not pod.ready or decisions.past_budget:
            return False
        try:
            await self.writer.evict(observation.namespace, pod.name, pod.uid, only_ask=True)
        except ApiError as error:
            return error.status == 429  # whatever else it is, the eviction itself will tell
        return False

    async def _restart(self, observation: Observation, decisions: Decisions) -> bool:
        """Whether the disruption budget forbids it now.

        A ready pod is evicted, so that what others disrupt at the same time (a node being drained) is counted. A pod
        that is not ready is deleted: it serves nobody, and its budget might be what it has used up itself; waiting for
        that would be waiting for ever, since the template that mends it starts only with its restart. So is any pod
        while the budget is used up by one that nobody waits for (`Decisions.past_budget`).
        """
        pod = _to_restart(observation, decisions)
        if pod is None:
            return False
        log.info("restarting a server", extra={"namespace": observation.namespace, "server": pod.name})
        if not pod.ready or decisions.past_budget:
            await self.writer.delete(kinds.POD, observation.namespace, pod.name, pod.uid)
            return False
        try:
            await self.writer.evict(observation.namespace, pod.name, pod.uid)
        except ApiError as error:
            if error.status != 429:
                raise
            log.info("a restart waits", extra={"server": pod.name, "reason": error.message})
            return True
        return False

    async def _report(
        self, observation: Observation, decisions: Decisions, failures: Sequence[Failure], now: float
    ) -> tuple[list[ApiError], bool]:
        """What went wrong, and whether some statuses wait for the next run."""
        namespace = observation.namespace
        due, waiting = self.statuses.due(observation, decisions, failures, now)
        uids = self._uids(observation)
        told = [_told(observation, failure) for failure in failures if not failure.quiet]
        events = [event for event in (*decisions.events, *told) if (event.kind, event.name) in uids]
        # All at once: a new cluster of 500 groups has hundreds of both, and what changes meanwhile waits for them.
        outcomes, _ = await asyncio.gather(
            asyncio.gather(*(self.statuses.write(namespace, *one) for one in due)),
            asyncio.gather(*(self.poster.post(namespace, uids[e.kind, e.name], e, now) for e in events)),
        )
        return [error for error in outcomes if error is not None], waiting

    def _again(
        self,
        decisions: Decisions,
        failures: Sequence[Failure],
        failed: Sequence[ApiError],
        *,
        blocked: bool,
        more: bool,
        rendered: bool,
    ) -> float | None:
        loud = [failure for failure in failures if not failure.quiet]
        if loud or failed:
            raise Incomplete(str(loud[0]) if loud else f"a status cannot be written: {failed[0].message}")
        wanted = [decisions.look_again] if decisions.look_again is not None else []
        if failures:
            wanted.append(RETRY_SECONDS)
        if more:
            wanted.append(0.0)
        if blocked:
            wanted.append(BLOCKED_SECONDS)
        if rendered:
            wanted.append(PRUNE_SECONDS)
        return min(wanted) if wanted else None

    def _follow(self, key: Key, observation: Observation, decisions: Decisions) -> None:
        pods = {pod.name: pod for pod in self.store.server_pods(key)}
        hurried = {name for name, pod in pods.items() if not pod.ready or pod.terminating}
        phases: list[str] = []
        broken = 0
        for decision in decisions.groups.values():
            for server in decision.status.get("servers") or ():
                phase = server.get("phase")
                phases.append(phase)
                broken += len(server.get("brokenVolumes") or ())
                if phase != CALM:
                    hurried.add(server["name"])
        metrics.count_servers(*key, phases, broken)
        self.reporter.follow(key, pods, frozenset(hurried), _several_volumes(observation))
        self.steering.follow(key, inputs_of(observation, decisions, self.store))

    def _forget(self, key: Key) -> None:
        metrics.forget_servers(*key)
        self.reporter.forget(key)
        self.steering.forget(key)
        self.pusher.forget(key)
        self.applier.forget(key)

    @staticmethod
    def _uids(observation: Observation) -> dict[tuple[str, str], str]:
        found = {("MailServer", name): group.resource.uid for name, group in observation.groups.items()}
        found |= {("MirrorPair", name): pair.resource.uid for name, pair in observation.pairs.items()}
        if observation.cluster is not None:
            found["MailCluster", observation.name] = observation.cluster.resource.uid
        return found


def _target(pod: Pod, port: int) -> Target:
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    return Target(pod.uid, f"{host}:{port}")


def _to_restart(observation: Observation, decisions: Decisions) -> Pod | None:
    """The pod whose turn it is, unless it goes already."""
    group = observation.groups.get((decisions.restart or "").rpartition("-")[0])
    pod = None if group is None else group.pods.get(decisions.restart or "")
    return None if pod is None or pod.terminating else pod


def _told(observation: Observation, failure: Failure) -> Event:
    if failure.group:
        return Event("MailServer", failure.group, "Warning", "ApplyFailed", str(failure))
    return Event("MailCluster", observation.name, "Warning", "ApplyFailed", str(failure))


def _several_volumes(observation: Observation) -> dict[str, int]:
    """Servers with more than one volume, and how many they have."""
    found = {}
    for group in observation.groups.values():
        count = volumes.count(group, observation.table)
        if count > 1:
            found.update(dict.fromkeys(group.pods, count))
    return found
