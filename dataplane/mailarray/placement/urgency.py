"""How urgent a sender says that a message is: a cheap look at its header while it arrives (bytes in, one word out).

Headers looked at: `Priority` (RFC 2156 5.3.6: urgent, normal, non-urgent), `Importance` (RFC 2156 5.3.4: high, normal,
low) and `X-Priority` (1 and 2, 3, 4 and 5; mail programs write `1 (Highest)`). Where they disagree, High counts before
Low, and Low before Normal: programs that set one of them often send the others along with their usual value.

Invariants: nothing after the header, nor after its first LIMIT bytes, is looked at; at most LIMIT bytes are kept; how
the text is cut into pieces changes nothing. Anything else than CRLF ends no line (RFC 5321 2.3.8). It refuses to parse
addresses or MIME: the `email` package would cost more than receiving the message.
"""

from __future__ import annotations

import re
from enum import Enum

LIMIT = 16 * 1024  # bytes of header; signatures and traces of a long way take a third of that

_FIELD = re.compile(
    rb"(?:\A|\r\n)(priority|importance|x-priority)[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)(?=\r\n)", re.IGNORECASE
)
_WORD = re.compile(rb"[a-z0-9-]+", re.IGNORECASE)


class Urgency(Enum):
    """As placement rules write it."""

    HIGH = "High"
    NORMAL = "Normal"
    LOW = "Low"


_MEANING: dict[bytes, dict[bytes, Urgency]] = {
    b"priority": {b"urgent": Urgency.HIGH, b"non-urgent": Urgency.LOW},
    b"importance": {b"high": Urgency.HIGH, b"low": Urgency.LOW},
    b"x-priority": {b"1": Urgency.HIGH, b"2": Urgency.HIGH, b"4": Urgency.LOW, b"5": Urgency.LOW},
}


def urgency_of(header: bytes) -> Urgency:
    """By a header section whose last line ends with CRLF; a line that is cut off does not count."""
    said = set()
    for name, value in _FIELD.findall(header):
        word = _WORD.search(value)
        if word is not None:
            said.add(_MEANING[name.lower()].get(word[0].lower()))
    return Urgency.HIGH if Urgency.HIGH in said else Urgency.LOW if Urgency.LOW in said else Urgency.NORMAL


class UrgencyScanner:
    """Takes a message text in pieces; knows the answer when the header is over."""

    __slots__ = ("_answer", "_header")

    def __init__(self) -> None:
        self._header = b""
        self._answer: Urgency | None = None

    def feed(self, text: bytes) -> bool:
        """Take the next piece; answers whether more is needed."""
        if self._answer is not None:
            return False
        seen = len(self._header)
        header = self._header = self._header + text[: LIMIT - seen]
        end = 0 if header.startswith(b"\r\n") else header.find(b"\r\n\r\n", max(0, seen - 3))
        if end >= 0:
            self._finish(header[: end + 2])
        elif len(header) == LIMIT:
            self._finish(header)
        return self._answer is None

    @property
    def urgency(self) -> Urgency:
        """By what came so far; a header that never ended counts as it is."""
        if self._answer is None:
            self._finish(self._header)
        assert self._answer is not None
        return self._answer

    def _finish(self, header: bytes) -> None:
        self._answer = urgency_of(header)
        self._header = b""
