"""What is said of the MX records: the first link of the chain that broke, and nothing before its time."""

from __future__ import annotations

import dataclasses

import pytest

from mailarray_operator.plan import mx_status, reasons
from mailarray_operator.plan.mx_status import GRACE, Difference, Found

WANTED = ("10 mail-0.mail.example", "10 mail-1.mail.example")
CHANGED = 1_000_000.0
LATE = CHANGED + GRACE + 61
WELL = Found(
    external_dns=True,
    requested=WANTED,
    changed_at=CHANGED,
    ttl=60,
    answers={"mail.example": WANTED},
    silent={},
)
NO_MX = Difference("mail.example", "MX", WANTED, ())
OTHER_MX = Difference("mail.example", "MX", WANTED, WANTED[:1])
NO_A = Difference("mail-0.mail.example", "A", ("192.0.2.1",), ())


@pytest.mark.parametrize(
    ("changes", "now", "reason", "words"),
    [
        ({}, CHANGED, reasons.PUBLISHED, "1 domain"),
        ({"requested": ()}, LATE, reasons.NO_TARGETS, "no server"),
        ({"missing": True}, LATE, reasons.EXTERNAL_DNS_MISSING, "--source=crd"),
        ({"missing": True, "external_dns": False}, LATE, reasons.PUBLISHED, "1 domain"),
        ({"refused": "forbidden"}, LATE, reasons.PUBLISHING_REFUSED, "forbidden"),
        ({"silent": {"mail.example": "10.0.0.53 is late"}}, LATE, reasons.NAME_SERVERS_SILENT, "10.0.0.53"),
        ({"differing": (OTHER_MX,)}, LATE - 2, reasons.PUBLISHING, "asked for is 10 mail-0"),
        (
            {"differing": (OTHER_MX,), "changed_at": LATE - 1, "differing_since": CHANGED},
            LATE,
            reasons.PUBLISHING,
            "way to DNS",
        ),
        (
            {"differing": (OTHER_MX,), "changed_at": LATE - 1, "differing_since": LATE - 1000},
            LATE,
            reasons.RECORDS_DIFFER,
            "look at",
        ),
        ({"differing": (OTHER_MX,)}, LATE, reasons.RECORDS_DIFFER, "look at the log of ExternalDNS"),
        ({"differing": (OTHER_MX,), "external_dns": False}, LATE, reasons.RECORDS_DIFFER, "by hand"),
        ({"differing": (NO_MX,), "behind": ("example-mail",)}, LATE, reasons.EXTERNAL_DNS_NOT_READING, "crd"),
        ({"differing": (NO_MX,), "right_addresses": 2}, LATE, reasons.MX_NOT_HELD, "--managed-record-types=MX"),
        ({"differing": (NO_MX,)}, LATE, reasons.RECORDS_DIFFER, "not there"),
        ({"differing": (NO_MX, NO_A), "right_addresses": 1}, LATE, reasons.RECORDS_DIFFER, "1 more differ"),
        ({"behind": ("example-mail.example",)}, LATE, reasons.PUBLISHED, "1 domain"),
    ],
)  # fmt: skip
def test_what_dns_published_says(changes: dict[str, object], now: float, reason: str, words: str) -> None:
    said = mx_status.dns_published(dataclasses.replace(WELL, **changes), now)  # type: ignore[arg-type]
    assert said is not None
    assert (said.reason, said.status) == (reason, reason == reasons.PUBLISHED)
    assert words in said.message


def test_nothing_is_said_before_anybody_was_asked() -> None:
    assert mx_status.dns_published(dataclasses.replace(WELL, answers=None), LATE) is None


def test_endpoints_from_before_are_named_and_stay() -> None:
    by_hand = dataclasses.replace(WELL, external_dns=False, kept=("example-mail.example",))
    said = mx_status.dns_published(by_hand, LATE)
    assert said is not None
    assert "example-mail.example" in said.message
    assert "delete" in said.message


def test_a_stale_plan_is_told() -> None:
    said = mx_status.mx_planned(3, CHANGED)
    assert (said.status, said.reason) == (False, reasons.LOADS_UNKNOWN)
    assert "1970-01-12T13:46:40Z" in said.message


def test_of_many_domains_those_that_differ_stand_in_the_status() -> None:
    domains = [f"d{n}.example" for n in range(500)]
    published = {domain: WANTED for domain in domains if domain != "d499.example"}
    entries = mx_status.domains_status(domains, WELL, published)
    assert [entry["domain"] for entry in entries] == ["d499.example"]
    assert "published" not in entries[0]
    assert len(mx_status.domains_status(domains, WELL, dict.fromkeys(domains, WANTED))) == mx_status.MAX_DOMAINS


def test_a_long_ttl_holds_up_no_drain_for_a_day() -> None:
    assert mx_status.leave_limit(60) == 180
    assert mx_status.leave_limit(86400) == 720
