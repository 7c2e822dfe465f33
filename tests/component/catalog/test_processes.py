"""Several processes on one database, and a database that goes away."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mailarray.catalog import engine_sqlite
from mailarray.catalog.catalog import Catalog, CatalogUnavailable
from mailarray.catalog.database import migrate, open_catalog
from mailarray.catalog.rows import NotRegistered, Registered
from tests.component.catalog.sidecar import Sidecar, message, tombstone
from tests.support.postgres import PostgresServer

BATCHES, BATCH, MAILBOXES = 12, 20, 5

WRITER = textwrap.dedent("""
    import asyncio, random, sys
    from mailarray.catalog.database import open_catalog
    from tests.component.catalog.sidecar import Sidecar, message

    async def main(url, name, batches, batch, mailboxes):
        catalog = await open_catalog(url)
        sidecar = Sidecar(catalog, name)
        await sidecar.check_in()
        rng = random.Random(name)
        for _ in range(int(batches)):
            boxes = [f"{rng.randrange(int(mailboxes))}@x" for _ in range(int(batch))]
            await sidecar.register(*(message(box) for box in boxes))
        await catalog.close()

    asyncio.run(main(*sys.argv[1:]))
""")


async def test_three_processes_register_at_once(url: str) -> None:
    # They also find no schema and make it, at once.
    arguments = [str(BATCHES), str(BATCH), str(MAILBOXES)]
    writers = [
        await asyncio.create_subprocess_exec(
            *[sys.executable, "-c", WRITER, url, f"mail-{i}", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
        )
        for i in range(3)
    ]
    for writer in writers:
        _, errors = await writer.communicate()
        assert writer.returncode == 0, errors.decode()
    catalog = await open_catalog(url)
    volumes = [row.id for row in await catalog.volumes()]
    for volume in volumes:
        await catalog.caught_up(volume, 1, [], 9)
    boxes = [await catalog.mailbox(f"{i}@x") for i in range(MAILBOXES)]
    for entries in boxes:
        assert [entry.uid for entry in entries] == list(range(1, len(entries) + 1))
        by_segment = sorted(entries, key=lambda e: (e.locations[0].segment, e.uid))
        for _, run in itertools.groupby(by_segment, key=lambda e: e.locations[0].segment):
            offsets = [entry.locations[0].offset for entry in run]
            assert offsets == sorted(offsets)
    assert sum(map(len, boxes)) == 3 * BATCHES * BATCH == (await catalog.counts()).messages
    await catalog.close()


async def test_tombstones_and_placements_at_the_same_moment(url: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    catalogs = [await open_catalog(url) for _ in range(3)]
    sidecars = [Sidecar(catalog, f"mail-{i}") for i, catalog in enumerate(catalogs)]
    for sidecar in sidecars:
        await sidecar.check_in()
    await catalogs[0].caught_up(sidecars[0].volume, 1, [], 9)
    for _ in range(15):
        rows = [message("a@x", "b@x") for _ in range(8)]
        others = rng.sample(rows, len(rows))  # the same ids from two segments, in another order
        stones = [tombstone(row, i) for row in rows for i in (0, 1)]
        rng.shuffle(stones)
        calls = [sidecars[0].register(*rows), sidecars[1].register(*others), catalogs[2].expunge(stones)]
        rng.shuffle(calls)
        await asyncio.gather(*calls)
        assert await catalogs[0].mailbox("a@x") == await catalogs[0].mailbox("b@x") == []
    for catalog in catalogs:
        await catalog.close()


async def test_the_same_run_from_four_connections_at_once(url: str) -> None:
    catalogs = [await open_catalog(url) for _ in range(4)]
    sidecar = Sidecar(catalogs[0])
    await sidecar.join()
    for i in range(1, 11):
        run = sidecar.run([message("a@x"), message("b@x")])
        answers = await asyncio.gather(*(catalog.register(sidecar.volume, run) for catalog in catalogs))
        assert sorted(map(str, answers)) == [str(NotRegistered("cursor", run.end))] * 3 + [str(Registered(i))]
        sidecar.at = run.end
    for catalog in catalogs:
        await catalog.close()


async def test_postgresql_away_and_back(postgres: PostgresServer) -> None:
    url = postgres.fresh_database()
    catalog = await open_catalog(url)
    sidecar = Sidecar(catalog)
    await sidecar.join()
    await asyncio.gather(*(catalog.mailbox("a@x") for _ in range(6)))  # several connections in the pool
    postgres.stop()
    try:
        for _ in range(2):
            with pytest.raises(CatalogUnavailable, match=r"127\.0\.0\.1") as refused:
                await sidecar.register(message("a@x"))
            assert "\n" not in str(refused.value)
            with pytest.raises(CatalogUnavailable):
                await catalog.mailbox("a@x")
        late = await open_catalog(url)
    finally:
        postgres.start()
    await sidecar.register(message("a@x"))
    answers = await asyncio.gather(*(catalog.mailbox("a@x") for _ in range(6)))
    assert [len(entries) for entries in answers] == [1] * 6
    assert len(await late.mailbox("a@x")) == 1
    await catalog.close()
    await late.close()


async def test_postgresql_restarted_between_two_calls(postgres: PostgresServer) -> None:
    catalog = await open_catalog(postgres.fresh_database())
    sidecar = Sidecar(catalog)
    await sidecar.join()
    await asyncio.gather(*(catalog.beats() for _ in range(6)))
    postgres.stop()
    postgres.start()
    with pytest.raises(CatalogUnavailable):
        await sidecar.register(message("a@x"))
    for _ in range(6):  # one failure is enough to drop all connections that are dead
        assert await catalog.beats() == {}
    await sidecar.register(message("a@x"))
    await catalog.close()


async def test_sqlite_locked_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_sqlite, "BUSY_SECONDS", 0.1)
    catalog = await open_catalog(f"sqlite:///{tmp_path}/catalog.db")
    sidecar = Sidecar(catalog)
    await sidecar.join()
    other = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(CatalogUnavailable, match="locked"):
        await sidecar.register(message("a@x"))
    assert await catalog.mailbox("a@x") == []  # readers go on
    other.execute("ROLLBACK")
    await sidecar.register(message("a@x"))
    assert len(await catalog.mailbox("a@x")) == 1
    other.close()
    await catalog.close()


async def test_sqlite_directory_comes_later(tmp_path: Path) -> None:
    catalog = await open_catalog(f"sqlite:///{tmp_path}/late/catalog.db")
    with pytest.raises(CatalogUnavailable, match="No such file"):
        await catalog.volumes()
    (tmp_path / "late").mkdir()
    assert await catalog.volumes() == []
    await catalog.close()


async def test_a_call_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    engine = engine_sqlite.SqliteEngine(tmp_path / "catalog.db")
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with pytest.raises(CatalogUnavailable, match="did not answer"):
        await engine.write(lambda connection: connection.exec_driver_sql(endless).all(), 0.1)
    assert await engine.write(lambda connection: connection.exec_driver_sql("SELECT 1").scalar()) == 1
    await engine.close()


async def test_sqlite_files_are_the_groups_too(tmp_path: Path) -> None:
    before = os.umask(0o007)
    try:
        catalog = await open_catalog(f"sqlite:///{tmp_path}/catalog.db")
        await Sidecar(catalog).join()
        names = [tmp_path / name for name in os.listdir(tmp_path)]  # noqa: PTH208
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in names}
        assert modes == {"catalog.db": 0o660, "catalog.db-wal": 0o660, "catalog.db-shm": 0o660}
        await catalog.close()
    finally:
        os.umask(before)


async def test_connecting_again_drops_no_lock(tmp_path: Path) -> None:
    """A closed descriptor of the file drops SQLite's locks; then the next process to leave takes the log away."""
    path = tmp_path / "catalog.db"
    catalog = await open_catalog(f"sqlite:///{path}")
    sidecar = Sidecar(catalog)
    await sidecar.join()
    engine_sqlite.connect(path, writes=False)
    look = (
        f"import sqlite3; db = sqlite3.connect({str(path)!r}); db.execute('SELECT * FROM state').fetchall(); db.close()"
    )
    for _ in range(2):
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", look)
        assert await other.wait() == 0
        assert os.path.exists(f"{path}-wal")  # noqa: PTH110
        await sidecar.register(message("a@x"))
    await catalog.close()


async def test_migrating_again_changes_nothing(url: str) -> None:
    await asyncio.gather(*(migrate(url) for _ in range(3)))
    catalog = await open_catalog(url)
    await Sidecar(catalog).join()
    await migrate(url)
    assert await catalog.mailbox("a@x") == []
    await catalog.close()


async def test_the_migrations_make_the_tables_of_the_schema(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import Connection

    from mailarray.catalog import database, schema

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), schema.metadata))

    engine = database._engine(url)
    await engine.migrate()
    assert await engine.read(differences) == []
    await engine.close()


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "nonsense"])
async def test_urls_that_are_not_ours(url: str) -> None:
    with pytest.raises(ValueError, match="the catalog's URL"):
        await open_catalog(url)


def test_the_protocol_is_kept() -> None:
    from mailarray.catalog.database import DatabaseCatalog

    promised = {name for name in vars(Catalog) if not name.startswith("_")}
    assert promised == {name for name in vars(DatabaseCatalog) if not name.startswith("_")}
