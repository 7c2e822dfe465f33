"""A plan as DNS records: one DNSEndpoint for each domain, and the records as a person would read them.

Invariants
- Every domain has the same MX records; addresses stand once, in the DNSEndpoint of the domain that their name lies in,
  else in the first one's.
- A name is in an MX record only when something answers to it: a server's own name, an external name, or a shared name
  with at least one address.
- No record is made up: when nothing can be published there is no MX record set, and what is published stays.

Called by the operator; pure. Refuses to know how addresses were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailarray_operator.mx.endpoints import RecordSet, address_sets, ascii_name, endpoint, record_set
from mailarray_operator.mx.published import MxPlan, Target

SHARED_HOSTNAME = "mx-shared-{slot}.{domain}"  # no server is named like this


@dataclass(frozen=True, slots=True)
class Records:
    """What is to be published."""

    endpoints: tuple[dict[str, Any], ...]  # manifests, in the order of the domains
    mx: tuple[str, ...]  # of every domain, like "10 mx-a-0.mail.example"; empty: publish nothing, remove nothing
    left_out: tuple[str, ...]  # servers of the plan that no record leads to: hostname or address is not known
    named: tuple[tuple[str, Target], ...] = ()  # the host of each target that has one, best first


def records(
    plan: MxPlan,
    *,
    cluster: str,
    namespace: str,
    domains: Sequence[str],
    hostnames: Mapping[str, str],
    addresses: Mapping[str, Sequence[str]],
    shared_hostname: str = SHARED_HOSTNAME,
) -> Records:
    """`hostnames` and `addresses` by server. A server without addresses keeps its own records elsewhere.

    `shared_hostname` is the pattern of names that several servers share; {domain} is the first domain.
    """
    mx: dict[str, int] = {}  # host -> preference; the best one, should a person have named two servers alike
    behind: dict[str, set[str]] = {}  # host -> addresses
    left_out: list[str] = []
    named: list[tuple[str, Target]] = []
    for server, found in sorted(addresses.items()):
        if server in hostnames and found:
            behind.setdefault(ascii_name(hostnames[server]), set()).update(found)
    for target in plan.targets:
        host, lost = _host(target, hostnames, addresses, shared_hostname, domains)
        left_out += lost
        if host is None:
            continue
        named.append((host, target))
        mx[host] = min(target.preference, mx.get(host, target.preference))
        if target.slot:
            behind.setdefault(host, set()).update(a for server in target.servers for a in addresses.get(server, ()))
    lines = sorted(f"{preference} {host}" for host, preference in mx.items())
    placed: dict[str, list[RecordSet]] = {domain: record_set(domain, "MX", lines, plan.ttl) for domain in domains}
    homes = {ascii_name(domain): domain for domain in domains}
    for host, found_there in sorted(behind.items()):
        placed[_home(host, homes, domains[0])] += address_sets(host, found_there, plan.ttl)
    manifests = tuple(endpoint(cluster, namespace, domain, sets) for domain, sets in placed.items() if sets)
    return Records(manifests, tuple(lines), tuple(sorted(left_out)), tuple(named))


def _host(
    target: Target,
    hostnames: Mapping[str, str],
    addresses: Mapping[str, Sequence[str]],
    shared_hostname: str,
    domains: Sequence[str],
) -> tuple[str | None, list[str]]:
    """The name to publish, and the servers that it does not lead to."""
    if target.slot:
        lost = [server for server in target.servers if not addresses.get(server)]
        name = shared_hostname.format(slot=target.slot, domain=domains[0])
        return (ascii_name(name) if len(lost) < len(target.servers) else None), lost
    (server,) = target.servers
    found = server if target.external else hostnames.get(server)
    return (ascii_name(found), []) if found else (None, [server])


def _home(host: str, homes: Mapping[str, str], otherwise: str) -> str:
    """The longest domain that a host lies in; `homes` has the domains by how DNS writes them."""
    rest = host
    while rest:
        if rest in homes:
            return homes[rest]
        rest = rest.partition(".")[2]
    return otherwise
