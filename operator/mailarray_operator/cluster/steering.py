"""Keeps the MX records of every MailCluster by the servers' load: a plan every few seconds, published, and looked up.

Invariants
- A plan stands in its ConfigMap before anything of it is published; an operator that starts, or takes over, goes on
  from there without a jump. It is written only when a server changes its place.
- No plan is made before every server was asked once, so that a start is no staleness; and no first plan before the
  servers that start together had a moment to come up together.
- Nothing is deleted while the plan is empty or stale. Addresses that were known stay until others are known.
- DNS is asked beside all this; whether it answers holds up no plan.
- Nothing of this holds up a look at the MailCluster: what is found goes into the store, as all that is observed.

One task for each MailCluster, started by its first look and ended with the Lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mailarray_operator.cluster import metrics, mx_events, mx_keeping
from mailarray_operator.cluster.client import ApiError
from mailarray_operator.cluster.dns_answers import Answers, wanted_records, zone_of
from mailarray_operator.cluster.endpoints import Endpoints, Reads
from mailarray_operator.cluster.events import Poster
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.loads import Asked, Heard, Loads
from mailarray_operator.cluster.mx_inputs import Candidate, Inputs, reports_of
from mailarray_operator.cluster.mx_keeping import Kept
from mailarray_operator.cluster.mx_view import view_of
from mailarray_operator.cluster.resolver import Question, Resolver
from mailarray_operator.cluster.resolver import Records as Answered
from mailarray_operator.cluster.store import Store
from mailarray_operator.cluster.writer import NotLeader, Writer
from mailarray_operator.mx import (
    Decision,
    MxPlan,
    Policy,
    Records,
    State,
    access_records,
    plan,
    policy_of,
    records,
    service_records,
)
from mailarray_operator.mx.endpoints import object_name
from mailarray_operator.plan.mx_status import DNS_PUBLISHED

log = logging.getLogger(__name__)

PLAN_SECONDS = 5.0
SOON_SECONDS = 0.25  # until servers were asked for the first time; and between two plans, whatever happens
FIRST_SECONDS = 30.0  # that a first plan waits for servers that start together
DNS_SECONDS, CALM_DNS_SECONDS = 15.0, 30.0  # between two questions: while something differs, and else


@dataclass(slots=True)
class _Array:
    """One MailCluster."""

    key: Key
    inputs: Inputs
    endpoints: Endpoints
    since: float  # seconds, monotonic: servers are asked since then
    servers: MxPlan | None = None
    access: MxPlan | None = None
    heard: dict[str, Heard] = field(default_factory=dict)  # last words, also of pods that are gone
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    loaded: bool = False  # what an operator before left in the ConfigMap
    saved: object = None  # what stands there
    serving_since: float | None = None
    stale_since: float | None = None
    records: Records | None = None
    manifests: tuple[Mapping[str, Any], ...] = ()  # all, with those of the access servers
    changed_at: float = 0.0
    answers: Answers = field(default_factory=Answers)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Steering:
    """See the module."""

    def __init__(
        self,
        store: Store,
        reads: Reads,
        writer: Writer,
        loads: Loads,
        resolver: Resolver,
        poster: Poster,
        look: Callable[[Key], None],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._reads = reads
        self._writer = writer
        self._loads = loads
        self._resolver = resolver
        self._poster = poster
        self._look = look
        self._clock = clock
        self._monotonic = monotonic
        self._arrays: dict[Key, _Array] = {}

    def follow(self, key: Key, inputs: Inputs | None) -> None:
        """What a look found; None: nothing is planned now, and all stays as it is."""
        if inputs is None:
            self.forget(key)
            return
        asked = _asked(inputs)
        self._loads.follow(key, asked)
        array = self._arrays.get(key)
        if array is None:
            endpoints = Endpoints(key, self._reads, self._writer, self._monotonic)
            array = self._arrays[key] = _Array(key, inputs, endpoints, self._monotonic())
            array.tasks = [asyncio.create_task(self._plan_on(array)), asyncio.create_task(self._ask_on(array))]
            return
        changed = array.inputs.states() != inputs.states() or array.inputs.spec != inputs.spec
        array.inputs = inputs
        if changed:
            array.wake.set()

    def forget(self, key: Key) -> None:
        """Not planned any more; the records stay."""
        self._loads.forget(key)
        self._store.mx.pop(key, None)
        array = self._arrays.pop(key, None)
        if array is not None:
            metrics.forget_mx(*key)
            for task in array.tasks:
                task.cancel()

    async def run(self) -> None:
        """Until cancelled: then another operator leads, and what was kept in memory is worth nothing."""
        try:
            await asyncio.Event().wait()
        finally:
            for key in list(self._arrays):
                self.forget(key)

    async def _plan_on(self, array: _Array) -> None:
        while True:
            array.wake.clear()
            pause = PLAN_SECONDS
            try:
                pause = await self.plan_once(array)
            except NotLeader:
                return
            except Exception as error:  # whatever went wrong with one cluster must not end its planning
                expected = isinstance(error, ApiError)
                fields = {"namespace": array.key[0], "cluster": array.key[1], "reason": str(error)}
                log.warning("the MX records cannot be kept", extra=fields, exc_info=None if expected else error)
            await asyncio.sleep(SOON_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, pause - SOON_SECONDS)):
                    await array.wake.wait()

    async def plan_once(self, array: _Array) -> float:
        """Plan, keep, publish, tell; seconds until the next time. Raises ApiError, NotLeader."""
        if not array.loaded:
            await self._load(array)
        if not self._loads.all_tried(array.key):
            return SOON_SECONDS
        now = self._clock()
        if array.servers is None and not self._may_begin(array, now):
            self._tell(array, now)
            return 1.0
        self._listen(array)
        array.servers, events = self._next(array, array.inputs.servers, array.servers, now)
        if array.inputs.spec.access.hostname:
            array.access, _ = self._next(array, array.inputs.access, array.access, now, external=False)
        self._note_staleness(array, now)
        for name, candidate in array.inputs.servers.items():
            if candidate.addresses:
                array.addresses[name] = candidate.addresses
        array.addresses = {s: found for s, found in array.addresses.items() if s in array.inputs.servers}
        self._render(array, now)
        self._tell(array, now)
        await self._save(array, bool(events))
        await mx_events.post(self._poster, array.key, array.inputs, events, now)
        if array.inputs.spec.mx.publish == "ExternalDNS":
            whole = await array.endpoints.apply(array.manifests)
            if whole and array.records is not None and array.records.mx and array.stale_since is None:
                await array.endpoints.prune(self._asked_for(array))
        self._tell(array, self._clock())
        return PLAN_SECONDS

    def _may_begin(self, array: _Array, now: float) -> bool:
        states = [candidate.state for candidate in array.inputs.servers.values()]
        if State.SERVING not in states:
            array.serving_since = None
            return False
        if array.serving_since is None:
            array.serving_since = now
        return all(s is not State.JOINING for s in states) or now - array.serving_since >= FIRST_SECONDS

    def _next(
        self,
        array: _Array,
        candidates: Mapping[str, Candidate],
        before: MxPlan | None,
        now: float,
        external: bool = True,
    ) -> tuple[MxPlan, tuple[Decision, ...]]:
        known = frozenset(member.server for member in before.members) if before is not None else frozenset()
        reports = reports_of(candidates, array.heard, known, array.since, self._monotonic(), now)
        policy = policy_of(array.inputs.spec.mx, {name: c.preference for name, c in candidates.items()})
        if not external:
            policy = Policy(ttl=policy.ttl, min_targets=policy.min_targets, max_targets=policy.max_targets)
        began = time.perf_counter()
        made = plan(reports, before, policy, now)
        metrics.MX_PLAN.observe(time.perf_counter() - began)
        for decision in made.changes:
            metrics.MX_CHANGES.labels(decision.reason).inc()
        return made, made.changes

    def _listen(self, array: _Array) -> None:
        """A server that restarts has a new pod, and is not silent for it; what its old pod said just grows old."""
        for name, heard in self._loads.heard(array.key).items():
            if name not in array.heard or heard.at > array.heard[name].at:
                array.heard[name] = heard
        there = array.inputs.servers.keys() | array.inputs.access.keys()
        array.heard = {name: heard for name, heard in array.heard.items() if name in there}

    def _note_staleness(self, array: _Array, now: float) -> None:
        stale = array.servers is not None and array.servers.stale
        if not stale:
            array.stale_since = None
        elif array.stale_since is None:
            array.stale_since = _moment((array.inputs.status.get("mxPlan") or {}).get("staleSince")) or now
        metrics.MX_STALE.labels(*array.key).set(stale)

    def _render(self, array: _Array, now: float) -> None:
        assert array.servers is not None
        inputs, (namespace, cluster) = array.inputs, array.key
        found = records(
            array.servers,
            cluster=cluster,
            namespace=namespace,
            domains=inputs.domains,
            hostnames={name: c.hostname for name, c in inputs.servers.items()},
            addresses=array.addresses,
        )
        if array.records is None:
            array.changed_at = _changed_before(inputs.status, found.mx) or now
        elif array.records.mx != found.mx:
            array.changed_at = now
        array.records = found
        manifests: list[Mapping[str, Any]] = list(found.endpoints)
        hostname = inputs.spec.access.hostname
        if hostname and array.access is not None:
            common: dict[str, Any] = {"cluster": cluster, "namespace": namespace, "hostname": hostname}
            where = {name: c.addresses for name, c in inputs.access.items()}
            mx = inputs.spec.mx
            name = access_records(
                array.access, addresses=where, min_targets=mx.min_targets, max_targets=mx.max_targets, **common
            )
            services = service_records(array.access, domains=inputs.domains, hostnames={}, **common)
            manifests += [manifest for manifest in (name, services) if manifest is not None]
        array.manifests = tuple(manifests)

    def _asked_for(self, array: _Array) -> set[str]:
        """Names of DNSEndpoints that the spec asks for, whether they can be rendered now or not."""
        suffixes = [*array.inputs.domains]
        if array.inputs.spec.access.hostname:
            suffixes += ["access", "access-services"]
        return {object_name(array.key[1], suffix) for suffix in suffixes}

    async def _load(self, array: _Array) -> None:
        kept = await mx_keeping.read(self._reads, array.key)
        array.loaded = True
        if kept is not None:
            array.servers, array.access, array.addresses = kept.servers, kept.access, dict(kept.addresses)
            array.saved = kept.worth_keeping()
            await array.endpoints.look()

    async def _save(self, array: _Array, changed: bool) -> None:
        kept = Kept(array.servers, array.access, dict(array.addresses))
        if not changed and kept.worth_keeping() == array.saved:
            return
        array.saved = None  # until it is written
        await mx_keeping.write(self._writer, array.key, kept)
        array.saved = kept.worth_keeping()

    def _tell(self, array: _Array, now: float) -> None:
        """Into the store; the MailCluster is looked at again when it says something new."""
        if self._arrays.get(array.key) is not array:
            return
        left = [m.server for m in array.servers.members if m.band is None] if array.servers is not None else []
        array.answers.judge(array.inputs, bool(array.endpoints.there), left, now)
        made = view_of(
            array.inputs,
            array.servers,
            array.records,
            array.endpoints,
            array.answers,
            array.changed_at,
            array.stale_since,
            now,
        )
        if made == self._store.mx.get(array.key):
            return
        self._store.mx[array.key] = made
        if array.inputs.spec.mx.publish == "ExternalDNS":
            published = any(c.type == DNS_PUBLISHED and c.status for c in made.conditions)
            metrics.MX_PUBLISHED.labels(*array.key).set(published)
        else:  # by hand, nobody follows the load
            metrics.forget_published(*array.key)
        self._look(array.key)

    async def _ask_on(self, array: _Array) -> None:
        asked_at, seen = float("-inf"), None
        while True:
            calm = array.answers.asked and not array.answers.differing and not array.answers.silent
            due = CALM_DNS_SECONDS if calm and seen == array.changed_at else DNS_SECONDS
            if array.records is None or self._monotonic() - asked_at < due:
                await asyncio.sleep(SOON_SECONDS)
                continue
            asked_at, seen = self._monotonic(), array.changed_at
            try:
                await self.ask_once(array)
            except Exception:  # DNS is advice; the next question may go better
                log.exception("DNS cannot be asked", extra={"namespace": array.key[0], "cluster": array.key[1]})

    async def ask_once(self, array: _Array) -> None:
        """See what is there at the API server, and what DNS answers."""
        await array.endpoints.look()
        wanted = self._wanted(array)
        questions = array.answers.questions(wanted)
        zones = {name: zone_of(name, array.inputs.domains) for name, _ in questions}
        heard = await self._resolver.ask(questions, zones)
        array.answers.take(self._wanted(array), heard, self._clock())  # what is wanted may have changed meanwhile
        self._tell(array, self._clock())

    def _wanted(self, array: _Array) -> dict[Question, Answered]:
        if array.records is None:
            return {}
        published = array.inputs.spec.mx.publish == "ExternalDNS"
        return wanted_records(array.inputs.domains, array.records.mx, array.manifests if published else ())


def _asked(inputs: Inputs) -> dict[str, Asked]:
    both = (*inputs.servers.items(), *inputs.access.items())
    return {name: candidate.asked for name, candidate in both if candidate.asked is not None}


def _changed_before(status: Mapping[str, Any], requested: tuple[str, ...]) -> float | None:
    """When an operator before asked for these very records."""
    for entry in status.get("mx") or ():
        if tuple(entry.get("requested") or ()) == requested:
            return _moment(entry.get("changedAt"))
    return None


def _moment(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
