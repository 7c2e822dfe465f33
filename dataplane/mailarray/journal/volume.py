"""A volume: a directory with an id, and segments in it.

    volume.json        {"format": 1, "volume": "<32 hex digits>"}, written once, at the first use
    writer.lock        locked (flock) by the writer process while it runs (rule 9)
    segments/ID.segment    the bytes of one segment, as far as this member holds them
    segments/ID.fence      JSON: what this member has promised about the segment (fence.py)
    segments/ID.copy       part of a segment that is being copied here (tracking/copying.py); nobody is promised it
    trial              written, synced and removed to see whether the disk takes anything; holds nothing
    segments/ID.output     part of a segment that is being compacted here (tracking/output.py); likewise
    memory.json        the sidecar's durable memory of the catalog (rule 19)
    index.sqlite       the sidecar's local index; may be deleted at any time

Invariant: the id is durable before anything else is written, and never changes. A wiped directory gets a new id, so
it can never be taken for the member that it was (rule 9).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from mailarray.journal.disk import Disk, SyncPoint
from mailarray.model.ids import SegmentId, VolumeId, new_volume_id, parse_id

FORMAT = 1
SEGMENT_SUFFIX = ".segment"
FENCE_SUFFIX = ".fence"
COPY_SUFFIX = ".copy"
OUTPUT_SUFFIX = ".output"
TRIAL, TRIAL_BYTES = "trial", 4096


class VolumeError(Exception):
    """A volume that cannot be used; the text is one sentence that says what to do."""


@lru_cache(4096)  # taking a path to pieces costs more than looking one up, and a segment is named often while it is new
def _path(prefix: str, segment: SegmentId, suffix: str) -> Path:
    return Path(f"{prefix}{segment.hex()}{suffix}")


class Volume:
    """A volume that is open in this process."""

    def __init__(self, path: Path, id: VolumeId, disk: Disk) -> None:
        self.path = path
        self.id = id
        self.disk = disk
        self.segments = path / "segments"
        self._prefix = f"{self.segments}/"

    def segment_path(self, segment: SegmentId) -> Path:
        """Where the bytes of a segment lie."""
        return _path(self._prefix, segment, SEGMENT_SUFFIX)

    def fence_path(self, segment: SegmentId) -> Path:
        """Where the promises about a segment lie."""
        return _path(self._prefix, segment, FENCE_SUFFIX)

    def copy_path(self, segment: SegmentId) -> Path:
        """Where a copy of a segment lies until it is whole."""
        return _path(self._prefix, segment, COPY_SUFFIX)

    def output_path(self, segment: SegmentId) -> Path:
        """Where a compacted segment lies until it is whole."""
        return _path(self._prefix, segment, OUTPUT_SUFFIX)

    def list_segments(self) -> list[SegmentId]:
        """All segments of which this volume holds bytes or a promise, oldest first. Raises VolumeError."""
        return self._list((SEGMENT_SUFFIX, FENCE_SUFFIX))

    def list_copies(self) -> list[SegmentId]:
        """Segments of which part of a copy is here. Raises VolumeError."""
        return self._list((COPY_SUFFIX,))

    def list_outputs(self) -> list[SegmentId]:
        """Segments of which part of a compaction is here. Raises VolumeError."""
        return self._list((OUTPUT_SUFFIX,))

    def _list(self, suffixes: tuple[str, ...]) -> list[SegmentId]:
        try:
            names = os.listdir(self._prefix)  # noqa: PTH208  a list of names, and no object for each
        except OSError as error:
            raise VolumeError(f"the volume {self.path} cannot be read: {error.strerror}") from error
        found = set()
        for name in names:
            stem, dot, suffix = name.partition(".")
            if dot + suffix in suffixes:
                with contextlib.suppress(ValueError):
                    found.add(SegmentId(parse_id(stem)))
        return sorted(found)

    def free_bytes(self) -> int:
        """Bytes that can still be written."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def size_bytes(self) -> int:
        """Bytes of the file system that it lies on."""
        found = os.statvfs(self.path)
        return found.f_blocks * found.f_frsize

    def try_write(self) -> None:
        """See whether the disk takes anything: a block of nothing. Blocking. Raises OSError.

        Nothing is promised of it, so it is no `SyncPoint`."""
        path = self.path / TRIAL
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            os.write(fd, bytes(TRIAL_BYTES))
            os.fdatasync(fd)
        finally:
            os.close(fd)
        path.unlink()

    def try_lock_writer(self) -> int | None:
        """Become the volume's writer, or None when another process is. Close the descriptor to let go."""
        fd = os.open(self.path / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    @contextlib.contextmanager
    def writer_locked(self) -> Iterator[bool]:
        """Hold the writer's lock for a moment; yields False when a writer runs (rule 9)."""
        fd = self.try_lock_writer()
        try:
            yield fd is not None
        finally:
            if fd is not None:
                os.close(fd)


def open_volume(path: Path, disk: Disk) -> Volume:
    """Open a volume, and make it at its first use; safe when both processes of a server do so at once.

    Raises VolumeError.
    """
    try:
        new = [directory for directory in (path, *path.parents) if not directory.exists()]
        (path / "segments").mkdir(parents=True, exist_ok=True)
        for directory in new:
            disk.sync_directory(directory.parent, SyncPoint.VOLUME_DIRECTORY)
        with _creation_lock(path):
            identity = path / "volume.json"
            if not identity.exists():
                if any((path / "segments").glob("*" + SEGMENT_SUFFIX)):
                    raise VolumeError(
                        f"{identity} is missing, but the volume holds segments;"
                        " put the file back, or move the directory away to begin an empty volume"
                    )
                text = json.dumps({"format": FORMAT, "volume": new_volume_id().hex()}) + "\n"
                disk.replace_file(identity, text.encode(), SyncPoint.VOLUME_FILE, SyncPoint.VOLUME_DIRECTORY)
            else:  # a crash may have come between its rename and the sync of the name
                disk.sync_directory(path, SyncPoint.VOLUME_DIRECTORY)
        return read_volume(path, disk)
    except OSError as error:
        raise VolumeError(
            f"the volume {path} cannot be used: {error.strerror}; check the owner, mode and mount of {error.filename}"
        ) from error


def read_volume(path: Path, disk: Disk) -> Volume:
    """Open a volume that exists, without writing anything. Raises VolumeError."""
    identity = path / "volume.json"
    try:
        raw = json.loads(identity.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise VolumeError(f"{identity} has format {raw['format']}; this program knows format {FORMAT}")
        return Volume(path, VolumeId(parse_id(raw["volume"])), disk)
    except FileNotFoundError as error:
        raise VolumeError(f"{path} is not a volume: it has no volume.json") from error
    except OSError as error:
        raise VolumeError(f"the volume {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise VolumeError(f"{identity} is damaged: {error}; restore it from the segments' headers") from error


@contextlib.contextmanager
def _creation_lock(path: Path) -> Iterator[None]:
    fd = os.open(path / "creation.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
