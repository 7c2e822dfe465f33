"""What a text is known by: the same however it arrives, another one for whatever differs, none without a Message-ID."""

from __future__ import annotations

import random

import pytest

from mailarray.smtp.fingerprint import Fingerprint, message_id
from tests.unit.smtp.dialog import Peer

TRACE = b"Return-Path: <s@far.example>\r\nReceived: from far.example\r\n\tby mx; today\r\n"
TEXT = b"Subject: hello\r\nMessage-ID: <1@far.example>\r\n\r\nhello\r\n" + b"x" * 1000 + b"\r\n"


def fingerprint(text: bytes, trace: bytes = TRACE, dice: random.Random | None = None) -> bytes:
    made = Fingerprint(len(trace))
    whole = trace + text
    while whole:
        size = dice.randint(1, 40) if dice else len(whole)
        made.feed(whole[:size])
        whole = whole[size:]
    return made.finish()


def test_our_own_lines_and_the_way_it_arrives_do_not_count() -> None:
    expected = fingerprint(TEXT)
    assert len(expected) == 24 and int.from_bytes(expected[:8], "big") == len(TEXT)
    assert fingerprint(TEXT, b"Received: later, by another server\r\n") == expected
    assert all(fingerprint(TEXT, dice=random.Random(seed)) == expected for seed in range(50))


def test_whatever_differs_counts() -> None:
    others = [TEXT + b".", TEXT.replace(b"hello", b"Hello"), TEXT.replace(b"<1@", b"<2@"), b"X: y\r\n" + TEXT]
    assert len({fingerprint(text) for text in (TEXT, *others)}) == 5


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"Message-ID: <1@x>\r\n\r\n", b"<1@x>"),
        (b"Subject: y\r\nMESSAGE-id:<1@x>\r\nTo: z\r\n\r\n", b"<1@x>"),
        (b"Message-ID:\r\n\t<1@x>\r\nTo: z\r\n\r\n", b"<1@x>"),
        (b"Message-ID: <1@x>", b"<1@x>"),
        (b"Message-ID: \r\n\r\n", b""),
        (b"Subject: y\r\n\r\nMessage-ID: <1@x>\r\n", b""),
        (b"X-Message-ID: <1@x>\r\n\r\n", b""),
        (b"", b""),
    ],
)
def test_where_the_message_id_is(header: bytes, found: bytes) -> None:
    assert message_id(header) == found


def test_a_session_hands_it_over_with_the_message() -> None:
    heard = []
    for verb in (b"HELO one\r\n", b"HELO two\r\n"):
        peer = Peer()
        peer.send(verb + b"MAIL FROM:<s@far.example>\r\nRCPT TO:<anna@mail.example>\r\nDATA\r\n" + TEXT + b".\r\n")
        heard.append(peer.sink.messages[0].fingerprint)
    assert heard == [fingerprint(TEXT)] * 2
    peer = Peer()
    peer.send(b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<anna@mail.example>\r\nDATA\r\nSubject: x\r\n\r\ny\r\n.\r\n")
    assert peer.sink.messages[0].fingerprint == b""
