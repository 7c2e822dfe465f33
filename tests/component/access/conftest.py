from __future__ import annotations

from collections.abc import AsyncIterator
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


@pytest.fixture(scope="session")
def event_loop_policy() -> uvloop.EventLoopPolicy:
    """The event loop of production: its transports are not those of asyncio."""
    return uvloop.EventLoopPolicy()
