"""Where the segments of an array come from, and one of them fetched whole from whichever volumes hold it.

Invariants:
- `held` answers every segment with mail that was acknowledged before it was called, each with a length that ends a
  batch and covers all that was acknowledged in it; nothing is appended to those any more.
- A segment counts as collected only when it was read through: every checksum of every byte up to that length. What is
  damaged or missing on one volume is taken from another one; a segment is the same bytes everywhere (rule 4).

Two sources: an array that runs (`running.py`), and one that does not (`stopped.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mailarray.journal.scan import survey
from mailarray.model.ids import SegmentId, VolumeId


class SourceError(Exception):
    """The array cannot be read, or not whole; one sentence."""


class Uncollectable(Exception):
    """No volume, nor all of them together, hold the segment whole; the text says why."""


@dataclass(frozen=True, slots=True)
class Held:
    """A segment, and who holds it."""

    segment: SegmentId
    length: int  # L, or what fenced members agree on while the catalog is away
    volumes: tuple[VolumeId, ...]


class Source(Protocol):
    """An array."""

    notes: list[str]  # sentences for the person who asked, after `held`

    async def held(self) -> list[Held]:
        """All segments. Raises SourceError when too few volumes can be read."""
        ...

    def read(self, volume: VolumeId, segment: SegmentId, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes [start, end) as one volume has them, or fewer. Raises SourceError."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


async def collect(source: Source, held: Held, file: Path) -> str:
    """Write a whole segment to a file; answers its SHA-256. Raises Uncollectable, OSError (of the file)."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        bad = [(0, held.length)]
        reasons: list[str] = []
        first = held.segment[-1] % max(1, len(held.volumes))  # reads are spread over those that hold them
        for volume in (*held.volumes[first:], *held.volumes[:first]):
            try:
                for start, end in bad:
                    await _copy(source, volume, held.segment, start, end, descriptor)
            except SourceError as error:
                reasons.append(str(error))
            bad, reason = await asyncio.to_thread(problems, descriptor, held.segment, held.length)
            if not bad:
                return await asyncio.to_thread(sha256_of, file)
            reasons.append(f"volume {volume.hex()}: {reason}")
        raise Uncollectable("; ".join(reasons) or "no volume holds it")
    finally:
        os.close(descriptor)


async def _copy(source: Source, volume: VolumeId, segment: SegmentId, start: int, end: int, descriptor: int) -> None:
    position = start
    async for piece in source.read(volume, segment, start, end):
        position += await asyncio.to_thread(os.pwrite, descriptor, piece[: end - position], position)


def problems(descriptor: int, segment: SegmentId, length: int) -> tuple[list[tuple[int, int]], str]:
    """The ranges of an open file that are not that segment's bytes up to the length, and why. Blocking."""
    found = survey(descriptor, segment, sealed_length=length)
    if found.header is not None and found.header.segment != segment:
        return [(0, length)], "it is another segment"
    bad = [(d.start, min(d.end, length)) for d in found.damages]
    reason = found.damages[0].reason if bad else f"it holds {found.length} of {length} bytes"
    end = max(found.length, *(end for _, end in bad)) if bad else found.length
    if end < length:
        bad.append((end, length))
    return bad, reason


def sha256_of(file: Path) -> str:
    """Blocking."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
