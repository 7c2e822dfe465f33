"""When each segment on this volume was last read through, kept across restarts.

    scrub.json: {"segments": {segment id: seconds since 1970, ...}}

One that is not in it counts from when it was begun: its bytes were checked as they came. Written at most once in
SAVE_INTERVAL; what a crash loses is read once more. It promises nothing and may be deleted at any time.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection

from mailarray.journal.disk import SyncPoint
from mailarray.journal.volume import Volume
from mailarray.model.ids import SegmentId, parse_id

log = logging.getLogger(__name__)

SAVE_INTERVAL = 60.0  # seconds; a segment is read in some minutes at the usual pace


class ScrubMemory:
    """See the module."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._path = volume.path / "scrub.json"
        self._seen: dict[SegmentId, float] = {}
        self._changed = False
        self._saved_at = float("-inf")
        try:
            raw = json.loads(self._path.read_text(encoding="ascii"))
            self._seen = {SegmentId(parse_id(segment)): float(at) for segment, at in raw["segments"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # nothing remembered

    def last(self, segment: SegmentId, begun: float) -> float:
        """When it was read through last, seconds since 1970. A time that is still to come is a wrong clock's, and says
        nothing: it counts as never."""
        at = self._seen.get(segment, begun)
        return at if at <= time.time() else 0.0

    def note(self, segment: SegmentId, at: float) -> None:
        """It was read through, and is whole."""
        self._seen[segment] = at
        self._changed = True

    def keep_only(self, segments: Collection[SegmentId]) -> None:
        """The others are not here any more."""
        for gone in self._seen.keys() - segments:
            del self._seen[gone]

    @property
    def due(self) -> bool:
        """There is something new, and it is time to save it."""
        return self._changed and time.monotonic() - self._saved_at >= SAVE_INTERVAL

    def save(self) -> None:
        """Blocking. Raises OSError."""
        text = json.dumps({"segments": {segment.hex(): int(at) for segment, at in self._seen.items()}}) + "\n"
        self._changed, self._saved_at = False, time.monotonic()
        self._volume.disk.replace_file(self._path, text.encode(), SyncPoint.MEMORY_FILE, SyncPoint.MEMORY_NAME)
