"""What is in a target: fetched and checked, verified as a whole, and thinned out.

Invariant: `prune` removes a manifest before anything that only it names, and removes nothing else than what no
manifest names; a manifest that cannot be read stops it. It must not run while a backup is being made (the backup
notices, and says that it is to be run again).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailarray.backup import manifest
from mailarray.backup.manifest import BACKUPS, SEGMENTS, Manifest, Part, StoredSegment
from mailarray.backup.source import problems
from mailarray.backup.store import NotThere, Store, TargetError


async def fetch_segment(store: Store, stored: StoredSegment, file: Path) -> None:
    """A segment into a file, every checksum looked at. Raises TargetError, OSError (of the file)."""
    await _fetch(store, stored.name, stored.sha256, file)

    def check() -> str:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            bad, reason = problems(descriptor, stored.segment, stored.length)
            return reason if bad else "" if size == stored.length else f"it has {size} bytes"
        finally:
            os.close(descriptor)

    reason = await asyncio.to_thread(check)
    if reason:
        raise TargetError(f"{stored.name} is damaged: {reason}")


async def fetch_part(store: Store, part: Part, file: Path) -> None:
    """Flags or accounts into a file. Raises TargetError, OSError (of the file)."""
    await _fetch(store, part.name, part.sha256, file)


async def _fetch(store: Store, name: str, sha256: str, file: Path) -> None:
    digest = hashlib.sha256()
    with file.open("wb") as opened:
        async for piece in store.pieces(name):
            digest.update(piece)
            await asyncio.to_thread(opened.write, piece)
    if digest.hexdigest() != sha256:
        raise TargetError(f"{name} is damaged: its SHA-256 is {digest.hexdigest()}, not {sha256}")


@dataclass(slots=True)
class Verified:
    """What a verification found."""

    segments: int = 0
    bytes: int = 0
    backups: int = 0
    bad: list[str] = field(default_factory=list)  # sentences

    async def look_at(self, name: str, fetching: Awaitable[object]) -> None:
        """Note what is wrong with one object, if anything is."""
        try:
            await fetching
        except NotThere:
            self.bad.append(f"{name} is missing")
        except TargetError as error:
            self.bad.append(str(error))


async def verify(
    store: Store, backups: Sequence[Manifest], scratch: Path, progress: Callable[[int, int], None]
) -> Verified:
    """Read everything that those backups name, each object once. Raises TargetError when the target is away."""
    found = Verified(backups=len(backups))
    segments = sorted({segment for backup in backups for segment in backup.segments})
    total, file = sum(s.length for s in segments), scratch / "verify"
    try:
        for segment in segments:
            await found.look_at(segment.name, fetch_segment(store, segment, file))
            found.segments += 1
            found.bytes += segment.length
            progress(found.bytes, total)
        for part in (part for backup in backups for part in (backup.flags, backup.accounts) if part is not None):
            await found.look_at(part.name, fetch_part(store, part, file))
    finally:
        file.unlink(missing_ok=True)
    return found


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed."""

    backups: int
    segments: int
    bytes: int


async def prune(store: Store, keep: int) -> Pruned:
    """Keep that many of the newest backups, and what they name. Raises TargetError."""
    if keep < 1:
        raise TargetError("at least one backup is kept; remove the whole target by hand if that is what you want")
    ids = await manifest.backup_ids(store)
    kept = [await manifest.load(store, id) for id in ids[-keep:]]
    named = {name for backup in kept for name in backup.objects()} | {backup.name for backup in kept}
    old = ids[:-keep]
    await store.delete([f"{BACKUPS}/{id}.json" for id in old])
    parts = [name for name in await store.list(BACKUPS) if name not in named]
    segments = {
        name: size
        for name, size in (await store.list(SEGMENTS)).items()
        if name not in named and StoredSegment.of_name(name) is not None
    }
    await store.delete([*parts, *segments])
    return Pruned(len(old), len(segments), sum(segments.values()))
