"""Space of deleted mail comes back on all servers, also on one that was away: real processes, real disks, POP3."""

from __future__ import annotations

import smtplib
from typing import Any

import pytest

from tests.support.array import DOMAIN, HOST, Array, wait_for
from tests.support.mail import mailbox, message, payload, read, uidls, wait_for_mail

USER = f"user@{DOMAIN}"
KEPT = 8  # every so many is not deleted
PATIENCE = 150.0  # seconds; the looks of several loops add up to about 40


def fill(array: Array) -> list[bytes]:
    """36 MiB in messages of a quarter of one; several segments on each server."""
    body = ("x" * 70 + "\r\n") * 3600
    sent = []
    for index in range(3):
        with smtplib.SMTP(HOST, array.smtp(index)) as client:
            for number in range(48):
                sent.append(message(f"{index}-{number}", body))
                client.sendmail("sender@elsewhere.example", USER, sent[-1])
    return sent


def used(array: Array, index: int) -> int:
    return sum(path.stat().st_size for path in (array.volume(index) / "segments").glob("*.segment"))


def compaction(array: Array, index: int) -> dict[str, Any]:
    return (array.ask(f"mail-{index}/sidecar") or {}).get("compaction") or {}


@pytest.mark.timeout(500)
def test_space_comes_back_on_all_servers() -> None:
    with Array(spec={"storage": {"segmentSize": "2Mi"}}) as array:
        array.start()
        sent = fill(array)
        wait_for_mail(array, USER, len(sent))
        array.wait_settled()
        before = [used(array, index) for index in range(3)]
        with mailbox(array, USER) as client:
            for number in range(1, len(sent) + 1):
                if number % KEPT:
                    client.dele(number)
        left = sorted(read(array, USER))
        ids = sorted(uidls(array, USER))
        assert len(left) == len(ids) == len(sent) // KEPT
        assert {payload(text) for text in left} <= set(sent)
        with array.held_down("mail-2/sidecar", "mail-2/smtp"):
            wait_for(lambda: compaction(array, 0).get("reclaimed_bytes"), PATIENCE, "space on mail-0")
            assert sorted(read(array, USER)) == left
            kept_back = used(array, 2)
        assert kept_back > 0.9 * before[2]
        array.wait_ready()

        def all_gave_back() -> bool:
            return all(used(array, index) < 0.45 * before[index] for index in range(3))

        wait_for(all_gave_back, PATIENCE, "space on all servers")
        array.wait_settled()
        assert sorted(read(array, USER)) == left
        done = array.cli("catalog", "rebuild", "--data", str(array.data))
        assert done.returncode == 0, done.stdout + done.stderr
        wait_for_mail(array, USER, len(left), 60.0)
        array.wait_settled()
        assert sorted(read(array, USER)) == left and sorted(uidls(array, USER)) == ids
        print([f"{before[i] >> 10} -> {used(array, i) >> 10} KiB" for i in range(3)])
        array.stop()
        array.verify_journals()
