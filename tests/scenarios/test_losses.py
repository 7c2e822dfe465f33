"""A server dies, a mirror hangs, a disk is full: mail goes on, and what was accepted is read, soon."""

from __future__ import annotations

import asyncio
import random
import smtplib
import time
from collections.abc import Iterator
from typing import cast

import pytest

from tests.faults.ledger import Ledger
from tests.faults.readers import read_all
from tests.faults.senders import Sender
from tests.faults.where import local
from tests.support.array import DOMAIN, Array, wait_for
from tests.support.mail import mailbox, message, payload, read, retrieve, send, wait_for_mail
from tests.support.small_disk import on_small_disk

USER = f"user@{DOMAIN}"
MESSAGES = 30  # for each server
FAILOVER_SECONDS = 1.0  # a message whose first replica is gone comes from the other one within this
LONGEST_PAUSE = 2.0  # seconds that senders wait when a mirror hangs; the mirror timeout is 1 s
TMPFS_MIB = 24
FULL_LIMIT = 60  # messages of a MiB; far more than the small disk holds


@pytest.fixture
def array() -> Iterator[Array]:
    with Array() as started:
        yield started.start()


def test_the_mail_of_a_killed_server_is_read_from_its_mirrors(array: Array) -> None:
    sent = {message(f"{index}-{number}") for index in range(3) for number in range(MESSAGES)}
    for index in range(3):
        with smtplib.SMTP("127.0.0.1", array.smtp(index)) as client:
            for number in range(MESSAGES):
                client.sendmail("sender@elsewhere.example", USER, message(f"{index}-{number}"))
    wait_for_mail(array, USER, len(sent))
    with array.held_down("mail-0/smtp", "mail-0/sidecar"):
        found, slowest = [], 0.0
        began = time.monotonic()
        with mailbox(array, USER) as client:
            login = time.monotonic() - began
            for number in range(1, client.stat()[0] + 1):
                began = time.monotonic()
                found.append(payload(retrieve(client, number)))
                slowest = max(slowest, time.monotonic() - began)
        print(f"login {login:.3f} s, slowest message {slowest:.3f} s")
        assert sorted(found) == sorted(sent)
        assert slowest < FAILOVER_SECONDS
        assert login < FAILOVER_SECONDS
        send(array, 1, USER, message("meanwhile"))  # its segment may have had the dead server as mirror
    array.wait_ready()
    wait_for_mail(array, USER, len(sent) + 1)
    array.stop()
    array.verify_journals()


async def test_a_mirror_that_hangs_is_left_and_senders_hardly_notice(array: Array) -> None:
    ledger = Ledger(7)
    senders = [Sender(local(array.smtp(0)), ledger, (USER,), random.Random(i), 0.02) for i in range(4)]
    stop = asyncio.Event()
    at_work = [asyncio.create_task(sender.run(stop)) for sender in senders]

    def mirror_in_use() -> str | None:
        servers = (array.status() or {}).get("servers", [{"smtp": {}}])
        return next((m["server"] for m in servers[0]["smtp"].get("mirrors", ()) if m["in_use"]), None)

    try:
        mirror = await asyncio.to_thread(wait_for, mirror_in_use, 15, "mail-0 has a segment with a mirror")
        with array.frozen(f"{mirror}/sidecar"):
            before = ledger.acknowledged
            await asyncio.sleep(3.0)  # what is looked at is the pause within
            during = ledger.acknowledged - before
    finally:
        stop.set()
        await asyncio.gather(*at_work)
    longest = max(sender.longest for sender in senders)
    print(f"{mirror} hung; longest wait for a 250 {longest:.2f} s, {during} messages accepted meanwhile")
    assert longest < LONGEST_PAUSE
    assert during > 20
    assert '"segment left"' in array.log("mail-0/smtp")
    await asyncio.to_thread(array.wait_settled)
    verdict = ledger.judge({USER: await read_all(local(array.pop3), USER, 30)})
    assert verdict.good, str(verdict)
    await asyncio.to_thread(array.stop)


@pytest.fixture
def small_disk() -> Iterator[Array]:
    """An array whose first server has a volume of 24 MiB."""
    with Array(spec={"storage": {"reserve": "6Mi"}}) as array:
        yield from on_small_disk(array, array.volume(0), TMPFS_MIB)


def test_a_full_disk_refuses_and_the_others_go_on(small_disk: Array) -> None:
    array = small_disk
    body = "x" * 76 + "\r\n"
    sent: list[bytes] = []
    refused: list[
        bytes
    ] = []  # a batch that failed on one member only may be there all the same; its sender tries again

    def deliver(index: int) -> tuple[int, bytes]:
        text = message(f"number {len(sent) + len(refused)}", body * (1024 * 1024 // len(body)))
        try:
            send(array, index, USER, text)
        except smtplib.SMTPResponseException as error:
            refused.append(text)
            return error.smtp_code, cast(bytes, error.smtp_error)
        except smtplib.SMTPRecipientsRefused as error:
            refused.append(text)
            return next(iter(error.recipients.values()))
        sent.append(text)
        return 250, b""

    replies: list[tuple[int, bytes]] = []
    while len(replies) < FULL_LIMIT and (not replies or replies[-1][0] == 250):
        replies.append(deliver(0))
    assert replies[-1][0] == 452, replies[-1]
    assert replies[-1][1].startswith(b"4.3.1")
    assert len(sent) >= 5  # the small disk did take mail
    for index in (1, 2, 1, 2):
        assert deliver(index)[0] == 250
    assert deliver(0)[0] == 452  # still
    array.wait_settled()
    found = list(map(payload, read(array, USER)))
    assert len(found) == len(set(found))
    assert set(sent) <= set(found) <= {*sent, *refused}
    status = array.status()
    assert status is not None and "storage" in status["servers"][0]["smtp"]["refusing"]
    array.stop()
    array.verify_journals()
