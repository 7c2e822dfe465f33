"""A disk on which one named call fails: the first one of that name after `arm`, and if wanted all of them from then on.

A call's name is what is done to which kind of file, or the sync point: `write .segment`, `create .fence.new`,
`OWN_BATCH`. `seen` has every name that ever came; so a test can go through them one after another without a list.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from mailarray.journal.disk import Disk, SyncPoint


class FailingDisk(Disk):
    """See the module."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.failed = 0  # calls since `arm`
        self._armed: tuple[str, int, bool] | None = None
        self._kinds: dict[int, str] = {}
        self._lock = threading.Lock()

    def arm(self, name: str, error: int, *, for_good: bool) -> None:
        """Let the next call of that name fail."""
        with self._lock:
            self.failed, self._armed = 0, (name, error, for_good)

    def disarm(self) -> None:
        with self._lock:
            self._armed = None

    def _meet(self, name: str) -> bool:
        with self._lock:
            self.seen.add(name)
            if self._armed is None or self._armed[0] != name:
                return False
            _, error, for_good = self._armed
            if not for_good:
                self._armed = None
            self.failed += 1
        raise OSError(error, os.strerror(error))

    # -- Disk ------------------------------------------------------------------------------------------------------
    def create(self, path: Path) -> int:
        self._meet(f"create {_kind(path)}")
        fd = super().create(path)
        self._kinds[fd] = _kind(path)
        return fd

    def open(self, path: Path) -> int:
        fd = super().open(path)
        self._kinds[fd] = _kind(path)
        return fd

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> None:
        try:
            self._meet(f"write {self._kinds[fd]}")
        except OSError:
            whole = b"".join(buffers)
            super().write(fd, [whole[: len(whole) // 2]], offset)  # as a real one does: part of it is there
            raise
        super().write(fd, buffers, offset)

    def bypass_cache(self, fd: int, bypass: bool) -> bool:
        return False  # half of a write would not end where a block does

    def truncate(self, fd: int, length: int) -> None:
        self._meet(f"truncate {self._kinds[fd]}")
        super().truncate(fd, length)

    def sync(self, fd: int, point: SyncPoint) -> None:
        self._meet(point.name)
        super().sync(fd, point)

    def sync_directory(self, path: Path, point: SyncPoint) -> None:
        self._meet(f"{point.name} of a directory")
        super().sync_directory(path, point)

    def remove(self, path: Path) -> None:
        self._meet(f"remove {_kind(path)}")
        super().remove(path)

    def rename(self, source: Path, target: Path) -> None:
        self._meet(f"rename {_kind(source)}")
        super().rename(source, target)


def _kind(path: Path) -> str:
    return "".join(path.suffixes) or path.name
