"""Three servers in one process, none of which runs yet; files that need other settings make their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailarray.contract.settings import StorageSettings
from mailarray.journal.disk import Disk
from tests.support.array_of_three import Array, fast_clocks


@pytest.fixture
async def array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Array]:
    fast_clocks(monkeypatch)
    made_array = Array(tmp_path, [Disk(), Disk(), Disk()], StorageSettings(reserve=0, mirror_timeout=2.0))
    yield made_array
    await made_array.close()
