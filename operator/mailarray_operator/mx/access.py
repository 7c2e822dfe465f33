"""The access servers' names: addresses behind the one name that clients are set to, and SRV records of them.

Invariants
- The name carries the addresses of the best band, filled up from the next ones to `min_targets`: A records know no
  preference, so who stands back must not be among them, unless too few would be left.
- SRV records (RFC 2782, RFC 6186) have the band as their priority, so clients that read them fall back by themselves.

The plan comes from the same `planning.plan`, with reports of the access servers. Called by the operator; pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mailarray_operator.mx.endpoints import address_sets, ascii_name, endpoint, record_set
from mailarray_operator.mx.published import MxPlan

POP3_SERVICES: Mapping[str, int] = {"_pop3._tcp": 110, "_pop3s._tcp": 995}
WEIGHT = 10  # all alike: load is told by priority


def access_records(
    plan: MxPlan,
    *,
    cluster: str,
    namespace: str,
    hostname: str,
    addresses: Mapping[str, Sequence[str]],
    min_targets: int = 2,
    max_targets: int = 20,
) -> dict[str, Any] | None:
    """The DNSEndpoint of the name; None when no address is known: what is published then stays."""
    chosen: list[str] = []
    best: int | None = None
    for target in plan.targets:
        usable = [server for server in target.servers if addresses.get(server)]
        best = target.preference if best is None and usable else best
        if target.preference == best or len(chosen) < min_targets:
            chosen += usable
    found = [address for server in chosen[:max_targets] for address in addresses[server]]
    sets = address_sets(hostname, found, plan.ttl)
    return endpoint(cluster, namespace, "access", sets) if sets else None


def service_records(
    plan: MxPlan,
    *,
    cluster: str,
    namespace: str,
    domains: Sequence[str],
    hostname: str,
    hostnames: Mapping[str, str],
    services: Mapping[str, int] = POP3_SERVICES,
) -> dict[str, Any] | None:
    """The DNSEndpoint of the SRV records. `hostnames` of access servers with names of their own; without any, all lead
    to `hostname`. An object of its own, since not every ExternalDNS can hold SRV records (`docs/mx.md`).
    """
    hosts: dict[str, int] = {}
    for target in plan.targets:
        for server in target.servers:
            host = ascii_name(hostnames.get(server, hostname))
            hosts[host] = min(target.preference, hosts.get(host, target.preference))
    sets = [
        one
        for domain in domains
        for service, port in services.items()
        for one in record_set(
            f"{service}.{domain}",
            "SRV",
            (f"{priority} {WEIGHT} {port} {host}" for host, priority in hosts.items()),
            plan.ttl,
        )
    ]
    return endpoint(cluster, namespace, "access-services", sets) if sets else None
