"""Disks that lose what no sync covered: real files in memory, and a note of what each sync made durable.

A `Machine` outlives its processes; each process writes through a `ProcessDisk` of its own, which is dead when the
process is. What reads finds the files themselves, as a page cache has them.

    SIGKILL         the page cache stays: everything that was written is there, a write may be torn
    power cut       of each file and each directory a random part of what no sync covered stays, the last write torn at
                    any byte; what a sync covered stays always
    failed sync     the kernel drops the dirty pages and says so once: a second sync would succeed, and keep nothing
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mailarray.journal.disk import Disk, SyncPoint
from tests.simulation.loop import ProcessDied
from tests.support.unsynced import Folder, Node

if TYPE_CHECKING:
    from tests.simulation.servers import Process


class ProcessIsDead(OSError):
    """What is left of a process may do nothing any more."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the process is dead")


class Machine:
    """One server's volume, as the disk has it."""

    def __init__(self) -> None:
        self.folders: dict[str, Folder] = {}
        self.failed_syncs: set[str] = set()  # files that look whole to the next process, and may not be

    def folder(self, path: str) -> Folder:
        found = self.folders.get(path)
        if found is None:
            found = self.folders[path] = Folder()
        return found

    def durable(self, volume: Path, name: str) -> bytes | bytearray:
        """What a power cut now would certainly leave of a segment's file."""
        node = self.folder(f"{volume}/segments").durable.get(name)
        return b"" if node is None else node.durable

    def power_cut(self, dice: random.Random, keep: bool) -> None:
        """All processes are dead by now."""
        for path, folder in self.folders.items():
            folder.keep_some(dice if keep else None)
            for name, node in list(folder.live.items()):
                if folder.durable.get(name) is not node:
                    _unlink(os.path.join(path, name))  # noqa: PTH118
            for name, node in folder.durable.items():
                if node.pending or name in self.failed_syncs:  # else the file is what the disk holds
                    _rewrite(node, os.path.join(path, name), dice, keep)  # noqa: PTH118
            folder.live = dict(folder.durable)


def _rewrite(node: Node, path: str, dice: random.Random, keep: bool) -> None:
    if keep:
        node.keep_some(dice)
    node.pending.clear()
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            if file.read() == node.durable:
                return
    except FileNotFoundError:
        pass
    _unlink(path)  # who has the old file open keeps that one
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(node.durable)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


class ProcessDisk(Disk):
    """The disk as one process uses it. `written` sees every write: path, bytes, offset."""

    def __init__(self, machine: Machine, process: Process, written: Callable[[str, bytes, int], None]) -> None:
        self._machine = machine
        self._process = process
        self._written = written
        self._open: dict[int, tuple[Node, str]] = {}
        self.fuse: int | None = None  # steps until the process dies, if it is to
        self.on_fuse: Callable[[], None] = lambda: None
        self.cut: Callable[[str, int], None] = lambda name, length: None  # hears of each file that is cut
        self.failing: str | None = None  # "write", "sync": the next one fails
        self.dice: random.Random

    def _step(self) -> bool:
        """Whether the process dies in this step."""
        if not self._process.alive:
            raise ProcessIsDead
        if self.fuse is None:
            return False
        self.fuse -= 1
        return self.fuse < 0

    def _die(self) -> None:
        self.fuse = None
        self.on_fuse()
        raise ProcessDied

    # -- Disk ----------------------------------------------------------------------------------------
    def create(self, path: Path) -> int:
        if self._step():
            self._die()
        fd = super().create(path)
        node = Node()
        folder, name = os.path.split(path)
        self._machine.folder(folder).do(lambda names: names.__setitem__(name, node))
        self._open[fd] = node, name
        return fd

    def open(self, path: Path) -> int:
        if not self._process.alive:
            raise ProcessIsDead
        fd = super().open(path)
        folder, name = os.path.split(path)
        self._open[fd] = self._machine.folder(folder).live[name], name
        return fd

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> None:
        dies = self._step()
        node, name = self._open[fd]
        data = b"".join(buffers)
        if not dies and self.failing == "write":
            self.failing = None
            raise OSError(errno.EIO, "the disk failed")
        self._written(name, data, offset)
        if dies:
            data = data[: self.dice.randrange(len(data) + 1)]
        super().write(fd, [data], offset)
        node.pending.append((offset, data))
        if dies:
            self._die()

    def bypass_cache(self, fd: int, bypass: bool) -> bool:
        return False  # what is written has to be seen here first

    def truncate(self, fd: int, length: int) -> None:
        if self._step():
            self._die()
        self.cut(self._open[fd][1], length)
        super().truncate(fd, length)
        self._open[fd][0].pending.append(length)

    def sync(self, fd: int, point: SyncPoint) -> None:
        dies = self._step()
        if dies and self.dice.random() < 0.5:
            self._die()  # before the disk did it, or after it did and before anybody heard
        node, name = self._open[fd]
        if self.failing == "sync":
            self.failing = None
            self._machine.failed_syncs.add(name)
            node.pending.clear()
            raise OSError(errno.EIO, "the disk failed")
        node.sync()
        if dies:
            self._die()

    def sync_directory(self, path: Path, point: SyncPoint) -> None:
        dies = self._step()
        if dies and self.dice.random() < 0.5:
            self._die()
        self._machine.folder(str(path)).sync()
        if dies:
            self._die()

    def remove(self, path: Path) -> None:
        if self._step():
            self._die()
        super().remove(path)
        folder, name = os.path.split(path)

        def without(names: dict[str, Node]) -> None:
            names.pop(name, None)

        self._machine.folder(folder).do(without)

    def rename(self, source: Path, target: Path) -> None:
        if self._step():
            self._die()
        super().rename(source, target)
        folder, name = os.path.split(source)
        new = target.name
        self._machine.folder(folder).do(lambda names: names.__setitem__(new, names.pop(name)))

    def close(self, fd: int) -> None:
        if self._open.pop(fd, None) is not None:
            os.close(fd)

    def close_all(self) -> None:
        """The end of the process."""
        for fd in list(self._open):
            self.close(fd)
