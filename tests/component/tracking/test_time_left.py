"""A rebuild at a slow pace says how long it takes; when it is done, nothing is said."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from mailarray.contract.settings import StorageSettings
from mailarray.journal.disk import Disk
from tests.component.tracking.test_repair import Sent, registered
from tests.support.array_of_three import Array, fast_clocks

RATE = 20_000  # bytes a second; the wiped server held some 50 kB


async def test_a_rebuild_says_how_long_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_clocks(monkeypatch)
    monkeypatch.setattr("mailarray.tracking.time_left.EVERY", 0.02)
    monkeypatch.setattr("mailarray.tracking.time_left.LEAST", 0.2)
    storage = StorageSettings(reserve=0, mirror_timeout=2.0, segment_size=8_000, copy_rate=RATE)
    array = Array(tmp_path, [Disk() for _ in range(3)], storage)
    try:
        await array.start()
        await array.until(
            lambda: all(s.agent and s.agent.link.state and s.agent.link.state.open for s in array.servers), 30
        )
        sent = Sent()
        await sent.deliver(array, range(3), rounds=10)
        await registered(array, sent)
        wiped = array.servers[2]
        await wiped.kill()
        shutil.rmtree(wiped.settings.volume)
        await wiped.start()
        told: list[tuple[float, dict[str, Any]]] = []

        def done() -> bool:
            assert wiped.agent is not None
            status = wiped.agent.status()
            if status["rebuild"] is not None:
                told.append((time.monotonic(), {"rebuild": status["rebuild"], "copying": status["copying"]}))
            return bool(told) and bool(told[-1][1]["rebuild"]["done"])

        await array.until(done, 40)
        end = told[-1][0]
        for work in ("rebuild", "copying"):
            known = [(at, one[work]["seconds_left"]) for at, one in told if one[work]["seconds_left"] is not None]
            assert known, f"{work}: nobody ever said how long"
            at, seconds = known[len(known) // 2]
            print(f"{work}: said {seconds} s, took {end - at:.1f} s")
            assert 0 < seconds < 40  # what is right about it is a unit test's; a busy machine is not even
        assert told[-1][1]["rebuild"]["seconds_left"] is None
    finally:
        await array.close()
