"""The plan of the MX records and what became of it, as the status shows it. Pure; made by the steering."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mailarray_operator.cluster.dns_answers import Answers
from mailarray_operator.cluster.endpoints import Endpoints
from mailarray_operator.cluster.mx_inputs import Inputs
from mailarray_operator.mx import MxPlan, Records
from mailarray_operator.mx.endpoints import ascii_name
from mailarray_operator.plan import mx_status
from mailarray_operator.plan.conditions import timestamp
from mailarray_operator.plan.observation import Mx

BANDS = ("InService", "StandingBack", "LastResort")
MAX_LEFT_OUT = 20  # servers that are named in the status
MAX_ADDRESSES = 50  # of one name


def view_of(
    inputs: Inputs,
    plan: MxPlan | None,
    records: Records | None,
    endpoints: Endpoints,
    answers: Answers,
    changed_at: float,
    stale_since: float | None,
    now: float,
) -> Mx:
    """`changed_at`, `stale_since` and `now`: seconds since 1970."""
    external_dns = inputs.spec.mx.publish == "ExternalDNS"
    found = mx_status.Found(
        external_dns=external_dns,
        requested=records.mx if records is not None else (),
        changed_at=changed_at,
        ttl=inputs.spec.mx.ttl,
        missing=endpoints.missing,
        refused=endpoints.refused,
        behind=endpoints.behind,
        kept=() if external_dns else tuple(sorted(endpoints.there)),
        answers=answers.published if answers.asked else None,
        silent=answers.silent,
        differing=answers.differing,
        differing_since=answers.differing_since,
        right_addresses=answers.right_addresses,
    )
    published = mx_status.dns_published(found, now)
    planned = mx_status.mx_planned(0 if records is None else len(records.mx), stale_since)
    return Mx(
        status={
            "mx": mx_status.domains_status(tuple(map(ascii_name, inputs.domains)), found, answers.published),
            "mxPlan": _plan_status(inputs, plan, records, stale_since),
        },
        conditions=(planned,) if published is None else (published, planned),
        named=answers.named,
        gone=dict(answers.gone),
        ttl=inputs.spec.mx.ttl,
    )


def _plan_status(
    inputs: Inputs, plan: MxPlan | None, records: Records | None, stale_since: float | None
) -> dict[str, Any]:
    shown: dict[str, Any] = {"strategy": inputs.spec.mx.strategy}
    if stale_since is not None:
        shown["staleSince"] = timestamp(datetime.fromtimestamp(stale_since, UTC))
    if plan is None or records is None:
        return shown
    members = {member.server: member for member in plan.members}
    behind = _addresses(records)
    targets: dict[str, dict[str, Any]] = {}
    for host, target in records.named:
        member = members[target.servers[0]]
        entry: dict[str, Any] = {"hostname": host, "preference": target.preference, "band": _band(member.band)}
        if len(target.servers) > 1 or target.slot:
            entry["servers"] = len(target.servers)
        else:
            if not target.external:
                entry["server"] = target.servers[0]
            entry["reason"] = member.reason
            if member.since:
                entry["since"] = timestamp(datetime.fromtimestamp(member.since, UTC))
        if host in behind:
            entry["addresses"] = behind[host][:MAX_ADDRESSES]
        targets.setdefault(host, entry)
    shown["targets"] = list(targets.values())
    if records.left_out:
        shown["leftOut"] = list(records.left_out[:MAX_LEFT_OUT])
    return shown


def _band(band: int | None) -> str:
    return BANDS[min(band or 0, len(BANDS) - 1)]


def _addresses(records: Records) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for manifest in records.endpoints:
        for one in manifest["spec"]["endpoints"]:
            if one["recordType"] in ("A", "AAAA"):
                found.setdefault(one["dnsName"], []).extend(one["targets"])
    return found
