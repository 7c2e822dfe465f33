"""A wiped volume, and a server that is drained and comes back: real processes, real disks, real mail clients."""

from __future__ import annotations

import shutil
import smtplib
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.array import DOMAIN, HOST, Array, wait_for
from tests.support.mail import mailbox, message, payload, read, send, wait_for_mail
from tests.support.pushed_states import push

USER = f"user@{DOMAIN}"
SEGMENT = "64Ki"  # so that a few messages make several


@pytest.fixture
def array() -> Iterator[Array]:
    with Array(spec={"storage": {"segmentSize": SEGMENT}}) as started:
        yield started.start()


def fill(array: Array, name: str, servers: tuple[int, ...], count: int = 10) -> set[bytes]:
    body = "x" * 70 + "\r\n"
    sent = set()
    for index in servers:
        with smtplib.SMTP(HOST, array.smtp(index)) as client:
            for number in range(count):
                text = message(f"{name} {index}-{number}", body * 200)
                client.sendmail("sender@elsewhere.example", USER, text)
                sent.add(text)
    return sent


def sidecar(array: Array, index: int) -> dict[str, Any]:
    return array.ask(f"mail-{index}/sidecar") or {}


def test_a_wiped_volume_is_rebuilt_from_the_others(array: Array) -> None:
    sent = fill(array, "before", (0, 1, 2))
    wait_for_mail(array, USER, len(sent))
    array.stop()
    for entry in array.volume(1).iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    array.start()
    rebuilt = wait_for(
        lambda: (sidecar(array, 1).get("rebuild") or {}).get("done") and sidecar(array, 1)["rebuild"],
        30,
        "mail-1 is rebuilt",
    )
    assert rebuilt["segments_total"] > 0 == rebuilt["segments_left"]
    wait_for(lambda: all(sidecar(array, i).get("under_replicated") == 0 for i in range(3)), 15, "all has its copies")
    listed = array.cli("volume", "list", "--data", str(array.data)).stdout
    assert listed.count("in use") == 3 and listed.count("lost") == 1
    with array.held_down("mail-0/smtp", "mail-0/sidecar"):  # what it held is read from mail-1 and mail-2
        assert sorted(map(payload, read(array, USER))) == sorted(sent)
    array.stop()
    array.verify_journals()


def test_a_drained_server_goes_and_comes_back(array: Array) -> None:
    sent = fill(array, "before", (0, 1, 2))
    wait_for_mail(array, USER, len(sent))
    slow = smtplib.SMTP(HOST, array.smtp(0))
    slow.ehlo()
    slow.mail("sender@elsewhere.example")
    slow.rcpt(USER)
    push(array, mail_0="Draining")
    with pytest.raises(smtplib.SMTPConnectError) as refused:
        smtplib.SMTP(HOST, array.smtp(0))
    assert refused.value.smtp_code == 421
    assert (array.ask("mail-0/smtp") or {})["at_rest"] is False  # a transaction is under way
    last = message("begun before the drain")
    assert slow.data(last)[0] == 250
    sent.add(last)
    with pytest.raises(urllib.error.HTTPError) as unready:
        urllib.request.urlopen(f"http://{HOST}:{array.ports.internal + 10}/readyz", timeout=5)
    assert unready.value.code == 503 and b"draining" in unready.value.read()
    sent |= fill(array, "while it drains", (1, 2), 3)
    wait_for(lambda: (sidecar(array, 0).get("drain") or {}).get("done"), 30, "mail-0 is drained")
    assert (array.ask("mail-0/smtp") or {})["at_rest"] is True
    wait_for_mail(array, USER, len(sent))
    with array.held_down("mail-0/smtp", "mail-0/sidecar"):
        assert sorted(map(payload, read(array, USER))) == sorted(sent)
        with mailbox(array, USER) as client:  # a deletion that the drained volume does not hear of
            client.dele(1)
        left = sorted(map(payload, read(array, USER)))
        assert len(left) == len(sent) - 1
    array.wait_ready()
    push(array, mail_0="Serving")
    wait_for(lambda: sidecar(array, 0).get("drain", {}) is None, 10, "mail-0 serves again")
    send(array, 0, USER, message("after it came back"))
    wait_for_mail(array, USER, len(sent))
    found = sorted(map(payload, read(array, USER)))
    assert len(found) == len(set(found)) == len(sent) and set(left) < set(found)
    listed = array.cli("volume", "list", "--data", str(array.data)).stdout
    assert listed.count("in use") == 3
    array.stop()
    array.verify_journals()
