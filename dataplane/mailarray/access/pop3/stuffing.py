"""A message text on its way to the client: dot-stuffing (RFC 1939 section 3) and TOP's cut (section 7), chunk by chunk.

Both see lines as CRLF does; a chunk may end anywhere, also between CR and LF. They hold no text back.
"""

from __future__ import annotations


class DotStuffer:
    """Doubles the dot at the start of a line; ends the text with CRLF `.` CRLF."""

    __slots__ = ("_after_cr", "_line_start")

    def __init__(self) -> None:
        self._line_start = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> bytes:
        """The chunk as it goes on the wire."""
        if not chunk:
            return chunk
        stuffed = chunk.replace(b"\r\n.", b"\r\n..")
        if self._line_start and chunk[0] == 0x2E:
            stuffed = b"." + stuffed
        elif self._after_cr and chunk.startswith(b"\n."):
            stuffed = b"\n." + stuffed[1:]
        self._line_start = chunk.endswith(b"\r\n") or (self._after_cr and chunk == b"\n")
        self._after_cr = chunk[-1] == 0x0D
        return stuffed

    def finish(self) -> bytes:
        """The end of the text; a text that does not end in CRLF gets one."""
        return b".\r\n" if self._line_start else b"\r\n.\r\n"


class TopCutter:
    """Passes the header, the empty line, and then `lines` lines of the text; `done` when the rest is not wanted."""

    __slots__ = ("_in_body", "_left", "_tail", "done")

    def __init__(self, lines: int) -> None:
        self._left = lines
        self._in_body = False
        self._tail = b"\r\n"  # the last bytes of the header seen; a message may begin with the empty line
        self.done = False

    def feed(self, chunk: bytes) -> bytes:
        """The part of the chunk that is wanted."""
        if self.done or not chunk:
            return b""
        start = 0
        if not self._in_body:
            joined = self._tail + chunk
            end = joined.find(b"\r\n\r\n")
            if end < 0:
                self._tail = joined[-3:]
                return chunk
            start = end + 4 - len(self._tail)
            self._in_body = True
            self._tail = b""
        return chunk[: self._cut(chunk, start)]

    def _cut(self, chunk: bytes, position: int) -> int:
        # In the text, `_tail` is the CR that the chunk before ended with.
        if self._left == 0:
            self.done = True
            return position
        if self._tail and chunk.startswith(b"\n"):
            position = 1
            self._left -= 1
        self._tail = chunk[-1:] if chunk.endswith(b"\r") else b""
        while self._left:
            end = chunk.find(b"\r\n", position)
            if end < 0:
                return len(chunk)
            position = end + 2
            self._left -= 1
        self.done = True
        return position
