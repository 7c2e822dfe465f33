"""Memory while many of the largest messages are received at once: it must not grow with their size."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench.addresses import MAILBOXES
from bench.load import Load, send
from bench.peers.mailarray_peer import array
from bench.processes import Sampler

MESSAGES = 20
_HEADER_ROOM = 64 * 1024  # bytes: message header, line ends and trace fit below the limit of 50 MiB with it
SIZE = 50 * 1024 * 1024 - _HEADER_ROOM
_SAMPLE = 0.05  # seconds between two looks


def run(directory: Path, size: int = SIZE, messages: int = MESSAGES) -> dict[str, Any]:
    """Resident memory of all processes of the array, added over that of the warm, idle array."""
    with array(directory, copies=2) as started:
        send(Load(4096, messages), MAILBOXES, [started.ports.smtp])
        started.catalog.wait(MAILBOXES)
        time.sleep(1.0)
        before, before_pss = started.daemon.rss(), started.daemon.pss()
        with Sampler(started.daemon, _SAMPLE, proportional=False) as sampler:
            begin = time.perf_counter()
            send(Load(size, messages), messages, [started.ports.smtp])
            started.catalog.wait(MAILBOXES + messages)
            seconds = time.perf_counter() - begin
    return {
        "messages": messages,
        "size_bytes": size,
        "seconds": round(seconds, 2),
        "rss_before_mib": round(before / 2**20, 1),
        "pss_before_mib": round(before_pss / 2**20, 1),
        "rss_peak_mib": round(sampler.peak / 2**20, 1),
        "rss_added_mib": round((sampler.peak - before) / 2**20, 1),
    }
