"""Brings the API server to what was decided and rendered, one object at a time, and only those that differ.

Invariant: an object is left alone only while it carries the hash of what would be applied, *and* the API server still
counts the same fields as ours as right after our own apply: a field that somebody else changes is taken from us, and
so drift is seen without comparing values (docs/adr/0008). What this process has not applied itself yet is applied once.
A StatefulSet is applied only over the version that the decision was made of: `kubectl scale` in between is a wish,
and must not be lost. One object's failure is reported and retried with a backoff of its own; it stops nobody else.

Refuses to decide anything. Called by the reconciler.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mailarray_operator.api import names
from mailarray_operator.cluster import kinds, metrics
from mailarray_operator.cluster.client import ApiError, Json
from mailarray_operator.cluster.held import Key, Thing
from mailarray_operator.cluster.kinds import kind_of
from mailarray_operator.cluster.store import Store
from mailarray_operator.cluster.trim import digest, managed
from mailarray_operator.cluster.writer import Writer
from mailarray_operator.plan.decisions import Decisions, GroupDecision
from mailarray_operator.plan.observation import Group, Observation
from mailarray_operator.render import order
from mailarray_operator.render.context import Context, Manifest, ServerGroup

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_BACKOFF, MAX_BACKOFF = 1.0, 120.0  # seconds, for one object
GROUPS_A_RUN = 64  # more wait for the next run, which begins at once: what changes meanwhile waits for no 500 others
OUTDATED = "it changed while it was being looked at"


@dataclass(frozen=True, slots=True)
class Failure:
    """One object that could not be written."""

    thing: Thing
    group: str  # "" when it belongs to the whole cluster
    message: str  # one sentence
    quiet: bool = False  # nothing is wrong: the next look does it

    def __str__(self) -> str:
        return f"{self.thing[0]} {self.thing[2]} cannot be applied: {self.message}"


@dataclass(frozen=True, slots=True)
class Rendered:
    """What was made of equal inputs: hashes only, since 500 StatefulSets as Python objects are 20 MB."""

    inputs: tuple[object, ...]
    hashes: tuple[tuple[Thing, str], ...]


@dataclass(slots=True)
class _Backoff:
    """An object that failed."""

    hash: str
    not_before: float
    failures: int
    message: str


class Applier:
    """See the module."""

    def __init__(self, store: Store, writer: Writer, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._seen: dict[Thing, tuple[str, str]] = {}  # hash, owned fields; right after our own apply
        self._rendered: dict[tuple[str, str, str], Rendered] = {}  # namespace, MailCluster, MailServer or ""
        self._backoffs: dict[Thing, _Backoff] = {}
        self._turn = 0

    async def apply(
        self, observation: Observation, decisions: Decisions, context: Context
    ) -> tuple[list[Failure], bool]:
        """Everything that is rendered, and volumes that grow; whether some groups wait. Raises NotLeader."""
        failures = await self._apply_cluster(context, decisions)
        changed: list[tuple[ServerGroup, Group, GroupDecision]] = []
        for name in sorted(decisions.groups.keys() & observation.groups.keys()):
            decision, group = decisions.groups[name], observation.groups[name]
            inputs = ServerGroup.of(group, decision)
            if inputs is not None and self._group_differs(context, inputs, decision):
                changed.append((inputs, group, decision))
        now = turn(changed, self._turn, GROUPS_A_RUN)
        self._turn += GROUPS_A_RUN
        for found in await asyncio.gather(*(self._apply_group(context, *one) for one in now)):
            failures += found
        failures += await self._grow(observation, decisions)
        return failures, len(now) < len(changed)

    def wanted(self, key: Key) -> dict[str, set[Thing]]:
        """What was last rendered, by MailServer, "" for the cluster: everything else of theirs may be pruned."""
        found: dict[str, set[Thing]] = {}
        for (namespace, cluster, group), rendered in self._rendered.items():
            if (namespace, cluster) == key:
                found[group] = {thing for thing, _ in rendered.hashes}
        return found

    def forget(self, key: Key, groups: Iterable[str] | None = None) -> None:
        """Drop what is kept of a MailCluster, or of all its groups but these."""
        kept = None if groups is None else {"", *groups}
        for where in [w for w in self._rendered if w[:2] == key and (kept is None or w[2] not in kept)]:
            for thing, _ in self._rendered.pop(where).hashes:
                self._seen.pop(thing, None)
                self._backoffs.pop(thing, None)

    async def _apply_cluster(self, context: Context, decisions: Decisions) -> list[Failure]:
        where = (context.namespace, context.name, "")
        inputs = (context, decisions.table)
        manifests: list[Manifest] | None = None
        if where not in self._rendered or self._rendered[where].inputs != inputs:
            manifests = order.cluster_manifests(context, decisions.table)
            self._rendered[where] = _hashed(inputs, manifests)
        due = [(thing, hash) for thing, hash in self._rendered[where].hashes if self._differs(thing, hash)]
        if not due:
            return []
        by_thing = {_thing(m): m for m in manifests or order.cluster_manifests(context, decisions.table)}
        found = await asyncio.gather(*(self._apply_one(by_thing[thing], hash, "") for thing, hash in due))
        return [failure for failure in found if failure is not None]

    def _group_differs(self, context: Context, group: ServerGroup, decision: GroupDecision) -> bool:
        where = (context.namespace, context.name, group.name)
        inputs = (context, group)
        known = self._rendered.get(where)
        if known is None or known.inputs != inputs:
            self._rendered[where] = _hashed(inputs, order.group_manifests(context, group))
        elif known.inputs[0] is not context or known.inputs[1] is not group:
            self._rendered[where] = Rendered(inputs, known.hashes)  # one object for all groups, not one each
        return decision.wish is not None or any(self._differs(t, hash) for t, hash in self._rendered[where].hashes)

    async def _apply_group(
        self, context: Context, inputs: ServerGroup, group: Group, decision: GroupDecision
    ) -> list[Failure]:
        key = context.namespace, inputs.name
        if decision.wish is not None:
            failure = await self._write_wish(key, decision.wish)
            if failure is not None:
                return [failure]  # setting the StatefulSet back now would lose what somebody asked for
        hashes = self._rendered[context.namespace, context.name, inputs.name].hashes
        for manifest, (thing, hash) in zip(order.group_manifests(context, inputs), hashes, strict=True):
            if not self._differs(thing, hash):
                continue
            if thing[0] == kinds.STATEFUL_SET.name:
                # Nothing is awaited between this look and the request, so the version is that of what was decided on.
                if self._store.stateful_set(key) != group.stateful_set:
                    return [Failure(thing, inputs.name, OUTDATED, quiet=True)]
                version = self._store.object_version(thing)
                if version:
                    manifest["metadata"]["resourceVersion"] = version
            failure = await self._apply_one(manifest, hash, inputs.name)
            if failure is not None:
                return [failure]  # a pod must not start before what it mounts is there
        return []

    async def _write_wish(self, key: Key, replicas: int) -> Failure | None:
        thing = (kinds.MAIL_SERVER.name, *key)
        patch = {"metadata": {"resourceVersion": self._store.version(key)}, "spec": {"replicas": replicas}}
        try:
            answer = await self._writer.change(kinds.MAIL_SERVER, *key, patch)
        except ApiError as error:
            return Failure(thing, key[1], error.message, quiet=error.conflict)
        self._store.take(kinds.MAIL_SERVER, answer, True)
        log.info("the StatefulSet was scaled; its MailServer follows", extra={"server": key[1], "replicas": replicas})
        return None

    def _differs(self, thing: Thing, hash: str) -> bool:
        there = self._store.managed.get(thing)
        return there is None or there.applied != hash or self._seen.get(thing) != (hash, there.owned)

    async def _apply_one(self, manifest: Json, hash: str, group: str) -> Failure | None:
        thing = _thing(manifest)
        backoff = self._backoffs.get(thing)
        if backoff is not None and backoff.hash == hash and self._clock() < backoff.not_before:
            return Failure(thing, group, backoff.message)
        metadata = manifest["metadata"]
        metadata["annotations"] = {**metadata.get("annotations", {}), names.ANNOTATION_APPLIED: hash}
        try:
            answer = await self._writer.apply(manifest)
        except ApiError as error:
            if error.conflict and "resourceVersion" in metadata:
                return Failure(thing, group, OUTDATED, quiet=True)
            return self._failed(thing, group, hash, error)
        metrics.WRITES.labels(thing[0]).inc()
        self._backoffs.pop(thing, None)
        self._store.take(kind_of(manifest), answer, True)
        self._seen[thing] = (hash, managed(answer).owned)  # not what is held: that may be another's change by now
        return None

    def _failed(self, thing: Thing, group: str, hash: str, error: ApiError) -> Failure:
        before = self._backoffs.get(thing)
        failures = before.failures + 1 if before is not None and before.hash == hash else 1
        pause = min(FIRST_BACKOFF * 2 ** (failures - 1), MAX_BACKOFF)
        self._backoffs[thing] = _Backoff(hash, self._clock() + pause, failures, error.message)
        log.warning(
            "an object cannot be applied",
            extra={
                "kind": thing[0],
                "namespace": thing[1],
                "object": thing[2],
                "reason": error.message,
                "again_in": pause,
            },
        )
        return Failure(thing, group, error.message)

    async def _grow(self, observation: Observation, decisions: Decisions) -> list[Failure]:
        found = []
        for growth in decisions.growths:
            patch = {"spec": {"resources": {"requests": {"storage": str(growth.size)}}}}
            thing = (kinds.CLAIM.name, observation.namespace, growth.claim)
            try:
                answer = await self._writer.change(kinds.CLAIM, thing[1], thing[2], patch)
                self._store.take(kinds.CLAIM, answer, True)
            except ApiError as error:
                found.append(Failure(thing, "", error.message))
        return found


def _thing(manifest: Json) -> Thing:
    metadata = manifest["metadata"]
    return manifest["kind"], metadata["namespace"], metadata["name"]


def _hashed(inputs: tuple[object, ...], manifests: Iterable[Manifest]) -> Rendered:
    return Rendered(inputs, tuple((_thing(m), digest(m)) for m in manifests))


def turn(waiting: Sequence[T], begin: int, count: int) -> list[T]:
    """So many of those that wait, beginning further on each time: nobody waits for ever behind the same ones."""
    if len(waiting) <= count:
        return list(waiting)
    first = begin % len(waiting)
    return [*waiting[first:], *waiting[:first]][:count]
