"""What the disk itself can do: the bound that no mail server with fsync gets past.

Two files are written in batches, each batch as many records as there are sessions, and both are
fdatasynced at the same time before the next batch: what copies 2 on one disk costs with no mail server around.
"""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.load import Load

_LATENCY_WRITES = 300
_LATENCY_SIZE = 4096
_MAX_BYTES = 1 << 30  # of one file; then the round ends early


@dataclass(frozen=True, slots=True)
class DiskSample:
    """Records written twice."""

    messages_per_second: float
    megabytes_per_second: float  # of records, counted once


def write_twice(directory: Path, load: Load, seconds: float) -> DiskSample:
    """Write batches to two files for so long."""
    batch = os.urandom(load.size) * load.sessions
    paths = [directory / "first", directory / "second"]
    files = [os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o600) for path in paths]

    def commit(file: int) -> None:
        os.write(file, batch)
        os.fdatasync(file)

    batches = 0
    try:
        with ThreadPoolExecutor(len(files)) as pool:
            begin = time.perf_counter()
            while time.perf_counter() - begin < seconds and batches * len(batch) < _MAX_BYTES:
                list(pool.map(commit, files))
                batches += 1
            elapsed = time.perf_counter() - begin
    finally:
        for file, path in zip(files, paths, strict=True):
            os.close(file)
            path.unlink()
    return DiskSample(batches * load.sessions / elapsed, batches * len(batch) / elapsed / 1e6)


def fdatasync_latency(directory: Path) -> dict[str, float]:
    """Seconds of an appending 4 KiB write with its fdatasync: median and 99th percentile, in milliseconds."""
    path = directory / "latency"
    file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o600)
    record = os.urandom(_LATENCY_SIZE)
    taken = []
    try:
        for _ in range(_LATENCY_WRITES):
            begin = time.perf_counter()
            os.write(file, record)
            os.fdatasync(file)
            taken.append(time.perf_counter() - begin)
    finally:
        os.close(file)
        path.unlink()
    taken.sort()
    return {"p50_ms": statistics.median(taken) * 1e3, "p99_ms": taken[int(len(taken) * 0.99)] * 1e3}
