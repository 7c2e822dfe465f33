"""Placement rules between real processes: mail lies where the rules say, or where it was received when that fails."""

from __future__ import annotations

import smtplib
import time
from collections.abc import Iterator

import pytest

from tests.support.array import DOMAIN, HOST, Array, wait_for
from tests.support.mail import CLIENT_SECONDS, SENDER, message, payload, send, wait_for_mail

SPEC = {
    "placement": {
        "rules": [
            {"name": "large", "when": {"minSize": "300Ki"}, "group": "big"},
            {"name": "urgent", "when": {"urgency": "High"}, "group": "fast"},
            {"name": "boss", "when": {"recipients": [f"boss@{DOMAIN}"]}, "group": "fast"},
        ]
    }
}
USERS = [f"{name}@{DOMAIN}" for name in ("urgent", "usual", "large", "boss", "away", "frozen")]


@pytest.fixture(scope="module")
def array() -> Iterator[Array]:
    with Array(accounts=USERS, groups={"mail": 2, "fast": 2, "big": 1}, spec=SPEC) as started:
        started.start()
        yield started
        started.stop()
        started.verify_journals()


def urgent(subject: str) -> bytes:
    return b"X-Priority: 1 (Highest)\r\n" + message(subject)


def counts(array: Array, server: str, rule: str) -> tuple[int, int, int]:
    """Here, handed over, kept: as the server's status says."""
    status = array.ask(f"{server}/smtp")
    assert status is not None
    (found,) = [r for r in status["placement"]["rules"] if r["name"] == rule]
    return found["here"], found["handed_over"], found["kept"]


def written(array: Array) -> dict[str, int]:
    """Messages that the writers of each group have made durable."""
    found: dict[str, int] = {}
    for name in array.names:
        status = array.ask(f"{name}/smtp")
        group = name.rpartition("-")[0]
        found[group] = found.get(group, 0) + (0 if status is None else int(status["accepted"]))
    return found


def growth(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Groups that wrote something, and how much."""
    return {group: after[group] - before[group] for group in after if after[group] != before[group]}


def test_mail_lies_with_the_group_that_the_rules_name(array: Array) -> None:
    big = message("large", "0123456789abcdef\r\n" * 40_000)  # 720 KB: spooled on both sides
    for address, text, group, count in (
        ("urgent", urgent("urgent"), "fast", 6),
        ("usual", message("usual"), "mail", 6),
        ("large", big, "big", 3),
        ("boss", message("boss"), "fast", 3),
    ):
        before = written(array)
        for number in range(count):
            send(array, number % 2, f"{address}@{DOMAIN}", text)
        assert growth(before, written(array)) == {group: count}
        texts = wait_for_mail(array, f"{address}@{DOMAIN}", count)
        assert [payload(t) for t in texts] == [payload(text)] * count
    # A server of the group itself keeps what it receives.
    here, handed_over, kept = counts(array, "fast-1", "urgent")
    send(array, array.names.index("fast-1"), f"urgent@{DOMAIN}", urgent("at the right door"))
    wait_for_mail(array, f"urgent@{DOMAIN}", 7)
    assert counts(array, "fast-1", "urgent") == (here + 1, handed_over, kept)
    assert counts(array, "mail-0", "urgent")[1:] == (3, 0)


def test_while_the_group_is_away_mail_stays_where_it_is_received(array: Array) -> None:
    with array.held_down("fast-0/smtp", "fast-1/smtp"):
        before = written(array)
        for number in range(4):
            send(array, 0, f"away@{DOMAIN}", urgent(f"away {number}"))
        assert growth({**before, "fast": 0}, written(array)) == {"mail": 4}
        wait_for_mail(array, f"away@{DOMAIN}", 4)
    array.wait_ready()

    sent = 4

    def returned() -> bool:
        nonlocal sent
        before = written(array)
        send(array, 0, f"away@{DOMAIN}", urgent("away no more"))
        sent += 1
        return growth(before, written(array)) == {"fast": 1}

    wait_for(returned, 30, "the group takes part again")
    wait_for_mail(array, f"away@{DOMAIN}", sent)


def test_while_the_group_hangs_senders_wait_once_and_nothing_is_doubled(array: Array) -> None:
    with array.frozen("fast-0/smtp", "fast-1/smtp"):
        started = time.monotonic()
        with smtplib.SMTP(HOST, array.smtp(0), timeout=CLIENT_SECONDS) as client:
            for number in range(20):
                client.sendmail(SENDER, [f"frozen@{DOMAIN}"], urgent(f"frozen {number}"))
        # Each of the two makes one sender wait for twice the mirror timeout, and is then left alone for a while.
        assert time.monotonic() - started < 2 * 2.0 + 3.0
        wait_for_mail(array, f"frozen@{DOMAIN}", 20)
    array.wait_ready()
    array.wait_settled()
    texts = wait_for_mail(array, f"frozen@{DOMAIN}", 20)
    subjects = [text[text.index(b"Subject") :].split(b"\r\n")[0] for text in texts]
    assert sorted(subjects) == sorted(b"Subject: frozen %d" % number for number in range(20))
