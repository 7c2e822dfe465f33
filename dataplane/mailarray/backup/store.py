"""What a backup is kept in: named objects, and the one interface to a directory and to an object store.

Invariants, of every store:
- An object appears under its name whole and durable, or not at all; a name never gets other bytes.
- Whatever goes wrong with a target is a `TargetError`: one sentence that names it and says what to do.

Called by everything in this package; `opening.py` chooses one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

PIECE = 4 * 1024 * 1024  # bytes read at a time


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
