"""Backups in a directory, written by our own hand: the library's way to one does not sync, so a power cut could leave a
backup that names segments which are not there. Keeps the invariants of `store.py`."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from mailarray.backup.store import PIECE, NotThere, TargetError

T = TypeVar("T")


class DirectoryStore:
    """A directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, name: str, file: Path) -> None:
        """See `Store`."""

        def copy(target: int) -> None:
            with file.open("rb") as source:
                while piece := source.read(PIECE):
                    _write_all(target, piece)

        await self._do(lambda: self._keep(name, copy))

    async def put_bytes(self, name: str, data: bytes) -> None:
        """See `Store`."""
        await self._do(lambda: self._keep(name, lambda target: _write_all(target, data)))

    async def read(self, name: str) -> bytes:
        """See `Store`."""
        return await self._do((self._root / name).read_bytes)

    async def pieces(self, name: str) -> AsyncIterator[bytes]:
        """See `Store`."""
        file = await self._do(lambda: (self._root / name).open("rb"))
        try:
            while piece := await self._do(lambda: file.read(PIECE)):
                yield piece
        finally:
            file.close()

    async def list(self, folder: str) -> dict[str, int]:
        """See `Store`."""

        def look() -> dict[str, int]:
            try:
                entries = list(os.scandir(self._root / folder))
            except FileNotFoundError:
                return {}
            return {f"{folder}/{e.name}": e.stat().st_size for e in entries if e.is_file() and e.name[0] != "."}

        return await self._do(look)

    async def delete(self, names: Sequence[str]) -> None:
        """See `Store`."""

        def remove() -> None:
            for name in names:
                (self._root / name).unlink(missing_ok=True)

        await self._do(remove)

    def _keep(self, name: str, write: Callable[[int], None]) -> None:
        path = self._root / name
        for folder in reversed([folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]):
            folder.mkdir(exist_ok=True, mode=0o700)
            _sync_directory(folder.parent)
        descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        try:
            try:
                write(descriptor)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            Path(temporary).rename(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except FileNotFoundError as error:
            raise NotThere(f"{error.filename} is not there") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise TargetError(f"{self._root} is full; make room, or remove old backups with `prune`") from None
            raise TargetError(f"{error.filename or self._root} cannot be used: {error.strerror}") from None


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
