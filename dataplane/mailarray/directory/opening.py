"""The mailbox database that the settings name."""

from __future__ import annotations

from typing import Protocol

from mailarray.contract.settings import DirectorySettings
from mailarray.directory.directory import Directory
from mailarray.directory.flatfile import FlatFileDirectory
from mailarray.directory.snapshot import SnapshotDirectory


class RunningDirectory(Directory, Protocol):
    """A directory with a life: `start` before, `stop` after."""

    async def start(self) -> None:
        """Raises DirectoryError with one sentence when it cannot be used."""
        ...

    async def stop(self) -> None:
        """Give everything back."""
        ...


def open_directory(settings: DirectorySettings) -> RunningDirectory:
    """The flat file, or the snapshot that a keeper writes."""
    return FlatFileDirectory(settings) if settings.accounts_file is not None else SnapshotDirectory(settings)
