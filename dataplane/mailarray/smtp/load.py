"""How loaded a server is: one number from 0 (idle) to 1 (it can take no more), and the parts that it is made of.

Pure: figures in, numbers out, time as an argument. Called by the meter (`load_report.py`); what each part means, and
why it is measured so, stands in docs/load.md. Refuses to know who reads the number: what to do about it is for the
reader.

Invariants
- The load never falls when a figure gets worse, is 0 when every figure is 0, and 1 as soon as one limit is reached.
- It is the largest part, not a sum: what is used up first stops a server, however much is left of everything else.
- Smoothing depends on the time that passed, not on how often somebody looked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

RISE_SECONDS = 5.0  # time constant: one slow commit or burst moves the load by a fifth at most, a lasting one by all
FALL_SECONDS = 15.0  # calm is believed later than trouble: who returns too early comes back at once
FORGET_SECONDS = 60.0  # a server that commits nothing proves nothing about its disk: the last word fades within a TTL
RATE_SECONDS = 10.0  # of the accepted rate, which only informs

COMMIT_RANGE = 100.0  # the part `commit` is 0 at the mirror timeout divided by this: 10 ms, a healthy disk under load
DISK_WARN_RESERVES = 16  # a GiB with the default reserve: about a minute, one TTL, of mail at the rate of one server
DISK_WARN_SHARE = 0.1  # of a small volume
DISK_WARN_LEAST = 2  # reserves; so that `disk` has a slope even on the smallest volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured in one interval, with the limits that it is measured against."""

    sessions: int
    max_connections: int
    pending_bytes: int  # in memory, on their way to the own volume and to the mirrors
    pending_limit: int
    commit_seconds: float | None  # mean of the commits that ended, or the age of the present one; None: there was none
    commit_limit: float  # seconds; the mirror timeout
    loop_share: float  # of the interval in which the event loop's thread ran, or waited for a processor
    disk_free: int  # bytes
    disk_size: int
    reserve: int


class Parts(NamedTuple):
    """Each from 0 to 1."""

    sessions: float = 0.0
    pending: float = 0.0
    commit: float = 0.0
    loop: float = 0.0
    disk: float = 0.0


def parts(figures: Figures) -> Parts:
    """The parts at this moment, not smoothed."""
    return Parts(
        sessions=_clamp(figures.sessions / figures.max_connections),
        pending=_clamp(figures.pending_bytes / figures.pending_limit),
        commit=_commit(figures.commit_seconds or 0.0, figures.commit_limit),
        loop=_clamp(figures.loop_share),
        disk=_disk(figures.disk_free, figures.disk_size, figures.reserve),
    )


def load(now: Parts, *, refusing: bool = False) -> float:
    """The one number; a server that refuses all mail is loaded, whatever its parts say."""
    return 1.0 if refusing else max(now)


def warn_level(disk_size: int, reserve: int) -> float:
    """Free bytes of the volume below which the part `disk` rises from 0."""
    return max(DISK_WARN_LEAST * reserve, min(DISK_WARN_RESERVES * reserve, DISK_WARN_SHARE * disk_size))


def _commit(seconds: float, limit: float) -> float:
    # Waiting times in front of something that saturates grow over orders of magnitude; on a straight scale all of them
    # but the last would look like 0.
    if seconds * COMMIT_RANGE <= limit:
        return 0.0
    return _clamp(1.0 + math.log(seconds / limit) / math.log(COMMIT_RANGE))


def _disk(free: int, size: int, reserve: int) -> float:
    if free <= reserve:
        return 1.0
    warn = warn_level(size, reserve)
    return 0.0 if free >= warn else (warn - free) / (warn - reserve)


def _clamp(value: float) -> float:
    return min(1.0, max(0.0, value))


@dataclass(frozen=True, slots=True)
class Smoothed:
    """Parts over time, and the accepted rate."""

    at: float  # seconds, of any clock that only goes forward
    parts: Parts
    accepted_per_second: float = 0.0


def smooth(before: Smoothed, figures: Figures, accepted_per_second: float, at: float) -> Smoothed:
    """Take one more interval into account; it began at `before.at`, and ended now."""
    passed = max(0.0, at - before.at)
    fading = FORGET_SECONDS if figures.commit_seconds is None else FALL_SECONDS
    fall = Parts(FALL_SECONDS, FALL_SECONDS, fading, FALL_SECONDS, FALL_SECONDS)
    moved = Parts(
        *(
            _toward(old, new, RISE_SECONDS if new > old else slowly, passed)
            for old, new, slowly in zip(before.parts, parts(figures), fall, strict=True)
        )
    )
    rate = _toward(before.accepted_per_second, accepted_per_second, RATE_SECONDS, passed)
    return Smoothed(at, moved, rate)


def _toward(old: float, new: float, constant: float, passed: float) -> float:
    return new + (old - new) * math.exp(-passed / constant)
