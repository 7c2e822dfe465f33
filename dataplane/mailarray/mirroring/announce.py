"""The writer's word to its own sidecar: what is acknowledged, and which segments it has left.

One UNIX datagram after each batch and every 500 ms. Each one carries the whole state, so a lost one costs nothing,
and a sidecar that is away costs the writer nothing.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from mailarray.model.ids import IncarnationId, SegmentId, parse_id

SOCKET_NAME = "sidecar.sock"
REMEMBERED_CLOSED = 32  # segments; more are found by their files


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the sidecar hears."""

    incarnation: IncarnationId
    worker: int
    segment: SegmentId | None  # the one that the writer may append to; the sidecar leaves its file alone
    acknowledged: int  # 0 while its first batch is under way
    closed: dict[SegmentId, int]  # segments left by this incarnation -> durable length on the own volume


class Announcer:
    """Sends announcements; see the module."""

    def __init__(self, run_directory: Path) -> None:
        self._path = str(run_directory / SOCKET_NAME)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._closed: OrderedDict[str, int] = OrderedDict()

    def closed(self, segment: SegmentId, length: int) -> None:
        """This process never appends to the segment again; `length` is durable on the own volume."""
        self._closed[segment.hex()] = length
        while len(self._closed) > REMEMBERED_CLOSED:
            self._closed.popitem(last=False)

    def announce(self, incarnation: IncarnationId, worker: int, current: tuple[SegmentId, int] | None) -> None:
        """Tell the whole state."""
        text = json.dumps(
            {
                "incarnation": incarnation.hex(),
                "worker": worker,
                "segment": current[0].hex() if current else None,
                "acknowledged": current[1] if current else 0,
                "closed": self._closed,
            }
        )
        with contextlib.suppress(OSError):  # no sidecar, or it lags: the next one says the same and more
            self._socket.sendto(text.encode(), self._path)

    def close(self) -> None:
        """Close the socket."""
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
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an announcement: {error}") from error
