"""An array that does not run: its volumes, read from their directories. Nothing is written to them.

The caller sees to it that nothing runs: then what a member holds durably of an unsealed segment is all there is, and
the longest of them covers everything that was acknowledged (rule 8).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from mailarray.backup.source import Held, SourceError
from mailarray.journal.disk import Disk
from mailarray.journal.fence import load_fence
from mailarray.journal.scan import survey
from mailarray.journal.volume import Volume, VolumeError, read_volume
from mailarray.model.ids import SegmentId, VolumeId

PIECE = 1024 * 1024  # bytes read at a time


class StoppedArray:
    """See the module; a `Source`."""

    def __init__(self, volumes: Sequence[tuple[str, Path]], copies: int) -> None:
        """`volumes`: server name and directory; all but `copies` - 1 must be there. Raises SourceError."""
        self.notes: list[str] = []
        self.volumes: dict[VolumeId, Volume] = {}
        for name, path in volumes:
            try:
                volume = read_volume(path, Disk())
                volume.list_segments()
            except VolumeError as error:
                self.notes.append(f"the volume of {name} cannot be read: {error}")
                continue
            self.volumes[volume.id] = volume
        if not self.volumes or len(self.notes) > copies - 1:
            raise SourceError("; ".join(self.notes) or "the array has no servers")

    async def held(self) -> list[Held]:
        """See `Source`."""
        return await asyncio.to_thread(self._held)

    def _held(self) -> list[Held]:
        sealed: dict[SegmentId, tuple[int, int]] = {}
        files: dict[SegmentId, list[tuple[int, VolumeId]]] = {}
        for volume in self.volumes.values():
            for segment in volume.list_segments():
                try:
                    fence = load_fence(volume, segment)
                    size = volume.segment_path(segment).stat().st_size
                except FileNotFoundError:
                    size = 0  # an empty fenced segment
                except VolumeError as error:
                    raise SourceError(str(error)) from None
                if fence.sealed_length is not None:
                    sealed[segment] = max(sealed.get(segment, (0, 0)), (fence.epoch, fence.sealed_length))
                if size:
                    files.setdefault(segment, []).append((size, volume.id))
        found = []
        for segment, having in sorted(files.items()):
            length = sealed[segment][1] if segment in sealed else max(self._durable(v, segment) for _, v in having)
            if length:
                whole_first = sorted(having, key=lambda one: (one[0] < length, one[1]))
                found.append(Held(segment, length, tuple(volume for _, volume in whole_first)))
        return found

    def _durable(self, volume: VolumeId, segment: SegmentId) -> int:
        descriptor = os.open(self.volumes[volume].segment_path(segment), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return survey(descriptor, segment).length
        finally:
            os.close(descriptor)

    async def read(self, volume: VolumeId, segment: SegmentId, start: int, end: int) -> AsyncIterator[bytes]:
        """See `Source`."""
        try:
            with self.volumes[volume].segment_path(segment).open("rb") as file:
                file.seek(start)
                while start < end and (piece := await asyncio.to_thread(file.read, min(PIECE, end - start))):
                    start += len(piece)
                    yield piece
        except OSError as error:
            raise SourceError(f"{error.filename} cannot be read: {error.strerror}") from None

    async def close(self) -> None:
        """See `Source`."""
