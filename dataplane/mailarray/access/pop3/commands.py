"""From bytes to POP3 command lines (RFC 1939 section 3). Knows no state and answers nothing; the machine calls it."""

from __future__ import annotations

from typing import NamedTuple

# RFC 2449 section 4 limits commands to 255 octets; an AUTH PLAIN response of a long address and a long
# password is longer in base64, and a client may send it at once.
MAX_LINE = 2048

# RFC 1939 knows message numbers without a bound; nobody has this many messages, and int() of a long digit
# string is slow on purpose to attackers' delight.
MAX_DIGITS = 10


class LineTooLong(Exception):
    """A line beyond MAX_LINE was read and thrown away."""


class Command(NamedTuple):
    """A keyword in upper case, and everything after the first space, as it was sent."""

    verb: bytes
    rest: bytes


class LineReader:
    """Cuts lines out of arriving bytes; holds at most one unfinished line of MAX_LINE bytes.

    A bare LF ends a line too: people type at telnet, and a POP3 command carries nothing to smuggle.
    """

    __slots__ = ("_buffer", "_scanned", "_skipping")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._skipping = False

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Append what arrived."""
        self._buffer += data

    def clear(self) -> None:
        """Forget all that has not been read."""
        self._buffer.clear()
        self._scanned = 0
        self._skipping = False

    def next_line(self) -> bytes | None:
        """The next line without its end, or None when it is not complete. Raises LineTooLong once a long line ends."""
        end = self._buffer.find(b"\n", self._scanned)
        if end < 0:
            if self._skipping or len(self._buffer) > MAX_LINE:
                self._buffer.clear()
                self._skipping = True
            self._scanned = len(self._buffer)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._scanned = 0
        if self._skipping or end > MAX_LINE:
            self._skipping = False
            raise LineTooLong
        return line.removesuffix(b"\r")


def parse(line: bytes) -> Command:
    """Split a line into keyword and the rest (RFC 1939 section 3: keywords are case-insensitive)."""
    verb, _, rest = line.partition(b" ")
    return Command(verb.upper(), rest)


def number(text: bytes) -> int | None:
    """A decimal number as clients may write it, or None."""
    return int(text) if text.isdigit() and len(text) <= MAX_DIGITS else None
