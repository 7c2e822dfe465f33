"""Leaving alone what failed just now: for a while that doubles with each failure in a row.

Each try of a disk that fails costs a segment that somebody has to seal and keep, so a try for each message that comes
would leave thousands of them. Used by the writer for its own volume, by its links for mirrors that refuse batches.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST = 1.0  # seconds after one failure
MOST = 10.0  # seconds; a disk that works again is not left alone for longer


class Backoff:
    """See the module. Times are seconds of the clock `now`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._pause = 0.0
        self._until = 0.0

    @property
    def waiting(self) -> bool:
        """It failed just now, and is to be left alone."""
        return self._now() < self._until

    def failed(self) -> None:
        """Once more."""
        self._pause = min(2 * self._pause, MOST) or FIRST
        self._until = self._now() + self._pause

    def worked(self) -> None:
        """The next failure is a first one again."""
        self._pause = self._until = 0.0
