"""What the operator knows of one MailCluster at one moment: trimmed, typed, frozen.

Made by `cluster/` from watches and from the servers' own status; the only input of decisions and of rendering.
Holds nothing that no decision needs, since there may be hundreds of groups (a pod's body is 10 KiB, this is 300 bytes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mailarray.contract.mirroring_table import MirroringTable
from mailarray.contract.resources.mailcluster import MailClusterSpec
from mailarray.contract.resources.mailserver import MailServerSpec
from mailarray.contract.resources.mirrorpair import MirrorPairSpec
from mailarray_operator.plan.conditions import Condition


@dataclass(frozen=True, slots=True)
class Resource:
    """What every custom resource has."""

    name: str
    uid: str
    generation: int
    status: Mapping[str, Any]  # as it was last written
    error: str = ""  # one sentence when the spec cannot be read; spec is then None
    created: str = ""  # metadata.creationTimestamp: of two that want the same, the older one wins


@dataclass(frozen=True, slots=True)
class ClusterResource:
    """A MailCluster."""

    resource: Resource
    spec: MailClusterSpec | None


@dataclass(frozen=True, slots=True)
class PairResource:
    """A MirrorPair."""

    resource: Resource
    spec: MirrorPairSpec | None


@dataclass(frozen=True, slots=True)
class Pod:
    """One server's pod."""

    name: str
    uid: str
    node: str  # "" while not scheduled
    zone: str  # "" when unknown
    ip: str
    ready: bool
    terminating: bool
    revision: str  # label controller-revision-hash
    claim_problem: str = ""  # why it is pending or crashing, one sentence, for a person
    failures: Mapping[str, str] = field(default_factory=dict)  # containers that ended and are not well again: why
    started: frozenset[str] = frozenset()  # containers that got as far as answering, also when they do not now
    host_ips: tuple[str, ...] = ()  # addresses of its node inside of the cluster's network


@dataclass(frozen=True, slots=True)
class Claim:
    """The PersistentVolumeClaim of one server."""

    name: str
    uid: str
    requested: int  # bytes, spec.resources.requests.storage
    capacity: int  # bytes, status.capacity.storage; 0 while unbound, and when it is lost
    expandable: bool | None = None  # its StorageClass allows growing; None: not known
    lost: bool = False  # its phase: it was bound, and its disk is gone


@dataclass(frozen=True, slots=True)
class StatefulSet:
    """The StatefulSet of a group, as it stands in the API server."""

    replicas: int  # spec.replicas: ours, or somebody's wish
    recorded: int | None  # annotation: the operator's own last count
    update_revision: str  # status.updateRevision; "" until the controller has seen the latest generation
    drain: str = ""  # annotation: the drain's persisted state, JSON (plan/drain.py)
    claim_size: int | None = None  # bytes, in its volume claim template, which can never be changed


@dataclass(frozen=True, slots=True)
class VolumeReport:
    """What the two processes of one volume said; None: does not answer."""

    sidecar: Mapping[str, Any] | None
    writer: Mapping[str, Any] | None
    heard: float | None = field(default=None, compare=False)  # when both answered last, as in ServerReport; None: never


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What a server's two processes said of themselves; fields as in their /v1/status. Of a server with several volumes
    these are the first one's, and the others stand in `further`."""

    heard: float  # seconds, the operator's monotonic clock, of the last answer of a sidecar
    sidecar: Mapping[str, Any] | None  # None: does not answer
    writer: Mapping[str, Any] | None
    pod: str = ""  # uid of the pod that was asked: what a pod of the same name said before counts for nothing
    further: tuple[VolumeReport, ...] = ()  # of volumes 1, 2, ...
    first_heard: float | None = field(default=None, compare=False)  # when both of the first volume answered last

    @property
    def volumes(self) -> tuple[VolumeReport, ...]:
        """All of them."""
        return VolumeReport(self.sidecar, self.writer, self.first_heard), *self.further


@dataclass(frozen=True, slots=True)
class Group:
    """A MailServer with all that belongs to it."""

    resource: Resource
    spec: MailServerSpec | None
    stateful_set: StatefulSet | None = None
    pods: Mapping[str, Pod] = field(default_factory=dict)  # by name
    claims: Mapping[str, Claim] = field(default_factory=dict)  # by the names of volumes


@dataclass(frozen=True, slots=True)
class Mx:
    """What became of the MX records; made by `cluster/steering.py`, which plans and publishes them beside all this."""

    status: Mapping[str, Any]  # `mx` and `mxPlan` of the MailCluster's status
    conditions: tuple[Condition, ...]
    named: frozenset[str]  # servers that DNS names or may name: senders come to them
    gone: Mapping[str, float]  # seconds since 1970: servers that DNS named once, and since when it does not
    ttl: int  # seconds


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything of one MailCluster, or of MailServers whose MailCluster is not there (cluster None)."""

    namespace: str
    name: str
    cluster: ClusterResource | None
    groups: Mapping[str, Group]
    pairs: Mapping[str, PairResource] = field(default_factory=dict)
    table: MirroringTable | None = None  # as its ConfigMap holds it
    secrets: Mapping[str, frozenset[str] | None] = field(default_factory=dict)  # referenced ones: keys; None: not there
    access_ready: int = 0
    database_ready: bool | None = None  # None: the operator runs none
    database_claim_size: int | None = None  # bytes, in its StatefulSet's volume claim template; None: there is none yet
    reports: Mapping[str, ServerReport] = field(default_factory=dict)  # by server name
    clock: float = 0.0  # seconds, the monotonic clock of `ServerReport.heard`, at the moment of this observation
    since: float = 0.0  # seconds, the same clock: servers are asked since then; before it nobody could be heard
    secret_bytes: Mapping[str, int] = field(default_factory=dict)  # size of all values of a referenced Secret
    mx: Mx | None = None  # None: nothing is known yet, since the operator has just begun
    database_claimed: bool = False  # the volume of the database that the operator runs is there
    not_evictable: str = ""  # server whose pod may not be evicted now: a disruption budget refuses it
