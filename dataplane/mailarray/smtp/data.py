r"""Reading a message text off the wire: where it ends, dot-unstuffing, and refusing what could be smuggled.

Called by the session with bytes as they arrive, cut anywhere; gives back text to be stored. Keeps at most four
bytes of its own, whatever the length of a line or of the message. It refuses to guess: line ends are CRLF and
nothing else (RFC 5321 2.3.8, 4.1.1.4).

What happens to a bare CR or a bare LF:
- Around a line of a single dot (`\n.\n`, `\n.\r\n`, `\r\n.\n`, `\r.\r\n`, `\r\n.\r` and so on) some server may see
  the end of a message where another one sees text. Such a message is refused, and with it the session: `Smuggling`.
- Anywhere else in the text it is kept byte for byte; so are NUL bytes. Old mailers send them, signatures cover
  them, and alone they end nothing. A dot after a bare LF or CR is not at the start of a line, so it is kept too.

BDAT chunks (RFC 3030) are counted, not searched for an end, and not unstuffed. BINARYMIME is not offered, so they
are text as well, and a line of a single dot with a bare line end is refused in them too: POP3 hands it out later.

How the search stays cheap: a dot at a line start is rare and `find(b".")` is a memchr, so most blocks of encoded
mail cost nothing; in the others one regular expression with a literal first byte looks back from each dot. Two
searches for `\n.` and `\r.` would cost twice that.
"""

from __future__ import annotations

import re

_LEADING_DOT = re.compile(rb"\.(?<=[\r\n].)", re.DOTALL)
_DOT_LINE = re.compile(rb"[\r\n]\.[\r\n]")
_AMBIGUOUS = re.compile(rb"(?<!\r)\n\.[\r\n]|\r\.[\r\n]|\r\n\.(?:\n|\r(?!\n))")
_HELD = re.compile(rb"(?:\r\n\.\r|\r?\n\.?|\r\.?)\Z")  # a beginning of something that the next bytes decide about
_MAX_HELD = 4  # bytes; the longest of them is CR LF . CR
_BLOCK = 8192  # bytes looked at after a dot before memchr is tried again

_END = b"\r\n.\r\n"
_CR, _LF, _DOT = b"\r\n."


class Smuggling(ValueError):
    """A line of a single dot whose start or end is a bare CR or LF."""


def _leading_dot(data: bytes, start: int) -> int:
    """Where the first dot after a CR or LF stands, or -1."""
    while True:
        start = data.find(b".", start)
        if start < 0:
            return -1
        match = _LEADING_DOT.search(data, start, start + _BLOCK)
        if match is not None:
            return match.start()
        start += _BLOCK


def _held(data: bytes) -> int:
    """How many bytes at the end wait for what comes next."""
    if data[-1] not in _END:
        return 0
    match = _HELD.search(data[-_MAX_HELD:])
    return 0 if match is None else len(match[0])


class DataReader:
    """The text after DATA.

    `prefix` is put on top of the text, so that a short message is one piece of bytes; it must end with CRLF,
    as the DATA command did, since a dot right after it is at the start of a line, and hold no line that begins with
    a dot.
    """

    __slots__ = ("_start", "_tail")

    def __init__(self, prefix: bytes) -> None:
        self._tail = prefix
        self._start = len(prefix) - 2  # nothing before that CRLF is looked at

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take bytes off the wire; returns text, and what came after the end of data (None before the end).

        Raises Smuggling; the reader must not be used after it, nor after the end.
        """
        tail = self._tail
        if tail:
            data = tail + data
        start = self._start
        dot = _leading_dot(data, start)
        if dot >= 0:
            if data.startswith(_END, dot - 2):
                return data[:dot], data[dot + 3 :]
            return self._dotted(data, start)
        return self._hold(data), None

    def _hold(self, data: bytes) -> bytes:
        self._start = 0
        held = _held(data) if data else 0
        if held:
            self._tail = data[-held:]
            return data[:-held]
        self._tail = b""
        return data

    def _dotted(self, data: bytes, start: int) -> tuple[bytes, bytes | None]:
        """The rarer case: some line begins with a dot."""
        end = data.find(_END, start)
        # Before the end, every line of a single dot is an ambiguous one; one at the end of `data` may become the end.
        limit = end + 2 if end >= 0 else len(data) - 2 if data.endswith(b"\r\n.\r") else len(data)
        if _DOT_LINE.search(data, start, limit) is not None:
            raise Smuggling
        if end >= 0:
            return _unstuff(data[: end + 2]), data[end + 5 :]
        return _unstuff(self._hold(data)), None


def _unstuff(text: bytes) -> bytes:
    """RFC 5321 4.5.2: a dot at the start of a line is dropped."""
    return text.replace(b"\r\n.", b"\r\n")


class ChunkReader:
    """The text of BDAT chunks, over all chunks of one message; `expect` begins each."""

    __slots__ = ("_left", "_tail")

    def __init__(self, prefix: bytes) -> None:
        self._tail = prefix
        self._left = 0

    def expect(self, size: int) -> None:
        """A chunk of `size` bytes follows."""
        self._left = size

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take bytes off the wire; returns text, and what came after the chunk (None before its end).

        Raises Smuggling.
        """
        rest: bytes | None = None
        if len(data) >= self._left:
            rest = data[self._left :]
            data = data[: self._left]
        self._left -= len(data)
        return self._take(data), rest

    def finish(self) -> bytes:
        """The text held back, after the last chunk. Raises Smuggling."""
        tail, self._tail = self._tail, b""
        if _AMBIGUOUS.search(tail) is not None:  # CR LF . CR, and nothing more
            raise Smuggling
        return tail

    def _take(self, data: bytes) -> bytes:
        if self._tail:
            data = self._tail + data
        if not data:
            return data
        held = _held(data)
        if _leading_dot(data, 0) >= 0:
            # The held CR LF . CR is not decided yet; all shorter ones cannot match.
            limit = len(data) - 2 if held == _MAX_HELD else len(data)
            if _AMBIGUOUS.search(data, 0, limit) is not None:
                raise Smuggling
        self._tail = data[len(data) - held :]
        return data[: len(data) - held]


class HopCounter:
    """Counts `Received:` lines in the header of a text that arrives in pieces (RFC 5321 6.3)."""

    __slots__ = ("_carry", "_in_header", "hops")

    def __init__(self) -> None:
        self._carry = b""
        self._in_header = True
        self.hops = 0

    def feed(self, text: bytes) -> bool:
        """Take the next piece; returns whether the header goes on."""
        if self._carry:
            text = self._carry + text
        end = text.find(b"\r\n\r\n")
        header = text if end < 0 else text[:end]
        self.hops += header.lower().count(b"\nreceived:")
        self._carry = text[-9:]  # one byte less than the words searched for: no line is counted twice
        return end < 0
