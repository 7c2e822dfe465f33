"""What a backup says of itself, and the names of everything in a target (docs/formats/backup.md).

    mailarray-backup.json                {"format": 1}; a place without it is no target yet
    segments/SEGMENT-LENGTH-SHA256       the bytes of a segment up to the length that it was sealed with
    backups/ID.flags, ID.accounts        JSON lines: what the journals do not hold
    backups/ID.json                      the manifest, written last

Invariant: a manifest is written when everything that it names is there, and never changed: a backup that was
interrupted is none, and what it had copied is found by the next one, since a segment's name says what is in it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mailarray.backup.store import NotThere, Store, TargetError
from mailarray.model.ids import SegmentId, parse_id

FORMAT = 1
MARKER = "mailarray-backup.json"
SEGMENTS, BACKUPS = "segments", "backups"
_SEGMENT = re.compile(rf"{SEGMENTS}/([0-9a-f]{{32}})-([0-9]+)-([0-9a-f]{{64}})")
_MANIFEST = re.compile(rf"{BACKUPS}/([0-9TZ.]+)\.json")
_ID_FORMAT = "%Y%m%dT%H%M%S.%f"


@dataclass(frozen=True, slots=True, order=True)
class StoredSegment:
    """A segment as a target keeps it."""

    segment: SegmentId
    length: int
    sha256: str

    @property
    def name(self) -> str:
        """Of the object."""
        return f"{SEGMENTS}/{self.segment.hex()}-{self.length}-{self.sha256}"

    @classmethod
    def of_name(cls, name: str) -> StoredSegment | None:
        """From an object's name; None for another object."""
        match = _SEGMENT.fullmatch(name)
        return None if match is None else cls(SegmentId(parse_id(match[1])), int(match[2]), match[3])


@dataclass(frozen=True, slots=True)
class Part:
    """A file of JSON lines beside the manifest."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class MissingSegment:
    """A segment that should be in the backup and could not be had whole."""

    segment: SegmentId
    length: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """One backup."""

    id: str
    began: datetime  # everything that was acknowledged before is in it
    ended: datetime
    segments: tuple[StoredSegment, ...]
    missing: tuple[MissingSegment, ...] = ()
    epoch: int | None = None  # of the catalog; None: it was away
    uidvalidity: int | None = None
    volumes: tuple[dict[str, Any], ...] = ()  # {"volume", "server", "lost", "retired"} as the catalog had them
    flags: Part | None = None  # None: the catalog was away
    accounts: Part | None = None  # None: they could not be had
    copied_segments: int = 0  # that the target had not yet
    copied_bytes: int = 0
    troubles: tuple[str, ...] = field(default=())  # sentences

    @property
    def name(self) -> str:
        """Of the object."""
        return f"{BACKUPS}/{self.id}.json"

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(s.length for s in self.segments)

    def objects(self) -> dict[str, int | None]:
        """Everything that it names, with sizes as far as they are known."""
        parts: dict[str, int | None] = {part.name: None for part in (self.flags, self.accounts) if part is not None}
        return {s.name: s.length for s in self.segments} | parts

    def encode(self) -> bytes:
        """As JSON."""
        raw = {
            "format": FORMAT,
            "id": self.id,
            "began": self.began.isoformat(),
            "ended": self.ended.isoformat(),
            "segments": [[s.segment.hex(), s.length, s.sha256] for s in self.segments],
            "missing": [{"segment": m.segment.hex(), "length": m.length, "reason": m.reason} for m in self.missing],
            "catalog": {"epoch": self.epoch, "uidvalidity": self.uidvalidity, "volumes": list(self.volumes)},
            "flags": _encode_part(self.flags),
            "accounts": _encode_part(self.accounts),
            "copied": {"segments": self.copied_segments, "bytes": self.copied_bytes},
            "troubles": list(self.troubles),
        }
        return json.dumps(raw, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes, name: str) -> Manifest:
        """Raises TargetError."""
        try:
            raw = json.loads(data)
            if raw["format"] != FORMAT:
                raise TargetError(f"{name} has format {raw['format']}; this program knows format {FORMAT}")
            catalog, copied = raw["catalog"], raw["copied"]
            return cls(
                raw["id"],
                datetime.fromisoformat(raw["began"]),
                datetime.fromisoformat(raw["ended"]),
                tuple(StoredSegment(SegmentId(parse_id(s)), int(n), str(digest)) for s, n, digest in raw["segments"]),
                tuple(
                    MissingSegment(SegmentId(parse_id(m["segment"])), m["length"], m["reason"]) for m in raw["missing"]
                ),
                catalog["epoch"],
                catalog["uidvalidity"],
                tuple(catalog["volumes"]),
                _decode_part(raw["flags"]),
                _decode_part(raw["accounts"]),
                copied["segments"],
                copied["bytes"],
                tuple(raw["troubles"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise TargetError(f"{name} is damaged: {error}; use another backup") from None


def _encode_part(part: Part | None) -> dict[str, Any] | None:
    return None if part is None else {"name": part.name, "rows": part.rows, "sha256": part.sha256}


def _decode_part(raw: Any) -> Part | None:
    return None if raw is None else Part(raw["name"], int(raw["rows"]), raw["sha256"])


def backup_id(time: datetime) -> str:
    """Sorts as time does."""
    return time.astimezone(UTC).strftime(_ID_FORMAT)[:-3] + "Z"


async def check_target(store: Store, *, make: bool) -> None:
    """Whether it is a target of this format; with `make`, an empty one is made one. Raises TargetError."""
    try:
        raw = json.loads(await store.read(MARKER))
        if raw["format"] != FORMAT:
            raise TargetError(f"the target has format {raw['format']}; this program knows format {FORMAT}")
        return
    except NotThere:
        pass
    except (ValueError, KeyError, TypeError):
        raise TargetError(f"{MARKER} in the target is damaged; it should hold {{'format': {FORMAT}}}") from None
    if not make:
        raise TargetError(f"there are no backups: the target has no {MARKER}")
    await store.put_bytes(MARKER, json.dumps({"format": FORMAT}).encode() + b"\n")


async def stored_segments(store: Store) -> dict[tuple[SegmentId, int], StoredSegment]:
    """What the target has, by segment and length; a part of an object (of a wrong size) does not count."""
    found = {}
    for name, size in (await store.list(SEGMENTS)).items():
        stored = StoredSegment.of_name(name)
        if stored is not None and stored.length == size:
            found[stored.segment, stored.length] = stored
    return found


async def backup_ids(store: Store) -> list[str]:
    """All backups, oldest first."""
    names = await store.list(BACKUPS)
    return sorted(match[1] for name in names if (match := _MANIFEST.fullmatch(name)))


async def load(store: Store, id: str) -> Manifest:
    """Raises TargetError."""
    name = f"{BACKUPS}/{id}.json"
    return Manifest.decode(await store.read(name), name)


async def newest(store: Store, at: datetime | None = None) -> Manifest:
    """The newest backup, or the newest that began at or before a time. Raises TargetError."""
    ids = await backup_ids(store)
    if at is not None:
        ids = [id for id in ids if id <= backup_id(at)]
    if not ids:
        raise TargetError("there is no backup" + ("" if at is None else f" from {at.isoformat()} or before"))
    return await load(store, ids[-1])
