"""What is known of the world, trimmed: how it is held, and the Observation of one MailCluster made of it.

Invariant: an object of an Observation is the same object as long as nothing it is made of has changed (`Group` above
all), so that those who cache by identity compare nothing.
Refuses to hold whole objects (see `trim.py`), and to change by itself: `store.py` fills it. Read by the reconciler.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mailarray.contract.mirroring_table import MirroringTable
from mailarray.contract.resources.mailserver import MailServerSpec
from mailarray_operator.cluster import kinds, trim
from mailarray_operator.cluster.kinds import Kind
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
)

Json = Mapping[str, Any]
Key = tuple[str, str]  # namespace, name; of a MailCluster where nothing else is said
Thing = tuple[str, str, str]  # kind, namespace, name


@dataclass(slots=True)
class _Group:
    """All that belongs to one MailServer, or would if it were there."""

    cluster: str = ""
    resource: Resource | None = None
    spec: MailServerSpec | None = None
    version: str = ""
    stateful_set: StatefulSet | None = None
    pods: dict[str, Pod] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    built: Group | None = None


@dataclass(slots=True)
class _Cluster:
    """What belongs to a whole MailCluster."""

    resource: ClusterResource | None = None
    groups: set[str] = field(default_factory=set)
    pairs: dict[str, PairResource] = field(default_factory=dict)
    table: MirroringTable | None = None
    access: tuple[int, int] = (0, 0)  # ready, and as many as its spec asks for: somebody may have scaled it
    access_pods: dict[str, Pod] = field(default_factory=dict)
    database: tuple[bool, int | None] | None = None  # ready, size in its volume claim template

    database_claimed: bool = False  # its volume is there

    def empty(self) -> bool:
        return self == _Cluster()


class Held:
    """See the module."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.asked_since = 0.0  # by that clock; set by the reporter
        self._clusters: defaultdict[Key, _Cluster] = defaultdict(_Cluster)
        self._groups: defaultdict[Key, _Group] = defaultdict(_Group)
        self._pair_clusters: dict[Key, str] = {}
        self._zones: dict[str, str] = {}  # node -> zone
        self._external_ips: dict[str, tuple[str, ...]] = {}  # node -> addresses in the outside world
        self._service_ips: dict[Key, tuple[str, ...]] = {}  # Service -> addresses of its load balancer
        self.mx: dict[Key, Mx] = {}  # what became of the MX records; set by the steering
        self._expandable: dict[str, bool] = {}  # StorageClass -> whether its volumes grow
        self._claim_classes: dict[Key, str] = {}
        self._mounted: dict[Key, tuple[str, ...]] = {}  # pod or StatefulSet ("sts/name") -> ConfigMaps
        self._secrets: dict[Key, frozenset[str] | None] = {}
        self._secret_bytes: dict[Key, int] = {}
        self._versions: dict[Thing, int] = {}
        self.managed: dict[Thing, trim.Managed] = {}
        self.reports: dict[Key, ServerReport] = {}  # namespace, server

    def keys(self) -> list[Key]:
        """Every MailCluster that is there, or that a MailServer or MirrorPair belongs to."""
        return [key for key, cluster in self._clusters.items() if cluster.resource or cluster.groups or cluster.pairs]

    def names_of(self, kind: Kind) -> list[Key]:
        """The custom resources of a kind that the store believes in."""
        if kind is kinds.MAIL_CLUSTER:
            return [key for key, cluster in self._clusters.items() if cluster.resource]
        if kind is kinds.MAIL_SERVER:
            return [key for key, group in self._groups.items() if group.resource]
        return list(self._pair_clusters)

    def observation(self, key: Key) -> Observation:
        """Everything of one MailCluster."""
        namespace, name = key
        cluster = self._clusters.get(key) or _Cluster()
        spec = cluster.resource.spec if cluster.resource else None
        groups = {group: self._group((namespace, group)) for group in sorted(cluster.groups)}
        secrets = self.wanted_secrets(key)
        own_database = spec is not None and spec.catalog.database_secret_ref is None
        return Observation(
            namespace=namespace,
            name=name,
            cluster=cluster.resource,
            groups=groups,
            pairs=dict(sorted(cluster.pairs.items())),
            table=cluster.table,
            secrets={s: self._secrets.get((namespace, s)) for s in sorted(secrets)},
            access_ready=cluster.access[0],
            database_ready=bool(cluster.database and cluster.database[0]) if own_database else None,
            database_claim_size=cluster.database[1] if cluster.database else None,
            database_claimed=own_database and cluster.database_claimed,
            clock=self._clock(),
            since=self.asked_since,
            secret_bytes={s: size for s in secrets if (size := self._secret_bytes.get((namespace, s))) is not None},
            reports={
                server: report
                for group in groups.values()
                for server in group.pods
                if (report := self.reports.get((namespace, server))) is not None
            },
            mx=self.mx.get(key),
        )

    def _group(self, key: Key) -> Group:
        group = self._groups[key]
        if group.built is None:
            assert group.resource is not None  # it stands in its cluster's groups
            group.built = Group(group.resource, group.spec, group.stateful_set, dict(group.pods), dict(group.claims))
        return group.built

    def stateful_set(self, key: Key) -> StatefulSet | None:
        """The StatefulSet of a MailServer, as it is known now."""
        group = self._groups.get(key)
        return group.stateful_set if group else None

    def object_version(self, thing: Thing) -> str:
        """Resource version of an object that the operator applies; "" when it is not there."""
        version = self._versions.get(thing)
        return str(version) if version else ""

    def version(self, key: Key) -> str:
        """Resource version of a MailServer, "" when it is not there."""
        group = self._groups.get(key)
        return group.version if group else ""

    def wanted_secrets(self, key: Key) -> frozenset[str]:
        """Names of the Secrets that a MailCluster refers to, or owns."""
        cluster = self._clusters.get(key)
        if cluster is None or cluster.resource is None:
            return frozenset()
        return trim.referenced_secrets(key[1], cluster.resource.spec)

    def secrets_known(self, key: Key) -> bool:
        """Whether each of them has been looked for."""
        return all((key[0], name) in self._secrets for name in self.wanted_secrets(key))

    def server_pods(self, key: Key) -> list[Pod]:
        """All pods of a cluster's servers."""
        cluster = self._clusters.get(key)
        if cluster is None:
            return []
        return [pod for group in cluster.groups for pod in self._groups[key[0], group].pods.values()]

    def access_pods(self, key: Key) -> list[Pod]:
        """All pods of a cluster's access servers."""
        cluster = self._clusters.get(key)
        return list(cluster.access_pods.values()) if cluster else []

    def outside(self, expose: str, namespace: str, service: str, pod: Pod | None) -> tuple[str, ...]:
        """Addresses at which the world reaches a pod: of its Service's load balancer, or of its node."""
        if expose == "LoadBalancer":
            return self._service_ips.get((namespace, service), ())
        if expose in ("HostPort", "NodePort") and pod is not None and pod.node:
            return self._external_ips.get(pod.node) or pod.host_ips
        return ()

    def mounted(self, namespace: str) -> set[str]:
        """ConfigMaps that any pod or StatefulSet of a namespace refers to."""
        return {name for (where, _), found in self._mounted.items() if where == namespace for name in found}

    def managed_of(self, key: Key) -> Iterable[tuple[Thing, trim.Managed]]:
        """What the operator has applied for a MailCluster, as it stands."""
        return [(t, m) for t, m in self.managed.items() if t[1] == key[0] and m.cluster == key[1]]

    def sizes(self) -> dict[str, int]:
        """For metrics: how much is held."""
        return {
            "clusters": len(self._clusters),
            "groups": len(self._groups),
            "pods": sum(len(group.pods) for group in self._groups.values()),
            "managed": len(self.managed),
        }

    def _forget_empty(self, key: Key) -> None:
        if key in self._clusters and self._clusters[key].empty():
            del self._clusters[key]

    def _forget_empty_group(self, key: Key) -> None:
        group = self._groups[key]
        if group.resource is None and group.stateful_set is None and not group.pods and not group.claims:
            del self._groups[key]
