"""Which writers live (rule 15). Decided by this process' own monotonic clock; nothing reads another machine's time.

Invariant: a writer counts as silent only when its beat in the catalog has not moved for T while the catalog could be
reached, and there was no direct word from it for T either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mailarray.model.ids import IncarnationId, VolumeId

SILENCE = 2.0  # T, seconds

Beat = tuple[VolumeId, IncarnationId, int]


class Watch:
    """Observes beats and words."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen: dict[Beat, tuple[int, float]] = {}  # counter, when it last moved (or was first seen missing)
        self._observed_since: float | None = None

    def observe(self, beats: Mapping[Beat, int], of_interest: set[Beat]) -> None:
        """The catalog was read just now. A missing beat counts as one that does not move."""
        now = self._now()
        if self._observed_since is None:
            self._observed_since = now
        for beat in of_interest:
            counter = beats.get(beat, -1)
            known = self._seen.get(beat)
            if known is None or known[0] != counter:
                self._seen[beat] = (counter, now)
        for beat in list(self._seen):
            if beat not in of_interest:
                del self._seen[beat]

    def lost_sight(self) -> None:
        """The catalog could not be reached: what was seen before proves nothing any more."""
        self._seen.clear()
        self._observed_since = None

    def silent(self, beat: Beat, last_word: float) -> bool:
        """Whether that writer's segments may be sealed by its mirrors."""
        now = self._now()
        seen = self._seen.get(beat)
        return seen is not None and now - seen[1] >= SILENCE and now - last_word >= SILENCE
