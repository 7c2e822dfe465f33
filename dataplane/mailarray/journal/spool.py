"""Bodies on their way in: in memory up to a limit, in an unlinked file on the server's volume beyond.

Invariant: memory does not grow with the size of a message. A spooled body is not durable and needs not be: it has
promised nothing yet; a crash takes it away by itself, since the file has no name.

Called by the SMTP sessions (write) and by the segment writer (chunks).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mailarray.journal.format import crc32c
from mailarray.model.message import Body

MEMORY_LIMIT = 256 * 1024  # bytes of one body; 1,000 sessions of the largest such bodies take 256 MiB
CHUNK = 256 * 1024  # bytes read back at a time


class MemoryBody:
    """A small body."""

    __slots__ = ("buffers", "checksum", "length")

    def __init__(self, buffers: list[bytes], length: int, checksum: int) -> None:
        self.buffers = buffers
        self.length = length
        self.checksum = checksum

    @property
    def in_memory(self) -> int:
        """All of it."""
        return self.length

    def chunks(self) -> Iterator[bytes]:
        """The buffers as they arrived."""
        return iter(self.buffers)

    def release(self) -> None:
        """Nothing is held but memory."""
        self.buffers = []


class SpooledBody:
    """A large body, in an unlinked file."""

    __slots__ = ("_fd", "checksum", "length")

    def __init__(self, fd: int, length: int, checksum: int) -> None:
        self._fd = fd
        self.length = length
        self.checksum = checksum

    @property
    def in_memory(self) -> int:
        """It is in a file."""
        return 0

    def chunks(self) -> Iterator[bytes]:
        """Read back in pieces of CHUNK bytes."""
        position = 0
        while position < self.length:
            chunk = os.pread(self._fd, min(CHUNK, self.length - position), position)
            if not chunk:
                raise OSError(f"the spool file ended at {position} of {self.length} bytes")
            position += len(chunk)
            yield chunk

    def release(self) -> None:
        """Close the file, which frees its blocks."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SpoolWriter:
    """Gathers one body; see BodyWriter."""

    __slots__ = ("_buffers", "_checksum", "_directory", "_fd", "length")

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._buffers: list[bytes] = []
        self._checksum = 0
        self._fd = -1
        self.length = 0

    def write(self, chunk: bytes) -> None:
        """Append a chunk. Raises OSError when the volume refuses to take a spooled body."""
        self._checksum = crc32c(chunk, self._checksum)
        self.length += len(chunk)
        self._buffers.append(chunk)
        if self._fd >= 0:
            if len(chunk) >= CHUNK // 4 or sum(map(len, self._buffers)) >= CHUNK:
                self._flush()
        elif self.length > MEMORY_LIMIT:
            self._fd = os.open(self._directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
            self._flush()

    def finish(self) -> Body:
        """End of data."""
        if self._fd < 0:
            return MemoryBody(self._buffers, self.length, self._checksum)
        self._flush()
        fd, self._fd = self._fd, -1
        return SpooledBody(fd, self.length, self._checksum)

    def discard(self) -> None:
        """The transaction ended without a message."""
        self._buffers = []
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _flush(self) -> None:
        pending = b"".join(self._buffers)
        self._buffers = []
        view = memoryview(pending)
        while view:
            view = view[os.write(self._fd, view) :]


def check_directory(directory: Path) -> None:
    """Find out before the first mail whether bodies can be spooled there. Raises OSError."""
    with tempfile.TemporaryFile(dir=directory) as probe:
        probe.write(b"\0")
