"""One DNSEndpoint, in the form that ExternalDNS takes.

Invariants
- Targets are sorted as text and unique, no name ends with a dot, and there is one TTL. ExternalDNS compares what it
  wants with what a provider answers in that form; anything else is written again and again, or refused.
- A record set without targets is not written at all: ExternalDNS would fill it with its default targets.

Called by `rendering` and `access`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Literal

from mailarray_operator.api import names

API_VERSION = "externaldns.k8s.io/v1alpha1"
KIND = "DNSEndpoint"
MAX_NAME = 253  # RFC 1123 subdomain, as Kubernetes has it

RecordType = Literal["A", "AAAA", "MX", "SRV"]
RecordSet = dict[str, Any]


def record_set(name: str, kind: RecordType, targets: Iterable[str], ttl: int) -> list[RecordSet]:
    """One, or none when there are no targets."""
    found = sorted(set(targets))
    return [{"dnsName": ascii_name(name), "recordType": kind, "recordTTL": ttl, "targets": found}] if found else []


def address_sets(name: str, addresses: Iterable[str], ttl: int) -> list[RecordSet]:
    """A, then AAAA. What is not an address raises ValueError: a load balancer's hostname needs no record of ours."""
    parsed: list[IPv4Address | IPv6Address] = [ip_address(address) for address in addresses]
    four = [str(address) for address in parsed if address.version == 4]
    six = [str(address) for address in parsed if address.version == 6]
    return record_set(name, "A", four, ttl) + record_set(name, "AAAA", six, ttl)


def endpoint(cluster: str, namespace: str, suffix: str, sets: Sequence[RecordSet]) -> dict[str, Any]:
    """The manifest; its record sets are in a fixed order."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": object_name(cluster, suffix),
            "namespace": namespace,
            "labels": {names.LABEL_CLUSTER: cluster, names.LABEL_MANAGED_BY: names.FIELD_MANAGER},
        },
        "spec": {"endpoints": sorted(sets, key=lambda one: (one["dnsName"], one["recordType"]))},
    }


def object_name(cluster: str, suffix: str) -> str:
    """Readable where Kubernetes allows it, else with a hash."""
    name = f"{cluster}-{ascii_name(suffix)}"
    if len(name) <= MAX_NAME and re.fullmatch(
        r"[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*", name
    ):
        return name
    return f"{cluster}-{blake2b(suffix.encode(), digest_size=10).hexdigest()}"


def ascii_name(name: str) -> str:
    """As DNS carries it: lower case, no dot at the end, IDNA for what is not ASCII, where it can."""
    name = name.rstrip(".").lower()
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return name
