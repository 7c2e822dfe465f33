"""Mail in and out of an array by Python's own clients, for tests that are about something else than the protocols."""

from __future__ import annotations

import contextlib
import poplib
import smtplib
import time
from collections.abc import Iterator, Sequence

from tests.support.array import DOMAIN, HOST, PASSWORD, Array, wait_for

SENDER = "sender@elsewhere.example"
CLIENT_SECONDS = 30.0
VISIBLE_SECONDS = 15.0  # bound; it takes milliseconds


def message(subject: str, body: str = "Hello.\r\n", to: str = f"user@{DOMAIN}") -> bytes:
    """A small message."""
    return f"From: <{SENDER}>\r\nTo: <{to}>\r\nSubject: {subject}\r\n\r\n{body}".encode()


def send(array: Array, index: int, to: Sequence[str] | str, text: bytes) -> None:
    """One message to one server. Raises smtplib's errors."""
    with smtplib.SMTP(HOST, array.smtp(index), timeout=CLIENT_SECONDS) as client:
        client.sendmail(SENDER, to, text)


def takes(array: Array, index: int, to: str) -> bool:
    """Whether a server knows the mailbox already: each process reads changed accounts in its own time."""
    with smtplib.SMTP(HOST, array.smtp(index), timeout=CLIENT_SECONDS) as client:
        client.ehlo()
        client.mail(SENDER)
        return client.rcpt(to)[0] == 250


@contextlib.contextmanager
def mailbox(array: Array, address: str) -> Iterator[poplib.POP3]:
    """An open POP3 session; QUIT at the end."""
    client = poplib.POP3(HOST, array.pop3, timeout=CLIENT_SECONDS)
    client.encoding = "utf-8"
    try:
        client.user(address)
        client.pass_(PASSWORD)
        yield client
        client.quit()
    finally:
        client.close()


def retrieve(client: poplib.POP3, number: int) -> bytes:
    """A message's text."""
    return b"".join(line + b"\r\n" for line in client.retr(number)[1])


def read(array: Array, address: str) -> list[bytes]:
    """Every message of a mailbox."""
    with mailbox(array, address) as client:
        return [retrieve(client, number) for number in range(1, client.stat()[0] + 1)]


def uidls(array: Array, address: str) -> list[str]:
    """The unique ids of a mailbox, in its order."""
    with mailbox(array, address) as client:
        return [line.split()[1].decode() for line in client.uidl()[1]]


def count(array: Array, address: str) -> int:
    """How many messages there are; -1 when it cannot be said now."""
    try:
        with mailbox(array, address) as client:
            return int(client.stat()[0])
    except (OSError, poplib.error_proto):
        return -1


def wait_for_mail(array: Array, address: str, expected: int, seconds: float = VISIBLE_SECONDS) -> list[bytes]:
    """Until a mailbox holds so many messages; answers them."""
    seen = -1

    def there() -> bool:
        nonlocal seen
        seen = count(array, address)
        assert seen <= expected, f"{address} holds {seen} messages, more than {expected}"
        return seen == expected

    wait_for(there, seconds, f"{expected} messages in {address}")
    return read(array, address)


def payload(text: bytes) -> bytes:
    """A message without the trace lines on top, as it was sent."""
    return text[text.index(b"From: ") :]


def seconds_since(start: float) -> float:
    """Of the monotonic clock."""
    return time.monotonic() - start
