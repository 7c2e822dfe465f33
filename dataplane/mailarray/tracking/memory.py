"""What a sidecar remembers of the catalog across restarts, so that it notices when the catalog was restored (rule 19).

    memory.json: {"epoch": int, "counter": int}     counter = registrations of this volume; only grows

Written with fdatasync before it counts, at most once a second: what is remembered may lag behind, never run ahead.
"""

from __future__ import annotations

import json
import time

from mailarray.journal.disk import SyncPoint
from mailarray.journal.volume import Volume

SAVE_INTERVAL = 1.0  # seconds


class CatalogMemory:
    """Epoch and counter, as last heard and as last saved."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._path = volume.path / "memory.json"
        self.epoch = 0
        self.counter = 0
        self._saved = (0, 0)
        self._saved_at = 0.0
        try:
            raw = json.loads(self._path.read_text(encoding="ascii"))
            self.epoch, self.counter = self._saved = int(raw["epoch"]), int(raw["counter"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing remembered: the catalog is believed, as at the first start

    def due(self) -> bool:
        """There is something new, and it is time to save it."""
        return (self.epoch, self.counter) != self._saved and time.monotonic() - self._saved_at >= SAVE_INTERVAL

    def save(self) -> None:
        """Make it durable. Blocking. Raises OSError."""
        state = self.epoch, self.counter
        text = json.dumps({"epoch": state[0], "counter": state[1]}) + "\n"
        self._volume.disk.replace_file(self._path, text.encode(), SyncPoint.MEMORY_FILE, SyncPoint.MEMORY_NAME)
        self._saved = state
        self._saved_at = time.monotonic()
