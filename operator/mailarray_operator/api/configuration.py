"""What the operator is told at its start, once; passed in everywhere, changed nowhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """From the command line of `mailarray-operator run`."""

    namespaces: tuple[str, ...] = ()  # watched; empty: all
    dataplane_image: str  # containers smtp, catalog, access
    postgresql_image: str  # the catalog's database, when the operator runs it itself
    image_pull_policy: str = "IfNotPresent"
    cluster_domain: str = "cluster.local"  # of Kubernetes' DNS
    operator_namespace: str = "default"  # its own; the Lease lies here, and network policies let its pods in
    lease_name: str = "mailarray-operator"
    leader_elect: bool = True
    listen: str = "0.0.0.0:8080"  # probes and metrics
    log_level: str = "info"
    dns_servers: tuple[str, ...] = ()  # host or host:port; asked what DNS says; empty: the name servers of each zone
