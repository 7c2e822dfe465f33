"""What a sidecar remembers of the catalog across restarts: to notice that it was restored (rule 19), and to know with
the catalog away which volumes nobody has to wait for (rule 20).

    memory.json: {"epoch": int, "counter": int, "retired": [volume id, ...]}

counter = registrations of this volume; only grows. retired = volumes that were drained: all that they held is on
`copies` others; a version that does not know the word ignores it.

Written with fdatasync before it counts, at most once a second: what is remembered may lag behind, never run ahead.
"""

from __future__ import annotations

import json
import time

from mailarray.journal.disk import SyncPoint
from mailarray.journal.volume import Volume
from mailarray.model.ids import VolumeId, parse_id

SAVE_INTERVAL = 1.0  # seconds


class CatalogMemory:
    """Epoch, counter and retired volumes, as last heard and as last saved."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._path = volume.path / "memory.json"
        self.epoch = 0
        self.counter = 0
        self.retired: frozenset[VolumeId] = frozenset()
        self._saved: tuple[int, int, frozenset[VolumeId]] = (0, 0, self.retired)
        self._saved_at = 0.0
        try:
            raw = json.loads(self._path.read_text(encoding="ascii"))
            self.epoch, self.counter = int(raw["epoch"]), int(raw["counter"])
            self.retired = frozenset(VolumeId(parse_id(volume)) for volume in raw.get("retired", ()))
            self._saved = self.epoch, self.counter, self.retired
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing remembered: the catalog is believed, as at the first start

    def due(self) -> bool:
        """There is something new, and it is time to save it."""
        return (
            self.epoch,
            self.counter,
            self.retired,
        ) != self._saved and time.monotonic() - self._saved_at >= SAVE_INTERVAL

    def save(self) -> None:
        """Make it durable. Blocking. Raises OSError."""
        state = self.epoch, self.counter, self.retired
        retired = sorted(volume.hex() for volume in state[2])
        text = json.dumps({"epoch": state[0], "counter": state[1], "retired": retired}) + "\n"
        self._volume.disk.replace_file(self._path, text.encode(), SyncPoint.MEMORY_FILE, SyncPoint.MEMORY_NAME)
        self._saved = state
        self._saved_at = time.monotonic()
