from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.access_fakes import FakeArray


@pytest.fixture
async def array(tmp_path: Path) -> AsyncIterator[FakeArray]:
    """An array that is not started; stopped at the end."""
    array = FakeArray(tmp_path)
    yield array
    await array.stop()
