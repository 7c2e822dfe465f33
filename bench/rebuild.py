"""How fast the catalog comes back from the journals, and in how much memory.

Journals of a few and of many messages are put under an array that is started on them; then
`mailarray catalog rebuild` drops the catalog and builds it again, and that is what is timed.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from bench import journals
from bench.peers.mailarray_peer import Array, array, mailarray
from bench.processes import Daemon, NotStarted, Sampler

_SAMPLE = 0.2  # seconds between two looks at memory
_TIMEOUT = 3600.0  # seconds for one rebuild


def command(started: Array) -> list[str]:
    """What an operator types."""
    return mailarray("catalog", "rebuild", "--data", str(started.data))


def run(directory: Path, sizes: list[int]) -> dict[str, Any]:
    """One rebuild for each number of messages."""
    results = [_rebuild(directory, messages) for messages in sizes]
    first, last = results[0], results[-1]
    return {
        "rebuilds": results,
        "messages_per_second": last["messages_per_second"],
        "rss_growth_mib": round(last["rss_peak_mib"] - first["rss_peak_mib"], 1),
    }


def _rebuild(directory: Path, messages: int) -> dict[str, Any]:
    def fill(data: Path) -> None:
        journals.write([data / "servers" / name / "volume" for name in ("mail-0", "mail-1")], messages)

    with array(directory, copies=2, before_start=fill) as started:
        started.catalog.wait(messages)
        begin = time.perf_counter()
        rebuild = Daemon("mailarray catalog rebuild", command(started), directory / "rebuild-output")
        try:
            with (
                Sampler(started.daemon, _SAMPLE, proportional=False) as servers,
                Sampler(rebuild, _SAMPLE, proportional=False) as itself,
            ):
                code = rebuild.wait(_TIMEOUT)
                seconds = time.perf_counter() - begin
                if code:
                    raise NotStarted(f"the rebuild ended with exit code {code}: {rebuild.last_lines()}")
            started.catalog.wait(messages)
        except subprocess.TimeoutExpired:
            raise NotStarted(f"the rebuild of {messages} messages took over {_TIMEOUT:.0f} s") from None
        finally:
            rebuild.stop()
    return {
        "messages": messages,
        "seconds": round(seconds, 2),
        "messages_per_second": round(messages / seconds, 1),
        "rss_peak_mib": round((servers.peak + itself.peak) / 2**20, 1),
        "rss_peak_command_mib": round(itself.peak / 2**20, 1),
    }
