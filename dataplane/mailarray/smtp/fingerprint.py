"""What a message is known by when its sender, who never heard our 250, delivers it once more.

    fingerprint = length of the text (8 bytes, big-endian), 16 bytes of BLAKE2b over Message-ID, length and CRC-32C

The text is what the sender sent: our own trace lines on top are left out, since they differ. A text without a
Message-ID has no fingerprint: two of them may be the same on purpose. It only says where to look: before a copy is
dropped, the texts are compared byte for byte (`tracking/deduplicating.py`).

Costs some microseconds a message; called by the intake for every piece of a text.
"""

from __future__ import annotations

import hashlib
import struct

from mailarray.journal.format import crc32c

MAX_HEADER = 64 * 1024  # bytes of a header in which the field is looked for; it stands in the first few hundred
MAX_ID = 998  # bytes, a line (RFC 5322 2.1.1)
_FIELD = b"\nmessage-id:"
_LENGTHS = struct.Struct(">QI")


class Fingerprint:
    """Takes a text in pieces."""

    __slots__ = ("_crc", "_header", "_in_header", "_length", "_skip")

    def __init__(self, skip: int) -> None:
        """`skip` bytes at the beginning are ours."""
        self._skip = skip
        self._crc = 0
        self._length = 0
        self._header: list[bytes] = []
        self._in_header = True

    def feed(self, text: bytes) -> None:
        """The next piece."""
        if self._skip:
            skipped = min(self._skip, len(text))
            self._skip -= skipped
            text = text[skipped:]
        self._crc = crc32c(text, self._crc)
        self._length += len(text)
        if self._in_header:
            self._header.append(text)
            self._in_header = self._length < MAX_HEADER and b"\r\n\r\n" not in text

    def finish(self) -> bytes:
        """The fingerprint; empty when the text has no Message-ID."""
        name = message_id(b"".join(self._header))
        if not name:
            return b""
        numbers = _LENGTHS.pack(self._length, self._crc)
        return numbers[:8] + hashlib.blake2b(numbers + name, digest_size=16).digest()


def message_id(header: bytes) -> bytes:
    """What the field says (RFC 5322 3.6.4), without blanks around it; empty when there is none in the header."""
    end = header.find(b"\r\n\r\n")
    header = b"\n" + (header if end < 0 else header[:end])
    at = header.lower().find(_FIELD)
    if at < 0:
        return b""
    start = at + len(_FIELD)
    line = header.find(b"\r\n", start)
    while 0 <= line < len(header) - 2 and header[line + 2] in b" \t":  # folded (RFC 5322 2.2.3)
        line = header.find(b"\r\n", line + 2)
    return header[start : len(header) if line < 0 else line].strip()[:MAX_ID]
