"""The file of one copy, while its bytes come in.

    segments/ID.copy       bytes of [0, size), checked up to there; means nothing to anybody but this file

Invariants (rule 5):

- No byte is written before its checksums fit, as far as its batch has come; what an earlier run left is read through
  before anything is put behind it.
- Whole is a part only when it ends where its last batch does, at L, and has no byte more.
- After a failed write or sync the part is discarded: neither call is repeated on the same bytes.

Bytes go to the disk past the page cache where the file system can do that, otherwise in short stretches with a sync
behind each: much that is copied at once must neither take the memory from what is read often, nor let a sync of mail
wait until it is written back.

Blocking; its calls run in the sidecar's threads, one at a time, and none after `close`: a copy that is cancelled must
not leave a thread behind that writes to a descriptor which is another file by now. Used by copying.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator

from mailarray.catalog.rows import SegmentFacts
from mailarray.journal.disk import DIRECT_BLOCK, SyncPoint
from mailarray.journal.fence import Fence, save_fence
from mailarray.journal.format import FormatError
from mailarray.journal.scan import CHUNK
from mailarray.journal.stream_check import StreamCheck
from mailarray.journal.volume import Volume
from mailarray.model.ids import SegmentId

STRETCH = 16 * 1024 * 1024  # bytes written between two syncs where the page cache cannot be passed by


class Part:
    """See the module."""

    def __init__(self, volume: Volume, segment: SegmentId) -> None:
        """Begin, or open what an earlier run left: `resume` or `empty` comes next then. Raises OSError."""
        self.segment = segment
        self._volume = volume
        self._lock = threading.Lock()
        self._closed = False
        self._check = StreamCheck(segment)
        self._unsynced = 0
        path = volume.copy_path(segment)
        try:
            self._fd = volume.disk.create(path)
        except FileExistsError:
            self._fd = volume.disk.open(path)
        self.size = os.fstat(self._fd).st_size
        self._direct = volume.disk.bypass_cache(self._fd, True)

    def resume(self, sealed_length: int) -> None:
        """Keep what an earlier run left as far as it is good, in whole blocks; else begin anew. Raises OSError."""
        kept = self.size - self.size % DIRECT_BLOCK if self.size <= sealed_length else 0
        self._cut(kept)
        check = StreamCheck(self.segment)
        with self._open() as fd:
            self._direct = self._direct and self._volume.disk.bypass_cache(fd, False)  # a read wants no blocks
            try:
                while check.position < kept:
                    found = os.pread(fd, min(CHUNK, kept - check.position), check.position)
                    if not found:
                        raise FormatError("it is shorter than it was")
                    check.feed(memoryview(found))
                self._check = check
            except FormatError:
                kept = 0
            self._direct = self._volume.disk.bypass_cache(fd, True)
        if not kept:
            self.empty()

    def append(self, data: memoryview) -> None:
        """The next bytes. Raises FormatError when they are not that segment's, and then `empty` comes next; OSError."""
        with self._open() as fd:
            self._check.feed(data)
            blocks = len(data) - len(data) % DIRECT_BLOCK if self._direct else 0
            if blocks:
                try:
                    self._volume.disk.write(fd, [data[:blocks]], self.size)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    blocks = 0  # larger blocks are wanted here than anywhere else: through the cache, then
            if blocks < len(data):  # and all that follows: it does not begin where a block does
                if self._direct:
                    self._direct = self._volume.disk.bypass_cache(fd, False)
                self._volume.disk.write(fd, [data[blocks:]], self.size + blocks)
                self._unsynced += len(data) - blocks
            self.size += len(data)
            if self._unsynced >= STRETCH:
                self._volume.disk.sync(fd, SyncPoint.COPY_FILE)
                os.posix_fadvise(fd, 0, self.size, os.POSIX_FADV_DONTNEED)
                self._unsynced = 0

    def empty(self) -> None:
        """Begin anew."""
        self._cut(0)
        self._check = StreamCheck(self.segment)
        with self._open() as fd:
            self._direct = self._volume.disk.bypass_cache(fd, True)

    def _cut(self, length: int) -> None:
        with self._open() as fd:
            if self.size != length:
                self._volume.disk.truncate(fd, length)
            self.size = length

    def problem(self, facts: SegmentFacts | None, sealed_length: int) -> str | None:
        """Why this is not that segment up to L, or None. Without facts any header."""
        with self._open() as fd:
            on_disk = os.fstat(fd).st_size
        header, good = self._check.header, self._check.length
        if header is None or (facts is not None and header.members != facts.members):
            return "its header is another segment's"
        if not good == self._check.position == on_disk == sealed_length:
            return f"it holds {good} of {sealed_length} bytes"
        return None

    def finish(self, sealed_length: int, epoch: int) -> None:
        """Durable under the segment's name, and L remembered. Raises OSError."""
        volume, segment = self._volume, self.segment
        with self._open() as fd:
            volume.disk.sync(fd, SyncPoint.COPY_FILE)
            volume.disk.rename(volume.copy_path(segment), volume.segment_path(segment))
            # Its last step syncs the directory, and with it the name from the line before.
            save_fence(volume, segment, Fence(fenced=True, sealed_length=sealed_length, epoch=epoch, whole=True))

    def discard(self) -> None:
        """Give the room back."""
        with contextlib.suppress(OSError):
            self._volume.disk.remove(self._volume.copy_path(self.segment))

    def close(self) -> None:
        """Waits for the call under way: at most one read-through of what an earlier run left."""
        with self._lock:
            self._closed = True
            self._volume.disk.close(self._fd)

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the copy was given up")
            yield self._fd
