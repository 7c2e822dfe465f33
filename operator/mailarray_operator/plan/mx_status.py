"""What a person reads of the MX records: are they planned, and does DNS answer what was asked for. Pure.

Invariants
- Published is what a DNS query returned, never what was asked for.
- A change has its time (`GRACE` and a TTL) before anybody is warned, and changes that follow each other have
  `PATIENCE` times as long: DNS that follows is never far behind. The sentence then says what to do about the very
  link of the chain that broke: the kind DNSEndpoint, ExternalDNS, its provider, or the person who keeps DNS by hand.

Called by `cluster/steering.py` with what it found; the result reaches the status through the Observation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from mailarray_operator.plan import reasons
from mailarray_operator.plan.conditions import Condition, names, timestamp

DNS_PUBLISHED: Final = "DNSPublished"
MX_PLANNED: Final = "MXPlanned"
KEPT_TYPES: Final = (DNS_PUBLISHED, MX_PLANNED)  # stay in the status while nothing is known yet

GRACE: Final = 120.0  # seconds; ExternalDNS looks once a minute by default, and its provider takes a while
PATIENCE: Final = 3  # times the grace that DNS may differ while records keep changing
LEAVE_MAX_TTL: Final = 600.0  # seconds of a TTL that a drain waits for at most
MAX_DOMAINS: Final = 50  # in status.mx; of 500 domains the ones that differ come first
MAX_RECORDS: Final = 6  # in a sentence

Records = tuple[str, ...]


def leave_limit(ttl: int) -> float:
    """Seconds after which a drain goes on, whatever DNS says or does not say."""
    return min(float(ttl), LEAVE_MAX_TTL) + GRACE


@dataclass(frozen=True, slots=True)
class Difference:
    """One record set that DNS answers otherwise than asked for."""

    name: str
    type: str
    wanted: Records
    found: Records


@dataclass(frozen=True, slots=True)
class Found:
    """What came of publishing."""

    external_dns: bool  # spec.mx.publish
    requested: Records  # of every domain
    changed_at: float  # seconds since 1970, of the requested records
    ttl: int
    missing: bool = False  # there is no kind DNSEndpoint
    refused: str = ""  # why a DNSEndpoint cannot be written
    behind: Records = ()  # DNSEndpoints whose latest generation ExternalDNS has not read
    kept: Records = ()  # DNSEndpoints that are there although spec.mx.publish is None
    answers: Mapping[str, Records] | None = None  # domain -> MX records; None: nobody was asked yet
    silent: Mapping[str, str] | None = None  # domain -> why there is no answer
    differing: tuple[Difference, ...] = ()
    differing_since: float | None = None  # seconds since 1970, without a break
    right_addresses: int = 0  # A and AAAA record sets of ours that DNS answers as asked for


def dns_published(found: Found, now: float) -> Condition | None:
    """None: nothing is known yet, and what was said before stays."""
    made = _judge(found, now)
    if made is None or not found.kept:
        return made
    which, stay = (found.kept[0], "its records stay") if len(found.kept) == 1 else (names(found.kept), "theirs stay")
    more = f"; spec.mx.publish is None, and DNSEndpoint {which} from before is still there: {stay} until you delete it"
    return Condition(made.type, made.status, made.reason, made.message + more)


def _judge(found: Found, now: float) -> Condition | None:
    def no(reason: str, message: str) -> Condition:
        return Condition(DNS_PUBLISHED, False, reason, message)

    if not found.requested:
        return no(reasons.NO_TARGETS, "no server takes mail yet, so no MX record is asked for")
    if found.external_dns and found.missing:
        return no(
            reasons.EXTERNAL_DNS_MISSING,
            "the kind DNSEndpoint is not installed, so nothing is published: install ExternalDNS with its CRD and "
            "--source=crd, or set spec.mx.publish to None and enter the records of status.mx by hand",
        )
    if found.external_dns and found.refused:
        return no(reasons.PUBLISHING_REFUSED, f"the API server refuses a DNSEndpoint: {found.refused}")
    if found.answers is None:
        return None
    if found.silent:
        domain, why = min(found.silent.items())
        others = f" (and of {len(found.silent) - 1} more)" if len(found.silent) > 1 else ""
        text = f"the name servers of {domain}{others} do not answer: {why}; what they answered last is in status.mx"
        return no(reasons.NAME_SERVERS_SILENT, text)
    if not found.differing:
        count = len(found.answers)
        of = "1 domain" if count == 1 else f"{count} domains"
        return Condition(DNS_PUBLISHED, True, reasons.PUBLISHED, f"DNS answers the MX records of {of} as asked for")
    differs = _difference(found.differing)
    grace = GRACE + found.ttl
    since = found.changed_at if found.differing_since is None else found.differing_since
    if now - found.changed_at < grace and now - since < PATIENCE * grace:
        return no(reasons.PUBLISHING, f"the records are on their way to DNS: {differs}")
    if not found.external_dns:
        text = f"spec.mx.publish is None: enter the records of status.mx into DNS by hand; {differs}"
        return no(reasons.RECORDS_DIFFER, text)
    if found.behind:
        return no(
            reasons.EXTERNAL_DNS_NOT_READING,
            f"ExternalDNS has not read the DNSEndpoint {names(found.behind)}: see whether it runs with --source=crd, "
            f"for this namespace and without a label filter that leaves it out; {differs}",
        )
    lacking = [d for d in found.differing if d.type == "MX" and not d.found]
    if found.right_addresses and lacking and all(d.type == "MX" for d in found.differing):
        return no(
            reasons.MX_NOT_HELD,
            "ExternalDNS publishes the addresses and leaves out the MX records: start it with "
            f"--managed-record-types=MX, or take a provider that can hold MX records; {differs}",
        )
    return no(
        reasons.RECORDS_DIFFER,
        "DNS answers otherwise than asked for: look at the log of ExternalDNS, whether somebody else keeps these "
        f"records, and whether --managed-record-types has MX, A and AAAA; {differs}",
    )


def _difference(differing: Sequence[Difference]) -> str:
    first = differing[0]
    more = f", and {len(differing) - 1} more differ" if len(differing) > 1 else ""
    return f"{first.name} {first.type} is {_records(first.found)}, asked for is {_records(first.wanted)}{more}"


def _records(records: Records) -> str:
    if not records:
        return "not there"
    shown = ", ".join(records[:MAX_RECORDS])
    return shown if len(records) <= MAX_RECORDS else f"{shown} and {len(records) - MAX_RECORDS} more"


def mx_planned(targets: int, stale_since: float | None) -> Condition:
    """Whether the records follow what servers say."""
    if not targets:
        return Condition(MX_PLANNED, False, reasons.NO_TARGETS, "no server takes mail yet")
    if stale_since is not None:
        since = timestamp(datetime.fromtimestamp(stale_since, UTC))
        text = f"no server was heard of since {since}, so the last plan stays; see whether the operator reaches them"
        return Condition(MX_PLANNED, False, reasons.LOADS_UNKNOWN, text)
    return Condition(MX_PLANNED, True, reasons.PLANNED, "the MX records follow what the servers say of their load")


def domains_status(domains: Sequence[str], found: Found, published: Mapping[str, Records]) -> list[dict[str, Any]]:
    """`status.mx`; `published` is what each domain's name servers answered last."""
    entries: list[dict[str, Any]] = []
    differing = [domain for domain in domains if published.get(domain) != found.requested]
    shown = domains if len(domains) <= MAX_DOMAINS else (differing or list(domains))[:MAX_DOMAINS]
    for domain in shown:
        entry: dict[str, Any] = {"domain": domain, "requested": list(found.requested)}
        if domain in published:
            entry["published"] = list(published[domain])
        if found.requested:
            entry["changedAt"] = timestamp(datetime.fromtimestamp(found.changed_at, UTC))
        entries.append(entry)
    return entries
