"""A very small Kubernetes with mail servers in it, to carry out decisions and see what comes of them.

Does only what plans depend on: a StatefulSet controller, pods that start and stop, servers that hold a table, drain and
are rebuilt. Writes happen one by one in the order that the operator promises, so that it can be killed between any two.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from mailarray.contract.mirroring_table import MirroringTable
from mailarray.contract.resources.common import NameRef
from mailarray.contract.resources.mailcluster import Access, Accounts, Domain, MailClusterSpec, Storage
from mailarray.contract.resources.mailserver import MailServerSpec, ServerStorage
from mailarray.contract.resources.mirrorpair import MirrorPairSpec, Side
from mailarray.contract.server_names import group_of, host_of, number_of
from mailarray_operator.api.configuration import Configuration
from mailarray_operator.api.names import claim, numbered
from mailarray_operator.plan import decide
from mailarray_operator.plan.decisions import Decisions, Event
from mailarray_operator.plan.observation import (
    Claim,
    ClusterResource,
    Group,
    Mx,
    Observation,
    PairResource,
    Pod,
    Resource,
    ServerReport,
    StatefulSet,
    VolumeReport,
)
from mailarray_operator.plan.volumes import names_of

CONFIGURATION = Configuration(dataplane_image="mailarray:test", postgresql_image="postgresql:test")
BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
GIB = 1 << 30
QUIET = 2  # steps without a change, until all is settled: a word may be on its way
DRAIN_TICKS = 2  # that a drain or a rebuild takes


@dataclass
class FakePod:
    uid: str
    revision: str
    age: int = 0  # ticks; node at 1, ready at 2
    terminating: bool = False
    crashing: bool = False


@dataclass
class FakeServer:
    """A volume, and what the process on it says."""

    volume: str
    generation: int = 0  # of its table
    drain_left: int | None = None
    rebuild_left: int = 0
    lost_a_volume: bool = False
    unsettled: int = 0
    heard: float = -1.0
    mirrors: tuple[str, ...] = ()  # by its table


@dataclass
class FakeGroup:
    name: str
    wanted: int
    zones: tuple[str, ...]
    size: int = GIB
    volumes: int = 1  # of each server
    generation: int = 1
    status: dict[str, Any] = field(default_factory=dict)
    replicas: int | None = None  # of the StatefulSet; None: there is none
    recorded: int | None = None
    drain: str = ""
    revision: str = "r1"
    broken: frozenset[str] = frozenset()  # revisions that never get ready


class World:
    """See the module."""

    def __init__(self, copies: int = 2, spread: str = "Zone") -> None:
        self.copies, self.spread, self.paused, self.cluster_there = copies, spread, False, True
        self.groups: dict[str, FakeGroup] = {}
        self.pods: dict[str, FakePod] = {}
        self.servers: dict[str, FakeServer] = {}  # by claim, so they stay when a pod goes
        self.claims: dict[str, Claim] = {}
        self.table: MirroringTable | None = None
        self.cluster_status: dict[str, Any] = {}
        self.pairs: dict[str, MirrorPairSpec] = {}
        self.pair_statuses: dict[str, dict[str, Any]] = {}
        self.lost_nodes: set[str] = set()  # of servers
        self.secrets: dict[str, frozenset[str] | None] = {"accounts": frozenset({"accounts"})}
        self.database_ready: bool | None = True
        self.mx: Mx | None = None
        self.access_ready = 2
        self.events: list[Event] = []
        self.restarts: list[str] = []
        self.full_of_mail: set[str] = set()  # volumes that are not drained yet when their server's first one is
        self.broken_volumes: set[str] = set()  # that do not answer; their pod is not ready
        self.crashing_volumes: dict[str, str] = {}  # of these: what their processes say at each start
        self.read_only: set[str] = set()  # volumes whose processes answer, and cannot write; their pod is not ready
        self.declared_lost: set[str] = set()  # ids
        self.short_of_copies: dict[str, int] = {}  # by the volume that counts the segments
        self.volume_heard: dict[str, float] = {}
        self.old_revisions: dict[str, str | None] = {}  # revisions whose processes say another version, or none
        self.alone: set[str] = set()  # volumes whose writer has no mirror
        self.not_evictable: set[str] = set()  # a disruption budget forbids it
        self.clock = 0.0
        self.since = 0.0  # the operator's start
        self._uids = itertools.count(1)
        self._claim_uids = itertools.count(1)

    # What people do -----------------------------------------------------------------------------------
    def group(self, name: str, wanted: int, zones: tuple[str, ...] = ("a", "b", "c")) -> FakeGroup:
        self.groups[name] = FakeGroup(name, wanted, zones)
        return self.groups[name]

    def scale_mailserver(self, name: str, wanted: int) -> None:
        self.groups[name].wanted = wanted
        self.groups[name].generation += 1

    def scale_statefulset(self, name: str, replicas: int) -> None:
        self.groups[name].replicas = replicas

    def pair(self, name: str, source: str, *mirrors: str) -> None:
        self.pairs[name] = MirrorPairSpec(
            NameRef("example"), Side(NameRef(source)), tuple(Side(NameRef(m)) for m in mirrors)
        )

    def delete(self, name: str) -> None:
        """The MailServer, and by its owner references all but the claims."""
        del self.groups[name]
        self.pods = {pod: found for pod, found in self.pods.items() if pod.rpartition("-")[0] != name}

    def wipe(self, server: str) -> None:
        """The claim is deleted with its pod."""
        self.pods.pop(server, None)
        self.servers.pop(server, None)
        self.claims.pop(server, None)

    # What Kubernetes and the servers do ---------------------------------------------------------------
    def tick(self, seconds: float = 1.0) -> None:
        self.clock += seconds
        for group in self.groups.values():
            self._control(group)
        for name, pod in list(self.pods.items()):
            pod.age += 1
            if pod.terminating and pod.age > 1 and name not in self.lost_nodes:
                del self.pods[name]
        for name in self.pods:
            if self.answers(name):
                self._serve(name)

    def _control(self, group: FakeGroup) -> None:
        """The StatefulSet controller, podManagementPolicy Parallel."""
        if group.replicas is None:
            return
        for ordinal in range(group.replicas):
            name = f"{group.name}-{ordinal}"
            if name not in self.pods:
                self.pods[name] = FakePod(f"uid-{next(self._uids)}", group.revision)
            if name not in self.claims:
                for volume in names_of(name, group.volumes):
                    self.claims[volume] = Claim(
                        claim(name, number_of(volume)), f"claim-{next(self._claim_uids)}", group.size, 0
                    )
        for name, pod in self.pods.items():
            if name.rpartition("-")[0] == group.name and int(name.rpartition("-")[2]) >= group.replicas:
                self.stop(pod)

    def stop(self, pod: FakePod) -> None:
        if not pod.terminating:
            pod.terminating, pod.age = True, 0

    def ready(self, name: str) -> bool:
        """A server that drains takes no mail, so it is not ready."""
        server = self.servers.get(name)
        whole = not any(host_of(volume) == name for volume in self.broken_volumes | self.read_only)
        return self.answers(name) and whole and (server is None or server.drain_left is None)

    def answers(self, name: str) -> bool:
        pod = self.pods.get(name)
        if pod is None or pod.age < 2 or pod.crashing or name in self.lost_nodes:
            return False
        return not pod.terminating and pod.revision not in self.groups[name.rpartition("-")[0]].broken

    def _serve(self, name: str) -> None:
        if name not in self.servers:
            own = self.claims[name]
            fresh = not any(s.heard >= 0 for s in self.servers.values())
            known = self.table is not None and self.table.server(name) is not None and own.uid and not fresh
            was = any(e.get("name") == name and e.get("volume") for e in self._shown(name))
            lost = bool(known and was)
            volume = f"volume of {own.uid}"
            self.servers[name] = FakeServer(volume, rebuild_left=DRAIN_TICKS if lost else 0, lost_a_volume=lost)
            for one in [one for one in self.claims if host_of(one) == name]:
                bound = self.claims[one]
                self.claims[one] = Claim(bound.name, bound.uid, bound.requested, bound.requested, bound.expandable)
        server, pod = self.servers[name], self.pods[name]
        if pod.age == 2:
            server.unsettled = 1
        elif server.unsettled:
            server.unsettled = 0
        if not all(one in self.broken_volumes for one in self.claims if host_of(one) == name):
            server.heard = self.clock
        server.rebuild_left = max(0, server.rebuild_left - 1)
        if self.table is None or self.table.generation < server.generation:
            return
        server.generation = self.table.generation
        server.mirrors = tuple(m for group in self.table.rows.get(name, ()) for m in group)
        mine = self.table.server(name)
        if mine is not None and mine.draining:
            server.drain_left = DRAIN_TICKS if server.drain_left is None else max(0, server.drain_left - 1)
        else:
            server.drain_left = None

    def _shown(self, name: str) -> list[dict[str, Any]]:
        return list(self.groups[name.rpartition("-")[0]].status.get("servers", []))

    # What the operator does ---------------------------------------------------------------------------
    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.clock)

    def observe(self, not_evictable: str = "") -> Observation:
        cluster = ClusterResource(
            Resource("example", "c", 1, self.cluster_status),
            MailClusterSpec(
                (Domain("mail.example"),),
                accounts=Accounts(NameRef("accounts")),
                storage=Storage(copies=self.copies, spread=self.spread),  # type: ignore[arg-type]
                access=Access(replicas=2),
                paused=self.paused,
            ),
        )
        return Observation(
            "mail",
            "example",
            cluster if self.cluster_there else None,
            {name: self._observe_group(group) for name, group in self.groups.items()},
            {
                name: PairResource(Resource(name, name, 1, self.pair_statuses.get(name, {})), spec)
                for name, spec in self.pairs.items()
            },
            self.table,
            self.secrets,
            self.access_ready,
            self.database_ready,
            reports={
                name: self._report(name, server) for name, server in self.servers.items() if server.heard >= self.since
            },
            clock=self.clock,
            since=self.since,
            mx=self.mx,
            not_evictable=not_evictable,
        )

    def _observe_group(self, group: FakeGroup) -> Group:
        found = None
        if group.replicas is not None:
            found = StatefulSet(group.replicas, group.recorded, group.revision, group.drain)
        mine = [name for name in {*self.pods, *self.claims} if name.rpartition("-")[0] == group.name]
        pods = {name: self._observe_pod(group, name, self.pods[name]) for name in mine if name in self.pods}
        claims = {name: self.claims[name] for name in mine if name in self.claims}
        spec = MailServerSpec(NameRef("example"), group.wanted, ServerStorage(size=group.size, volumes=group.volumes))
        return Group(Resource(group.name, group.name, group.generation, group.status), spec, found, pods, claims)

    def _observe_pod(self, group: FakeGroup, name: str, pod: FakePod) -> Pod:
        placed = pod.age >= 1 or pod.terminating
        zone = group.zones[int(name.rpartition("-")[2]) % len(group.zones)]
        problem = "container smtp crashes" if pod.crashing or pod.revision in group.broken else ""
        node = f"node-{name}" if placed else ""
        ready = self.ready(name)
        failures = {
            numbered(container, number_of(volume)): why
            for volume, why in self.crashing_volumes.items()
            if host_of(volume) == name and pod.age >= 2
            for container in ("smtp", "catalog")
        }
        known = (name, pod.uid, node, zone if placed else "", "", ready, pod.terminating, pod.revision, problem)
        return Pod(*known, failures=failures)

    def _report(self, name: str, server: FakeServer) -> ServerReport:
        uid = self.pods[name].uid if name in self.pods else ""
        group = self.groups.get(group_of(name))
        volumes = names_of(name, 1 if group is None else group.volumes)
        first, *further = [self._volume_report(name, volume, server) for volume in volumes]
        return ServerReport(server.heard, first.sidecar, first.writer, uid, tuple(further), first.heard)

    def _volume_report(self, name: str, volume: str, server: FakeServer) -> VolumeReport:
        if not self.answers(name) or volume in self.broken_volumes:
            return VolumeReport(None, None, self.volume_heard.get(volume))
        self.volume_heard[volume] = server.heard
        drain = None
        if server.drain_left is not None:
            left = server.drain_left + (volume in self.full_of_mail)
            drain = {"segments_total": DRAIN_TICKS, "segments_left": left, "done": left == 0}
        rebuild = None
        if server.rebuild_left:
            rebuild = {"segments_total": DRAIN_TICKS, "segments_left": server.rebuild_left, "done": False}
        elif server.lost_a_volume:
            rebuild = {"segments_total": DRAIN_TICKS, "segments_left": 0, "done": True}
        pod = self.pods[name]
        version = {"version": self.old_revisions.get(pod.revision, "0.1.0")}
        sidecar = {
            **version,
            "volume": f"{server.volume} for {volume}" if volume != name else server.volume,
            "table_generation": server.generation,
            "drain": drain,
            "rebuild": rebuild,
            "segments": {"unsettled": server.unsettled},
            "under_replicated": self.short_of_copies.get(volume, 0),
            "lost": sorted(self.declared_lost),
            "catalog": {"state": "up", "open": True},
        }
        writer = {
            **version,
            "refusing": None,
            "disk_error": "Read-only file system" if volume in self.read_only else None,
            "at_rest": drain is not None,
            "copies": {"wanted": self.copies, "now": None},
            "mirrors": [
                {"server": m, "state": "InSync" if self._mirrors(volume, m) else "Failed", "in_use": False}
                for m in server.mirrors
            ],
        }
        return VolumeReport(sidecar, writer, server.heard)

    def _mirrors(self, volume: str, mirror: str) -> bool:
        return volume not in self.alone and self.answers(host_of(mirror))

    def decide(self) -> Decisions:
        decisions = decide(self.observe(), CONFIGURATION, self.now())
        if decisions.restart in self.not_evictable and not decisions.past_budget:
            decisions = decide(self.observe(str(decisions.restart)), CONFIGURATION, self.now())
        return decisions

    def writes(self, decisions: Decisions, outdated: Collection[str] = ()) -> list[Callable[[], None]]:
        """What is to be written, in the order in which it is written; only what differs.

        The StatefulSets of `outdated` groups change meanwhile, and are left to the next look.
        """
        writes: list[Callable[[], None]] = []
        if decisions.render:
            for name, decided in decisions.groups.items():
                if decided.wish is not None:
                    writes.append(lambda n=name, w=decided.wish: self.scale_mailserver(n, w))  # type: ignore[misc]
            if decisions.table != self.table:
                writes.append(lambda: setattr(self, "table", decisions.table))
            for name, decided in decisions.groups.items():
                group = self.groups[name]
                if name in outdated:
                    continue
                if (group.replicas, group.recorded, group.drain) != (decided.replicas, decided.replicas, decided.drain):
                    writes.append(lambda g=group, d=decided: self._apply(g, d.replicas, d.drain))  # type: ignore[misc]
            for growth in decisions.growths:
                writes.append(lambda g=growth: self._grow(g.claim, g.size))  # type: ignore[misc]
        for name, decided in decisions.groups.items():
            if decided.status != self.groups[name].status and name not in outdated:
                writes.append(lambda n=name, d=decided: setattr(self.groups[n], "status", dict(d.status)))  # type: ignore[misc]
        for name, status in decisions.pair_statuses.items():
            if status != self.pair_statuses.get(name):
                writes.append(lambda n=name, s=status: self.pair_statuses.__setitem__(n, dict(s)))  # type: ignore[misc]
        whole = decisions.cluster_status
        if whole is not None and whole != self.cluster_status and not outdated:
            writes.append(lambda: setattr(self, "cluster_status", whole))
        if decisions.restart is not None and not outdated:
            writes.append(lambda: self._restart(str(decisions.restart)))
        return writes

    def _apply(self, group: FakeGroup, replicas: int, drain: str) -> None:
        group.replicas = group.recorded = replicas
        group.drain = drain

    def _grow(self, claim: str, size: int) -> None:
        for name, found in self.claims.items():
            if found.name == claim:
                self.claims[name] = Claim(found.name, found.uid, size, size, found.expandable)

    def _restart(self, name: str) -> None:
        self.restarts.append(name)
        self.stop(self.pods[name])

    def step(self, writes: int | None = None, outdated: Collection[str] = ()) -> Decisions:
        """Decide and write; with `writes` the operator is killed after that many of them."""
        decisions = self.decide()
        for write in self.writes(decisions, outdated)[:writes]:
            write()
        self.events += decisions.events
        self.tick()
        return decisions

    def settle(self, limit: int = 200) -> None:
        """Until nothing is left to write and nothing moves."""
        quiet = 0
        for _ in range(limit):
            before = self.state()
            self.step()
            quiet = quiet + 1 if self.state() == before else 0
            if quiet == QUIET:
                return
        raise AssertionError(f"did not settle: {self.state()}")

    def state(self) -> dict[str, Any]:
        """All that must be the same in the end, however the operator got there: without times and generations."""
        table = None
        if self.table is not None:
            table = ([(s.name, s.state) for s in self.table.servers], self.table.rows)
        return {
            "groups": {
                g.name: (g.wanted, g.replicas, g.recorded, g.drain, _timeless(g.status)) for g in self.groups.values()
            },
            "pods": {name: (pod.revision, self.ready(name)) for name, pod in sorted(self.pods.items())},
            "table": table,
            "cluster": _timeless(self.cluster_status),
            "pairs": {name: _timeless(status) for name, status in self.pair_statuses.items()},
            "claims": {name: claim.requested for name, claim in sorted(self.claims.items())},
        }

    def phases(self) -> dict[str, str]:
        return {e["name"]: e["phase"] for g in self.groups.values() for e in g.status.get("servers", [])}


def _timeless(raw: Any) -> Any:
    if isinstance(raw, dict):
        skipped = ("lastTransitionTime", "generation", "observedGeneration")
        return {key: _timeless(value) for key, value in raw.items() if key not in skipped}
    return [_timeless(item) for item in raw] if isinstance(raw, list) else raw
