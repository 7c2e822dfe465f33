"""Where backups are kept: named objects in a directory or an object store, and the one interface to both.

Invariants:
- An object appears under its name whole and durable, or not at all; a name never gets other bytes.
- Whatever goes wrong with a target is a `TargetError`: one sentence that names it and says what to do.

A directory is written by our own hand, since the library's way to one does not sync: a power cut could leave a backup
that names segments which are not there. Called by everything in this package.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

PIECE = 4 * 1024 * 1024  # bytes read at a time

T = TypeVar("T")


class TargetError(Exception):
    """The target cannot be used; one sentence."""


class NotThere(TargetError):
    """There is no such object."""


class Store(Protocol):
    """A target. Names are relative, with `/`. All methods raise TargetError."""

    async def put(self, name: str, file: Path) -> None:
        """Keep a file's bytes."""
        ...

    async def put_bytes(self, name: str, data: bytes) -> None:
        """Keep a small object."""
        ...

    async def read(self, name: str) -> bytes:
        """A small object. Raises NotThere."""
        ...

    def pieces(self, name: str) -> AsyncIterator[bytes]:
        """An object's bytes. Raises NotThere."""
        ...

    async def list(self, folder: str) -> dict[str, int]:
        """Names (with the folder) and sizes of the objects in a folder; empty when there is none."""
        ...

    async def delete(self, names: Sequence[str]) -> None:
        """Remove objects; those that are gone already do not matter."""
        ...


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


def open_store(target: str, endpoint: str | None = None) -> Store:
    """A directory's path, or a URL: s3://bucket/prefix, gs://…, az://…. Raises TargetError."""
    if "://" not in target or target.startswith("file://"):
        if endpoint:
            raise TargetError("an endpoint is for s3:// targets only; leave it out")
        return DirectoryStore(Path(target.removeprefix("file://")).absolute())
    from mailarray.backup.object_store import ObjectStore  # a large library, that others need not load

    return ObjectStore(target, endpoint)


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
