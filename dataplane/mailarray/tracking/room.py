"""Whether this server's volume is nearly full: what it says to writers, to the operator and to the launcher.

A volume is full from the moment that less than its reserve is free until a good deal more is: who is taken out of the
mirroring table and put back ends a segment each time. Nothing is promised by this: each write finds out for itself.
"""

from __future__ import annotations

from collections.abc import Callable

ROOM_AGAIN = 1.5  # reserves that must be free before a full volume counts as one with room


class Room:
    """See the module."""

    def __init__(self, free_bytes: Callable[[], int], reserve: int) -> None:
        self._free_bytes = free_bytes
        self._reserve = reserve
        self._full = False

    def full(self) -> bool:
        """Looks, and remembers."""
        free = self._free_bytes()
        self._full = free < (self._reserve * ROOM_AGAIN if self._full else self._reserve)
        return self._full
