"""The tests run on uvloop, as the smtp process does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from mailarray.contract.settings import StorageSettings
from mailarray.journal.disk import Disk
from tests.component.smtp.placing_bench import Placing
from tests.support.array_of_three import Array, fast_clocks


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Placing]:
    fast_clocks(monkeypatch)
    storage = StorageSettings(reserve=0, mirror_timeout=2.0)
    array = Array(tmp_path, [Disk(), Disk(), Disk()], storage, names=("slow-0", "fast-0", "fast-1"))
    await array.start()
    made = Placing(array)
    yield made
    await made.close()
