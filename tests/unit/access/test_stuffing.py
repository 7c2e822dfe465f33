"""Dot-stuffing and TOP, chunk by chunk, against what a few lines over the whole text give."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from mailarray.access.pop3 import DotStuffer, TopCutter

TEXT = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"\r\n.", b"\r\n\r\n", b".\r\n"]), max_size=30)
CHUNKS = st.lists(TEXT.map(b"".join), max_size=8)


def stuffed(text: bytes) -> bytes:
    if not text.endswith(b"\r\n") and text:
        text += b"\r\n"
    lines = text.split(b"\r\n")[:-1]
    return b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in lines) + b".\r\n"


@given(CHUNKS)
@example([b".", b"\r", b"\n", b".", b"\r\n", b"."])
@example([b"a\r", b"\n.b\r\n"])
@example([b"a\r", b"\n", b".b"])
def test_dot_stuffing(chunks: list[bytes]) -> None:
    stuffer = DotStuffer()
    assert b"".join(map(stuffer.feed, chunks)) + stuffer.finish() == stuffed(b"".join(chunks))


@given(st.binary(max_size=200), st.integers(1, 7))
def test_dot_stuffing_of_any_bytes(text: bytes, size: int) -> None:
    stuffer = DotStuffer()
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert b"".join(map(stuffer.feed, pieces)) + stuffer.finish() == stuffed(text)


def top(text: bytes, lines: int) -> bytes:
    end = (b"\r\n" + text).find(b"\r\n\r\n")
    if end < 0:
        return text
    out, rest = text[: end + 2], text[end + 2 :]
    for _ in range(lines):
        line, mark, rest = rest.partition(b"\r\n")
        out += line + mark
    return out


@given(CHUNKS, st.integers(0, 5))
@example([b"a\r\n\r", b"\nb\r", b"\nc\r", b"\n"], 1)
@example([b"\r", b"\nbody\r\n"], 1)
@example([b"\r\n\r", b"", b"\n\r"], 1)
def test_top(chunks: list[bytes], lines: int) -> None:
    cutter = TopCutter(lines)
    out = bytearray()
    for chunk in chunks:
        if cutter.done:
            break
        out += cutter.feed(chunk)
    assert bytes(out) == top(b"".join(chunks), lines)
