"""The writer's word to its own sidecar: what is acknowledged, and which segments it has left.

One UNIX datagram soon after a batch and every 500 ms. Each one carries the whole state, so a lost one costs nothing,
and a sidecar that is away costs the writer nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mailarray.model.ids import IncarnationId, SegmentId, parse_id

SOCKET_NAME = "sidecar.sock"
MIN_INTERVAL = 0.008  # seconds between two words about batches: the sidecar gathers for longer than that
REMEMBERED_CLOSED = 32  # segments; more are found by their files


State = tuple[IncarnationId, int, SegmentId | None, int]  # incarnation, worker, segment written, acknowledged in it


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the sidecar hears."""

    incarnation: IncarnationId
    worker: int
    segment: SegmentId | None  # the one that the writer may append to; the sidecar leaves its file alone
    acknowledged: int  # 0 while its first batch is under way
    closed: dict[SegmentId, int]  # segments left by this incarnation -> durable length on the own volume
    number: int = 0  # of the word in this incarnation, from 1 on; 0: a writer of the version before


class Announcer:
    """Sends announcements; see the module. The writer sets `state`."""

    state: Callable[[], State]

    def __init__(self, run_directory: Path) -> None:
        self._path = str(run_directory / SOCKET_NAME)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._closed: OrderedDict[str, int] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._number = 0

    def closed(self, segment: SegmentId, length: int) -> None:
        """This process never appends to the segment again; `length` is durable on the own volume."""
        self._closed[segment.hex()] = length
        while len(self._closed) > REMEMBERED_CLOSED:
            self._closed.popitem(last=False)

    def announce_soon(self) -> None:
        """Tell the state within MIN_INTERVAL, with whatever comes until then."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(MIN_INTERVAL, self.announce)

    def announce(self) -> None:
        """Tell the whole state as it is now: a stale word could make the sidecar take a segment that is in use."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        incarnation, worker, segment, acknowledged = self.state()
        self._number += 1
        text = json.dumps(
            {
                "incarnation": incarnation.hex(),
                "worker": worker,
                "segment": segment.hex() if segment else None,
                "acknowledged": acknowledged,
                "closed": self._closed,
                "number": self._number,
            }
        )
        with contextlib.suppress(OSError):  # no sidecar, or it lags: the next one says the same and more
            self._socket.sendto(text.encode(), self._path)

    def close(self) -> None:
        """Close the socket."""
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()


def parse(data: bytes) -> Announcement:
    """Parse what `announce` sent. Raises ValueError."""
    raw = json.loads(data)
    try:
        return Announcement(
            IncarnationId(parse_id(raw["incarnation"])),
            int(raw["worker"]),
            SegmentId(parse_id(raw["segment"])) if raw["segment"] else None,
            int(raw["acknowledged"]),
            {SegmentId(parse_id(segment)): int(length) for segment, length in raw["closed"].items()},
            int(raw.get("number", 0)),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an announcement: {error}") from error
