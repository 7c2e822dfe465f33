"""Whether a mailbox gets slower as it fills: the rate into one that holds many messages against an empty one."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from bench.addresses import address
from bench.load import Load, send
from bench.peers.mailarray_peer import array

_LOAD = Load(4096, 20)
_FILL = Load(512, 60)
_FULL = 1  # the mailbox that is filled; the empty ones follow
_FILL_AT_ONCE = 20_000  # messages of one smtp-source run


def run(directory: Path, held: int, rounds: int, messages: int) -> dict[str, Any]:
    """Alternating rounds, each into the full mailbox and into one that is empty until then."""
    rates: dict[str, list[float]] = {"full": [], "empty": []}
    with array(directory, copies=2) as started:
        total = 0

        def deliver(load: Load, count: int, recipient: str) -> float:
            nonlocal total
            total += count
            begin = time.perf_counter()
            send(load, count, [started.ports.smtp], recipient, numbered=False)
            started.catalog.wait(total)
            return count / (time.perf_counter() - begin)

        for begin in range(0, held, _FILL_AT_ONCE):
            deliver(_FILL, min(_FILL_AT_ONCE, held - begin), address(_FULL))
        for number in range(rounds):
            rates["empty"].append(deliver(_LOAD, messages, address(_FULL + 1 + number)))
            rates["full"].append(deliver(_LOAD, messages, address(_FULL)))
    full, empty = statistics.median(rates["full"]), statistics.median(rates["empty"])
    return {
        "held": held,
        "messages_per_second": {"full": round(full, 1), "empty": round(empty, 1)},
        "ratio": round(full / empty, 3),
        "rounds": {name: [round(r, 1) for r in values] for name, values in rates.items()},
    }
