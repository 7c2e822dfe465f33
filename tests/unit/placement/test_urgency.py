"""What a header says of urgency, however it is written and cut into pieces."""

from __future__ import annotations

import email.parser
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailarray.placement.urgency import LIMIT, Urgency, UrgencyScanner

HIGH, NORMAL, LOW = Urgency.HIGH, Urgency.NORMAL, Urgency.LOW
TRACE = b"Return-Path: <a@b.example>\r\nReceived: from x\r\n\tby y with ESMTP; now\r\n"


def scanned(*pieces: bytes) -> Urgency:
    scanner = UrgencyScanner()
    for piece in pieces:
        scanner.feed(piece)
    return scanner.urgency


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"", NORMAL),
        (b"Subject: hello\r\n", NORMAL),
        (b"Priority: urgent\r\n", HIGH),
        (b"PRIORITY:URGENT\r\n", HIGH),
        (b"priority: normal\r\n", NORMAL),
        (b"Priority: non-urgent\r\n", LOW),
        (b"Importance: high\r\n", HIGH),
        (b"importance:   Low \r\n", LOW),
        (b"Importance : high\r\n", HIGH),
        (b"X-Priority: 1 (Highest)\r\n", HIGH),
        (b"X-Priority: 2\r\n", HIGH),
        (b"X-Priority: 3 (Normal)\r\n", NORMAL),
        (b"X-Priority: 4\r\n", LOW),
        (b"x-pRIORITY: 5 (Lowest)\r\n", LOW),
        (b"X-Priority: 10\r\n", NORMAL),
        (b"X-Priority:\r\n 1\r\n", HIGH),
        (b"X-Priority:\r\n\t1 (Highest)\r\nImportance: low\r\n", HIGH),
        (b"X-Priority: 3\r\nImportance: low\r\n", LOW),
        (b"X-Priority:\r\nImportance: high\r\n", HIGH),
        (b"Priority: 1\r\n", NORMAL),
        (b"Priority: very urgent\r\n", NORMAL),
        (b"Subject: x\r\n Priority: urgent\r\n", NORMAL),  # folded: part of the subject
        (b"X-My-Priority: 1\r\nMy-Importance: high\r\n", NORMAL),
        (b"Subject: Importance: high\r\n", NORMAL),
        (b"Subject: a\nImportance: high\r\n", NORMAL),  # a bare LF ends no line
    ],
)
def test_headers(header: bytes, expected: Urgency) -> None:
    for text in (header, TRACE + header):
        assert scanned(text + b"\r\nImportance: high\r\nbody\r\n") is expected, "as a whole"
        for cut in range(len(text) + 5):
            whole = text + b"\r\nbody\r\n"
            assert scanned(whole[:cut], whole[cut:]) is expected, f"cut at {cut}"
        assert scanned(*((text + b"\r\nbody\r\n")[i : i + 1] for i in range(len(text) + 8))) is expected, "by the byte"


def test_nothing_is_wanted_after_the_header() -> None:
    scanner = UrgencyScanner()
    assert scanner.feed(b"Subject: x\r\n")
    assert not scanner.feed(b"\r\nPriority: urgent\r\n")
    assert not scanner.feed(b"Priority: urgent\r\n\r\n")
    assert scanner.urgency is NORMAL


def test_no_more_is_kept_or_looked_at_than_the_limit() -> None:
    scanner = UrgencyScanner()
    line = b"X-Long: " + b"x" * 100 + b"\r\n"
    fed = 0
    while scanner.feed(line):
        fed += len(line)
        assert fed < LIMIT
    assert scanner.urgency is NORMAL
    assert scanned(line * 1000 + b"Priority: urgent\r\n\r\n") is NORMAL
    assert scanned(b"Priority: urgent\r\n" + line * 1000) is HIGH
    # A line that the limit cuts off does not count: nobody knows how it goes on.
    before = b"x" * (LIMIT - len(b"\r\nX-Priority: 1"))
    assert scanned(b"%s\r\nX-Priority: 1" % before, b"0\r\n\r\n") is NORMAL


def test_a_header_without_an_end_counts_as_it_is() -> None:
    assert scanned(b"Priority: urgent\r\n") is HIGH
    assert scanned(b"Priority: urgent") is NORMAL
    assert scanned() is NORMAL
    assert scanned(b"\r\nPriority: urgent\r\n\r\n") is NORMAL


NAMES = ("Priority", "IMPORTANCE", "x-priority", "Subject", "X-Priority-Not", "Received")
VALUES = (
    "urgent",
    "Non-Urgent",
    "normal",
    "HIGH",
    "low",
    "1 (Highest)",
    "2",
    "3",
    "4",
    "5 (x)",
    "",
    "\r\n 1",
    "\r\n\tlow",
)


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=6), st.data())
def test_against_the_parser_of_the_standard_library(fields: list[tuple[str, str]], data: st.DataObject) -> None:
    text = "".join(f"{name}: {value}\r\n" for name, value in fields).encode() + b"\r\nPriority: urgent\r\n"
    parsed = email.parser.BytesParser(policy=email.policy.default).parsebytes(text, headersonly=True)
    said = {
        (name.lower(), (str(value).split() or [""])[0].lower())
        for name in ("Priority", "Importance", "X-Priority")
        for value in parsed.get_all(name, [])
    }
    high = {("priority", "urgent"), ("importance", "high"), ("x-priority", "1"), ("x-priority", "2")}
    low = {("priority", "non-urgent"), ("importance", "low"), ("x-priority", "4"), ("x-priority", "5")}
    expected = HIGH if said & high else LOW if said & low else NORMAL
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert scanned(*pieces) is expected


@given(st.binary(max_size=300))
def test_any_bytes_have_an_urgency(text: bytes) -> None:
    assert scanned(text) in Urgency
