"""What a server says of its load: a real writer and listener, the internal port, and a clock that the test turns."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import REGISTRY

from mailarray.contract import paths
from mailarray.contract.mirroring_table import MirroringTable
from mailarray.contract.settings import (
    CatalogSettings,
    DirectorySettings,
    DomainSettings,
    Listen,
    ServerSettings,
    SmtpLimits,
    SmtpSettings,
    StorageSettings,
)
from mailarray.journal.disk import Disk, SyncPoint
from mailarray.observe.http import bound_port, internal_app, serve
from mailarray.smtp import load_report
from mailarray.smtp.listener import SmtpListener
from mailarray.smtp.load_report import LoadMeter
from mailarray.smtp.process import follow_table, status
from tests.component.smtp.test_listener import until
from tests.component.smtp.wire import Client
from tests.unit.mirroring.doubles import Bench
from tests.unit.smtp.doubles import MemoryDirectory

ANYWHERE = Listen(host="127.0.0.1", port=0)


class Server:
    """A writer, a listener and a meter, put together as the process does it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.busy = 0.0
        self.settings = ServerSettings(
            cluster="example",
            server="mail-0",
            volume="unused",
            run_directory="unused",
            smtp=SmtpSettings(
                listen=ANYWHERE,
                hostname="mx.mail.example",
                limits=SmtpLimits(max_connections=4, soft_limit_percent=50, soft_pending_bytes=10_000_000),
            ),
            writer=ANYWHERE,
            sidecar=ANYWHERE,
            token_file="unused",
            mirroring_table_file="unused",
            storage=StorageSettings(reserve=0),
            catalog=CatalogSettings(url="sqlite:////unused"),
            directory=DirectorySettings(domains=(DomainSettings(name="mail.example"),), accounts_file="unused"),
        )
        writer = bench.writer
        self.listener = SmtpListener(self.settings.smtp, MemoryDirectory(), writer, lambda: writer.pending_bytes)
        self.meter = LoadMeter(self.settings, writer, self.listener, lambda: bench.clock, lambda: self.busy)

    def pass_time(self, seconds: float) -> None:
        self.bench.clock += seconds
        self.meter.sample()

    @property
    def parts(self) -> dict[str, float]:
        return dict(self.meter.report["parts"])


class SlowDisk(Disk):
    """A disk whose syncs take as long as the test's clock says."""

    bench: Bench | None = None
    seconds = 0.0

    def sync(self, fd: int, point: SyncPoint) -> None:
        if self.bench is not None:
            self.bench.clock += self.seconds
        super().sync(fd, point)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    disk = SlowDisk()
    async with Bench(tmp_path, disk=disk) as bench:
        disk.bench = bench
        made = Server(bench)
        follow_table(bench.writer, made.listener)
        await made.listener.start()
        yield made
        await made.listener.stop(0)


async def test_over_the_internal_port(server: Server) -> None:
    server.bench.mirrors.links.clear()  # the doubles know no state
    app = internal_app("s3cret", lambda: status(server.settings, server.bench.writer, server.listener, server.meter))
    server.meter.add_route(app)
    runner = await serve(app, ANYWHERE)
    url = f"http://127.0.0.1:{bound_port(runner)}"
    try:
        async with aiohttp.ClientSession() as http:
            assert (await http.get(url + paths.LOAD)).status == 401
            token = {"Authorization": "Bearer s3cret"}
            answer = await http.get(url + paths.LOAD, headers=token)
            text = await answer.read()
            assert answer.content_type == "application/json" and len(text) < 500
            assert json.loads(text) == {
                "server": "mail-0",
                "load": 0.0,
                "parts": {"sessions": 0.0, "pending": 0.0, "commit": 0.0, "loop": 0.0, "disk": 0.0},
                "refusing": None,
                "shedding": 0.0,
                "accepted_per_second": 0.0,
                "sessions": 0,
                "max_connections": 4,
                "pending_bytes": 0,
                "pending_limit": 10_000_000,
                "commit_seconds": None,
                "disk_free": server.meter.report["disk_free"],
            }
            shown = await (await http.get(url + paths.STATUS, headers=token)).json()
            assert shown["load"] == json.loads(text)
            metrics = await (await http.get(url + paths.METRICS, headers=token)).text()
            assert "mailarray_load 0.0" in metrics and 'mailarray_load_part{part="commit"} 0.0' in metrics
    finally:
        await runner.cleanup()


async def test_sessions_shed_and_fall_back(server: Server) -> None:
    clients = [await Client.connect(server.listener.port) for _ in range(3)]
    await until(lambda: server.listener.sessions == 3)
    server.pass_time(1000)
    assert server.parts["sessions"] == 0.75 and server.meter.report["load"] == 0.75
    assert server.meter.report["shedding"] == 0.5
    assert REGISTRY.get_sample_value("mailarray_load") == 0.75
    assert REGISTRY.get_sample_value("mailarray_smtp_shed_share") == 0.5
    for client in clients:
        client.close()
    await until(lambda: server.listener.sessions == 0)
    server.pass_time(1)
    assert 0.6 < server.meter.report["load"] < 0.75 and server.meter.report["shedding"] == 0.0
    server.pass_time(1000)
    assert server.meter.report["load"] == 0.0


async def test_commits(server: Server) -> None:
    disk = server.bench.volume.disk
    assert isinstance(disk, SlowDisk)
    await server.bench.submit()
    await server.bench.submit()
    server.pass_time(20)
    assert server.meter.report["accepted_per_second"] > 0
    assert server.parts["commit"] == 0.0 and server.meter.report["commit_seconds"] < 0.01
    disk.seconds = 0.1
    await server.bench.submit()
    server.pass_time(1000)
    assert server.parts["commit"] == pytest.approx(0.5, abs=0.01)
    assert server.meter.report["commit_seconds"] == pytest.approx(0.1, abs=0.01)
    server.pass_time(10)
    assert server.meter.report["commit_seconds"] is None
    assert 0.4 < server.parts["commit"] < 0.45, "it proved nothing, and is not forgotten at once"


async def test_a_commit_that_hangs_shows_before_it_ends(server: Server) -> None:
    held = server.bench.links[0].gate = asyncio.Event()
    outcome = server.bench.submit()
    await until(lambda: server.bench.writer.commit_age() is not None)
    server.pass_time(0.5)
    server.pass_time(0.5)
    assert server.meter.report["commit_seconds"] == 1.0
    assert server.parts["commit"] > 0.15
    held.set()
    await outcome
    assert server.bench.writer.commit_age() is None


async def test_loop_share(server: Server) -> None:
    server.busy += 3.0
    server.pass_time(10)
    assert 0.25 < server.parts["loop"] < 0.3
    server.busy += 2000.0
    server.pass_time(1000)
    assert server.parts["loop"] == 1.0


async def test_a_draining_server_is_loaded_and_one_that_returns_is_not(server: Server) -> None:
    table = server.bench.table
    for state, word, number in (("Draining", "the server is draining", 1.0), ("Serving", None, 0.0)):
        servers = (dataclasses.replace(table.servers[0], state=state), *table.servers[1:])
        table = MirroringTable(table.generation + 1, servers, table.rows)
        assert server.bench.writer.set_table(table)
        follow_table(server.bench.writer, server.listener)
        server.pass_time(1)
        assert (server.meter.report["refusing"], server.meter.report["load"]) == (word, number)
        assert server.meter.report["shedding"] == number


async def test_the_table_says_whether_there_is_an_elsewhere(server: Server) -> None:
    own, *others = server.bench.table.servers
    for generation, states, elsewhere in ((2, ["Draining", "Draining"], False), (3, ["Draining", "Serving"], True)):
        servers = (own, *(dataclasses.replace(o, state=s) for o, s in zip(others, states, strict=True)))
        server.bench.writer.set_table(MirroringTable(generation, servers, server.bench.table.rows))
        follow_table(server.bench.writer, server.listener)
        assert server.listener._door.elsewhere is elsewhere


async def test_it_goes_on_after_an_error(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(load_report, "SAMPLE_SECONDS", 0.001)
    errors = [OSError("gone"), OSError("gone")]

    def free_bytes() -> int:
        if errors:
            raise errors.pop()
        return 12345

    monkeypatch.setattr(server.bench.volume, "free_bytes", free_bytes)
    server.bench.clock += 1
    with caplog.at_level(logging.CRITICAL, "mailarray.smtp.load_report"):
        running = asyncio.create_task(server.meter.run())
        await until(lambda: server.meter.report["disk_free"] == 12345)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_this_threads_own_time_grows() -> None:
    before = load_report.busy_seconds()
    sum(range(300_000))
    assert load_report.busy_seconds() > before
