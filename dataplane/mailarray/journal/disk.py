"""The system calls that write a volume, in one place, and the name of every sync.

Whoever writes to a volume goes through a `Disk`. The promise "durable" is made nowhere else: a `SyncPoint` names
each place where the code waits for the disk, so that a test can leave one out and see that mail is lost, and a
power cut can be played (tests/support/powercut.py) by throwing away whatever no sync had covered.

Refuses to repeat a failed sync: after an error the kernel may have dropped the dirty pages and report success
the next time (rule 5); callers abandon the segment instead.
"""

from __future__ import annotations

import enum
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

IOV_MAX = 1024  # buffers that Linux takes in one pwritev
DIRECT_BLOCK = 4096  # bytes; what `bypass_cache` wants begins and ends at multiples of it, in the file and in memory


class SyncPoint(enum.Enum):
    """Why the code waits for the disk here."""

    VOLUME_FILE = "volume.json is written before the id is used"
    VOLUME_DIRECTORY = "the name volume.json is durable before the id is used"
    OWN_BATCH = "the writer's own copy, before 250"
    OWN_SEGMENT_NAME = "the directory entry of the writer's new segment, before 250"
    MIRROR_BATCH = "a mirror's copy, before it answers a PUT"
    MIRROR_SEGMENT_NAME = "the directory entry of a mirror's new segment, before it answers its first PUT"
    FENCE_FILE = "a fence or a remembered length is written before it is answered or obeyed"
    FENCE_NAME = "the directory entry of the fence file, likewise"
    RECOVERED = "what survived a crash, before it is offered or answered for"
    COPY_FILE = "the bytes of a copied segment, before it gets a segment's name"
    OUTPUT_FILE = "the bytes of a compacted segment, before it gets a segment's name"
    DROPPED = "the name of a superseded segment is gone, before its room counts as free"
    MEMORY_FILE = "the sidecar's memory of the catalog's epoch"
    MEMORY_NAME = "the directory entry of that memory"


class Disk:
    """The real disk."""

    def create(self, path: Path) -> int:
        """Create a new file for reading and writing. Raises FileExistsError."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def open(self, path: Path) -> int:
        """Open an existing file for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> None:
        """Write all buffers, one after the other, at an offset. Raises OSError."""
        pending: list[bytes | memoryview] = list(buffers)
        while pending:
            part = pending[:IOV_MAX]
            wanted = sum(map(len, part))
            written = os.pwritev(fd, part, offset)
            if written == wanted:
                del pending[:IOV_MAX]
            else:  # a view of a single buffer stays where it lies in memory: see `bypass_cache`
                rest = memoryview(part[0] if len(part) == 1 else b"".join(part))[written:]
                pending[:IOV_MAX] = [rest]
            offset += written

    def bypass_cache(self, fd: int, bypass: bool) -> bool:
        """Have writes go to the disk without a stay in memory, or no longer; answers whether they do.

        They must keep to DIRECT_BLOCK then, or fail with EINVAL; and are as durable as others: after `sync`. For much
        that nobody will read soon: no memory is taken from what is read often, and a sync of mail does not wait
        until it is written back.
        """
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if bypass else flags & ~os.O_DIRECT)
        except OSError:  # not every file system can
            return False
        return bypass

    def truncate(self, fd: int, length: int) -> None:
        """Cut a torn tail off (rule 11)."""
        os.ftruncate(fd, length)

    def sync(self, fd: int, point: SyncPoint) -> None:
        """fdatasync. Raises OSError; never call it again on the same data then."""
        os.fdatasync(fd)

    def sync_directory(self, path: Path, point: SyncPoint) -> None:
        """fsync of a directory, so that names in it survive a power cut."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self, fd: int) -> None:
        """Close."""
        os.close(fd)

    def replace_file(self, path: Path, data: bytes, file_point: SyncPoint, name_point: SyncPoint) -> None:
        """Put a small file in place so that after a power cut either the old or the new content is there, whole."""
        temporary = path.with_name(path.name + ".new")
        try:
            fd = self.create(temporary)
        except FileExistsError:  # left by a crash
            self.remove(temporary)
            fd = self.create(temporary)
        try:
            self.write(fd, [data], 0)
            self.sync(fd, file_point)
        finally:
            self.close(fd)
        self.rename(temporary, path)
        self.sync_directory(path.parent, name_point)

    def remove(self, path: Path) -> None:
        """Remove a file that nobody is promised (any more); a power cut may bring it back. Raises OSError."""
        os.unlink(path)  # noqa: PTH108  as `rename`

    def rename(self, source: Path, target: Path) -> None:
        """Atomic rename within a directory."""
        os.rename(source, target)  # noqa: PTH104  a new `Path` for nobody costs more than the call
