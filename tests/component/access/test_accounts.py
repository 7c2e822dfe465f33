"""An access server whose accounts are in a database: its own snapshot, and a sidecar's when the database is away."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mailarray.access.array import ServerArray
from mailarray.access.sidecar_accounts import SidecarAccounts
from mailarray.contract import mirroring_ring, mirroring_table, paths, settings
from mailarray.contract.mirroring_table import Server
from mailarray.contract.settings import CatalogSettings, DirectorySettings, DomainSettings, Listen
from mailarray.directory.accounts_file import AccountLine
from mailarray.directory.database.changes import Wanted
from mailarray.directory.database.store import AccountStore
from mailarray.directory.directory import DirectoryUnavailable
from mailarray.directory.keeping import SnapshotKeeper
from mailarray.directory.rows import AccountsUnavailable, Position, Sink
from mailarray.directory.snapshot_file import SnapshotWriter, dump
from mailarray.tracking.accounts import ServerAccounts
from tests.support.access_fakes import TOKEN, FakeArray
from tests.support.pop3_dialog import Client

HASH = "$argon2id$v=19$m=8,t=1,p=1$jLSnaPk6bC50Eye4b+Jk6w$"


class Away:
    """A database that is not there."""

    async def feed(self, since: Position | None, sink: Sink) -> bool:
        raise AccountsUnavailable("away")


class Sidecar:
    """The accounts' part of a sidecar on a port; `cut` breaks its answers off."""

    def __init__(self, path: Path, url: str) -> None:
        path.mkdir()
        stand_in = dataclasses.make_dataclass("Settings", ["catalog", "directory"])
        directory = DirectorySettings(domains=(), snapshot_file=str(path / "snapshot.sqlite"))
        self.accounts = ServerAccounts(stand_in(CatalogSettings(url=url), directory))
        self.cut = False
        self.asked: list[str] = []

    async def start(self) -> Server:
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        return Server("mail-0", f"127.0.0.1:{port}", f"127.0.0.1:{port}")

    async def stop(self) -> None:
        await self.accounts._keeper.close()
        await self.accounts._store.close()
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        if request.path != paths.ACCOUNTS:
            return web.Response(status=404)
        if self.cut:
            return web.Response(text='{"position": [9, 9]}\n{"accounts": [["x@y", "", null, true, 1, false]]}\n')
        return await self.accounts.answer(request)


@pytest.fixture
async def sidecar(tmp_path: Path) -> AsyncIterator[Sidecar]:
    made = Sidecar(tmp_path / "server", f"sqlite:///{tmp_path}/catalog.sqlite")
    yield made
    await made.stop()


@pytest.fixture
async def array(tmp_path: Path, sidecar: Sidecar) -> AsyncIterator[ServerArray]:
    server = await sidecar.start()
    (tmp_path / "table").write_text(mirroring_table.dump(mirroring_ring.ring([server], 1)))
    (tmp_path / "token").write_text(TOKEN)
    made = ServerArray(str(tmp_path / "table"), str(tmp_path / "token"))
    await made.start()
    yield made
    await made.stop()


async def test_a_sidecar_gives_its_snapshot_whole_or_not_at_all(
    tmp_path: Path, sidecar: Sidecar, array: ServerArray
) -> None:
    now = 100.0
    own = tmp_path / "own" / "snapshot.sqlite"
    keeper = SnapshotKeeper(own, Away(), SidecarAccounts(array), clock=lambda: now)
    store = sidecar.accounts._store
    many = [AccountLine(f"u{i}@mail.example", HASH, (f"a{i}@mail.example",), i) for i in range(2500)]
    await store.put([Wanted(line) for line in many])

    await keeper.one_pass()
    assert list(dump(own)) == []  # the sidecar has none either
    await sidecar.accounts._keeper.one_pass()
    assert not await keeper.one_pass()
    assert list(dump(own)) == []  # asked a moment ago
    now += 60
    await keeper.one_pass()
    theirs = list(dump(sidecar.accounts._keeper.file))
    assert list(dump(own)) == theirs and len(theirs) == 7

    now += 60
    await keeper.one_pass()
    assert sidecar.asked[-1].endswith("revision=1")  # 204: nothing is newer
    sidecar.cut = True
    now += 60
    await keeper.one_pass()
    assert list(dump(own)) == theirs
    sidecar.cut = False
    await store.remove("u7@mail.example")
    await sidecar.accounts._keeper.one_pass()
    now += 60
    await keeper.one_pass()
    assert list(dump(own)) == list(dump(sidecar.accounts._keeper.file)) != theirs
    await keeper.close()

    later = SnapshotKeeper(own, store)  # the database is back: what is here is a point of its history
    await store.set_password("u8@mail.example", "")
    assert await later.one_pass()
    await sidecar.accounts._keeper.one_pass()
    assert list(dump(own)) == list(dump(sidecar.accounts._keeper.file))
    await later.close()


async def test_without_any_snapshot_a_login_is_put_off(tmp_path: Path) -> None:
    array = FakeArray(tmp_path)

    async def verify(login: str, password: str) -> Any:
        raise DirectoryUnavailable("none yet")

    array.directory.verify = verify  # type: ignore[method-assign]
    await array.start()
    async with Client(array.port) as client:
        said = await client.log_in("ann@mail.example", "secret")
        assert said == "-ERR [SYS/TEMP] the accounts cannot be read now, try again later"
    await array.stop()


PROGRAM = """
import sys, uvloop
from mailarray.access.process import run
from mailarray.contract import settings
uvloop.run(run(settings.load(settings.AccessSettings, sys.argv[1], "access-7")))
"""


async def test_the_process_starts_with_the_database_away_and_answers_from_its_snapshot(tmp_path: Path) -> None:
    import argon2

    stored = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("correct horse")
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "table").write_text(mirroring_table.dump(mirroring_ring.ring([], 1)))
    (tmp_path / "url").write_text("postgresql://m:geheim@127.0.0.1:1/mail")
    (tmp_path / "access-7").mkdir()
    store = AccountStore(lambda: f"sqlite:///{tmp_path}/catalog.sqlite")
    await store.add(AccountLine("ann@mail.example", stored))
    writer = SnapshotWriter(tmp_path / "access-7" / "accounts.sqlite")
    await store.feed(None, writer)
    await writer.close()
    await store.close()
    chosen = dataclasses.replace(
        FakeArray(tmp_path).settings(),
        name="{pod}",
        pop3=Listen(host="127.0.0.1", port=0),
        catalog=CatalogSettings(url_file=str(tmp_path / "url")),
        directory=DirectorySettings(
            domains=(DomainSettings(name="mail.example"),), snapshot_file=str(tmp_path / "{pod}" / "accounts.sqlite")
        ),
    )
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    chosen = dataclasses.replace(chosen, pop3=Listen(host="127.0.0.1", port=port))
    (tmp_path / "settings.json").write_text(settings.dump(chosen))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(tmp_path / "settings.json"),
        stderr=asyncio.subprocess.PIPE, env=dict(os.environ),
    )  # fmt: skip
    try:
        for _ in range(400):
            try:
                async with Client(port) as client:
                    wrong = await client.log_in("ann@mail.example", "wrong")
                    assert wrong == "-ERR [AUTH] wrong name or password"
                    # Right, but of its mailbox nothing is known: no server is there.
                    assert "SYS/TEMP" in await client.log_in_only("ann@mail.example", "correct horse")
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
        else:
            pytest.fail("the process does not listen")
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.wait_for(process.communicate(), 15)
        assert process.returncode == 0, err
        assert b"Traceback" not in err and b"geheim" not in err
    finally:
        if process.returncode is None:
            process.kill()
