"""The access process itself, with the real directory and catalog: starts, serves, stops on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path

import pytest

from mailarray.contract import mirroring_ring, mirroring_table, settings
from tests.support.access_fakes import TOKEN, FakeArray
from tests.support.pop3_dialog import Client

pytest.importorskip("mailarray.catalog.database")
pytest.importorskip("mailarray.directory.flatfile")

PROGRAM = """
import sys, uvloop
from mailarray.access.process import run
from mailarray.contract import settings
uvloop.run(run(settings.load(settings.AccessSettings, sys.argv[1])))
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def test_start_serve_stop(tmp_path: Path) -> None:
    array = FakeArray(tmp_path)
    (tmp_path / "accounts").write_text("")
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "table").write_text(mirroring_table.dump(mirroring_ring.ring([], 1)))
    chosen = array.settings()
    port = free_port()
    raw = settings.dump(chosen).replace('"port": 0', f'"port": {port}', 2).replace(f'"port": {port}', '"port": 0', 1)
    raw = raw.replace('"unused"', f'"{tmp_path}/accounts"').replace("sqlite:///unused", f"sqlite:///{tmp_path}/cat.db")
    (tmp_path / "settings.json").write_text(raw)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(tmp_path / "settings.json"), stderr=asyncio.subprocess.PIPE
    )
    try:
        for _ in range(200):
            try:
                async with Client(port) as client:
                    assert (await client.line()).startswith("+OK")
                    assert await client.log_in_only("ann@mail.example", "x") == "-ERR [AUTH] wrong name or password"
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
        else:
            pytest.fail("the process does not listen")
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 0, err
        assert b"Traceback" not in err
    finally:
        if process.returncode is None:
            process.kill()
