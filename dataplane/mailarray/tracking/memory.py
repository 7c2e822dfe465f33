"""What a sidecar remembers of the catalog across restarts: to notice that it was restored (rule 19), and to know with
the catalog away which volumes nobody has to wait for (rule 20).

    memory.json: {"epoch": int, "counter": int, "counters": {volume id: int, ...}, "retired": [volume id, ...],
     "lost": [volume id, ...], "repaired": [volume id, ...], "servers": {volume id: name, ...}}

counter = registrations of this volume; only grows. counters = those of all volumes, as heard last in that epoch: when
the one that registered is gone for good, the others still notice that the catalog was restored. retired = volumes that
were drained: all that they held is on `copies` others; lost = volumes that never come back; repaired = those of them
of which the same is true. Headers name them for ever, so a catalog that was made anew is told that nobody has to wait
for them. servers = whose volume each one was: a catalog that was restored to before one began does not know it, and
could not see that another is in its place. A version that does not know these words ignores them.

Written with fdatasync before it counts, at most once a second: what is remembered may lag behind, never run ahead. Who
is about to remove bytes on what the catalog said saves first.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from mailarray.journal.disk import SyncPoint
from mailarray.journal.volume import Volume
from mailarray.model.ids import VolumeId, parse_id

SAVE_INTERVAL = 1.0  # seconds
_WORDS = ("retired", "lost", "repaired")
_State = tuple[int, int, Mapping[VolumeId, int], tuple[frozenset[VolumeId], ...], Mapping[VolumeId, str]]


class CatalogMemory:
    """Epoch, counter and the volumes that are gone, as last heard and as last saved."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._path = volume.path / "memory.json"
        self.epoch = 0
        self.counter = 0
        self.counters: Mapping[VolumeId, int] = {}
        self.retired: frozenset[VolumeId] = frozenset()
        self.lost: frozenset[VolumeId] = frozenset()
        self.repaired: frozenset[VolumeId] = frozenset()
        self.servers: Mapping[VolumeId, str] = {}
        self.heard = False  # the volumes of the array were heard of, by this process or one before it
        self._saved = self._state
        self._saved_at = 0.0
        self._turn = threading.Lock()
        try:
            raw = json.loads(self._path.read_text(encoding="ascii"))
            self.epoch, self.counter = int(raw["epoch"]), int(raw["counter"])
            counters = raw.get("counters", {})
            self.counters = {VolumeId(parse_id(volume)): int(count) for volume, count in counters.items()}
            self.retired, self.lost, self.repaired = (
                frozenset(VolumeId(parse_id(volume)) for volume in raw.get(word, ())) for word in _WORDS
            )
            servers = raw.get("servers", {})
            self.servers = {VolumeId(parse_id(volume)): str(name) for volume, name in servers.items()}
            self._saved = self._state
            self.heard = self.epoch > 0
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # nothing remembered: the catalog is believed, as at the first start

    @property
    def _state(self) -> _State:
        return self.epoch, self.counter, self.counters, (self.retired, self.lost, self.repaired), self.servers

    @property
    def gone(self) -> frozenset[VolumeId]:
        """Volumes whose every segment `copies` others hold: nobody has to hear from them (rule 20)."""
        return self.retired | self.repaired

    def due(self) -> bool:
        """There is something new, and it is time to save it."""
        return self._state != self._saved and time.monotonic() - self._saved_at >= SAVE_INTERVAL

    def save(self) -> None:
        """Make it durable. Blocking; one at a time. Raises OSError."""
        with self._turn:
            self._save()

    def _save(self) -> None:
        state = self._state
        epoch, counter, heard, sets, servers = state
        volumes = {word: sorted(volume.hex() for volume in ids) for word, ids in zip(_WORDS, sets, strict=True)}
        counters = {volume.hex(): count for volume, count in heard.items()}
        said: dict[str, Any] = {"epoch": epoch, "counter": counter, "counters": counters, **volumes}
        text = json.dumps({**said, "servers": {volume.hex(): name for volume, name in servers.items()}}) + "\n"
        self._volume.disk.replace_file(self._path, text.encode(), SyncPoint.MEMORY_FILE, SyncPoint.MEMORY_NAME)
        self._saved = state
        self._saved_at = time.monotonic()
