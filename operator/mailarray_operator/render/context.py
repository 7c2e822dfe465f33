"""What renderers are told: one frozen object for the cluster, one for a MailServer.

Both hold exactly what manifests depend on, and leave out what changes every second (status, pods, reports). So a
caller may keep the manifests of a group for as long as both objects are equal to the ones they were made of: with 500
groups, a change of one renders one. Manifests may share parts with the specs: callers may add to `metadata`, and
change nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mailarray.contract.resources.mailcluster import MailClusterSpec
from mailarray.contract.resources.mailserver import MailServerSpec
from mailarray_operator.api.configuration import Configuration
from mailarray_operator.plan.decisions import GroupDecision
from mailarray_operator.plan.observation import Group, Observation

Manifest = dict[str, Any]  # one object as JSON has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One MailCluster."""

    configuration: Configuration
    namespace: str
    name: str
    uid: str
    spec: MailClusterSpec
    database_claim_size: int | None = None  # bytes, as the database's StatefulSet was first created with

    @classmethod
    def of(cls, observation: Observation, configuration: Configuration) -> Context | None:
        """None when there is no MailCluster, or none that can be read."""
        cluster = observation.cluster
        if cluster is None or cluster.spec is None:
            return None
        return cls(
            configuration=configuration,
            namespace=observation.namespace,
            name=observation.name,
            uid=cluster.resource.uid,
            spec=cluster.spec,
            database_claim_size=observation.database_claim_size,
        )

    @property
    def runs_database(self) -> bool:
        """Whether the operator runs the catalog's database itself."""
        return self.spec.catalog.database_secret_ref is None

    def host(self, service: str) -> str:
        """The DNS name of a Service of this namespace."""
        return f"{service}.{self.namespace}.svc.{self.configuration.cluster_domain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerGroup:
    """One MailServer."""

    name: str
    uid: str
    spec: MailServerSpec
    replicas: int
    drain: str  # JSON, "" when nothing drains
    claim_size: int | None = None  # bytes, as its StatefulSet was first created with; None: it is created now

    @classmethod
    def of(cls, group: Group, decision: GroupDecision) -> ServerGroup | None:
        """None when the MailServer cannot be read: what runs of it stays as it is."""
        if group.spec is None:
            return None
        return cls(
            name=group.resource.name,
            uid=group.resource.uid,
            spec=group.spec,
            replicas=decision.replicas,
            drain=decision.drain,
            claim_size=None if group.stateful_set is None else group.stateful_set.claim_size,
        )
