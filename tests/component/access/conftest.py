from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

from tests.support.access_fakes import FakeArray


@pytest.fixture
async def array(tmp_path: Path) -> AsyncIterator[FakeArray]:
    """An array that is not started; stopped at the end."""
    array = FakeArray(tmp_path)
    yield array
    await array.stop()


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop of production: its transports are not those of asyncio."""
    return {"uvloop": uvloop.new_event_loop}
