"""A disk whose power can be cut: real files, and a note of what each sync made durable.

`PowerCutDisk` keeps, for each file, the content that `sync` covered and the writes since, and for each directory the
names that `sync_directory` covered and the operations since. `power_cut` leaves on the real disk what would be there
when the machine starts again, makes every later call of the old processes fail, and answers the disk of the new ones.

    everything unsynced is thrown away                     keep=False
    or a random prefix of it is kept, the last write torn  keep=True, per file and per directory, by seed

Directories themselves are taken as durable. Files that nobody wrote through a Disk (locks, sockets) stay; the local
index, which promises nothing, is deleted.
"""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from mailarray.journal.disk import Disk, SyncPoint
from tests.support.unsynced import Folder, Node


class PowerIsOff(OSError):
    """What a process hears that outlived its machine."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the power is off")


class PowerCutDisk(Disk):
    """See the module. `omit` are the syncs that are left out; `hook` sees each sync before it is done."""

    def __init__(self, omit: frozenset[SyncPoint] = frozenset()) -> None:
        self.omit = omit
        self.hook: Callable[[SyncPoint], None] = lambda point: None
        self.synced: dict[SyncPoint, int] = dict.fromkeys(SyncPoint, 0)
        self._folders: dict[Path, Folder] = {}
        self._open: dict[int, Node] = {}
        self._lock = threading.RLock()  # a writer's and a sidecar's threads use one disk
        self._off = False

    # -- Disk ------------------------------------------------------------------------------------------------------
    def create(self, path: Path) -> int:
        with self._powered():
            fd = super().create(path)
            node = Node()
            self._folder(path).do(lambda names: names.__setitem__(path.name, node))
            self._open[fd] = node
            return fd

    def open(self, path: Path) -> int:
        with self._powered():
            fd = super().open(path)
            folder = self._folder(path)
            if path.name not in folder.live:  # there before this disk was: durable
                node = Node(bytearray(path.read_bytes()))
                folder.live[path.name] = folder.durable[path.name] = node
            self._open[fd] = folder.live[path.name]
            return fd

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> None:
        with self._powered():
            super().write(fd, buffers, offset)
            self._open[fd].pending.append((offset, b"".join(buffers)))

    def bypass_cache(self, fd: int, bypass: bool) -> bool:
        return False  # what is written has to be seen here first

    def truncate(self, fd: int, length: int) -> None:
        with self._powered():
            super().truncate(fd, length)
            self._open[fd].pending.append(length)

    def sync(self, fd: int, point: SyncPoint) -> None:
        self.hook(point)
        with self._powered():
            self.synced[point] += 1
            if point in self.omit:
                return
            self._open[fd].sync()

    def sync_directory(self, path: Path, point: SyncPoint) -> None:
        self.hook(point)
        with self._powered():
            self.synced[point] += 1
            if point in self.omit:
                return
            self._folders.setdefault(path, Folder()).sync()

    def remove(self, path: Path) -> None:
        with self._powered():
            super().remove(path)
            self._folder(path).do(lambda names: names.pop(path.name, None) and None)

    def rename(self, source: Path, target: Path) -> None:
        with self._powered():
            super().rename(source, target)
            self._folder(source).do(lambda names: names.__setitem__(target.name, names.pop(source.name)))

    def close(self, fd: int) -> None:
        with self._lock:
            self._open.pop(fd, None)
            super().close(fd)

    # -- the power -------------------------------------------------------------------------------------------------
    def power_cut(self, seed: int = 0, keep: bool = False) -> PowerCutDisk:
        """Cut the power now; answers the disk for the processes that start afterwards."""
        dice = random.Random(seed)
        with self._lock:
            self._off = True
            for path, folder in self._folders.items():
                folder.keep_some(dice if keep else None)
                for name in folder.live:
                    (path / name).unlink(missing_ok=True)
                for name, node in folder.durable.items():
                    if keep:
                        node.keep_some(dice)
                    (path / name).unlink(missing_ok=True)  # a process that lives on keeps its old file, not this one
                    (path / name).write_bytes(node.durable)
                for suffix in ("", "-wal", "-shm"):
                    (path / f"index.sqlite{suffix}").unlink(missing_ok=True)
        fresh = PowerCutDisk(self.omit)
        fresh.synced = self.synced
        return fresh

    def _powered(self) -> threading.RLock:
        if self._off:
            raise PowerIsOff
        return self._lock

    def _folder(self, path: Path) -> Folder:
        return self._folders.setdefault(path.parent, Folder())
