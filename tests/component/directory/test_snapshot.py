"""Snapshots of accounts in a database: they follow it whatever happens, and answer while it is away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from mailarray.contract.settings import DirectorySettings, DomainSettings
from mailarray.directory import keeping
from mailarray.directory.accounts_file import AccountLine, AccountsError, parse
from mailarray.directory.database.changes import Wanted
from mailarray.directory.database.store import AccountStore
from mailarray.directory.directory import Account, DirectoryUnavailable, NotFound
from mailarray.directory.flatfile import FlatFileDirectory
from mailarray.directory.keeping import SnapshotKeeper
from mailarray.directory.rows import AccountRow, AccountsUnavailable, AliasRow, Position, Sink
from mailarray.directory.snapshot import SnapshotDirectory
from mailarray.directory.snapshot_file import SnapshotWriter, dump

HASH = "$argon2id$v=19$m=8,t=1,p=1$xZauJ1yQPFhCRN6iead9LA$0c1XYDfkMFHs/mVqx/F4Cx3zMyS2m6RyPEy8EZeZ7LE"  # of "password"
DOMAINS = (DomainSettings(name="mail.example"), DomainSettings(name="second.example"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "accounts" / "snapshot.sqlite"


@pytest.fixture
async def keeper(file: Path, store: AccountStore) -> AsyncIterator[SnapshotKeeper]:
    made = SnapshotKeeper(file, store)
    yield made
    await made.close()


@pytest.fixture
async def directory(file: Path) -> AsyncIterator[SnapshotDirectory]:
    made = SnapshotDirectory(DirectorySettings(domains=DOMAINS, snapshot_file=str(file)))
    await made.start()
    yield made
    await made.stop()


Content = tuple[dict[str, tuple[str, int | None, bool]], dict[str, str]]


def content(file: Path) -> Content:
    """What a snapshot holds: accounts, aliases."""
    rows = [row for part in dump(file) if isinstance(part, list) for row in part]
    accounts = {a.address: (a.password_hash, a.quota, a.enabled) for a in rows if isinstance(a, AccountRow)}
    return accounts, {a.address: a.account for a in rows if isinstance(a, AliasRow)}


async def truth(store: AccountStore) -> Content:
    """What the database holds, by the way that people look."""
    listed = [a async for a in store.accounts()]
    stored = await store.stored([a.address for a in listed])
    accounts = {a.address: (stored[a.address], a.quota, a.enabled) for a in listed}
    return accounts, {name: a.address for a in listed for name in a.aliases}


async def change_at_random(store: AccountStore, chance: random.Random) -> None:
    """Something that may be refused."""
    names = [f"{name}@mail.example" for name in "abcdefghij"]
    name, other, third = chance.choice(names), chance.choice(names), chance.choice(names)
    line = AccountLine(name, chance.choice(["", HASH]), tuple({other, third}), chance.choice([None, 5]))
    step: Callable[[], Awaitable[object]] = chance.choice(
        [
            lambda: store.add(line),
            lambda: store.add(AccountLine(name, HASH)),
            lambda: store.put(
                [Wanted(line), Wanted(AccountLine(other, "", (third,)), chance.choice([None, True, False]))]
            ),
            lambda: store.set_password(name, HASH + str(chance.randrange(10))),
            lambda: store.set_enabled(name, chance.random() < 0.5),
            lambda: store.remove(name),
            lambda: store.add_alias(name, other),
            lambda: store.remove_alias(name),
        ]
    )
    with contextlib.suppress(AccountsError):
        await step()


class Killed(BaseException):
    """The keeper dies here."""


class DyingSink:
    """A writer whose process is killed before its n-th step: the connection is gone, nothing is tidied up."""

    def __init__(self, file: Path, steps: int) -> None:
        self.writer = SnapshotWriter(file)
        self._steps = steps

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise Killed

    async def begin(self, *, whole: bool, accepted: bool = False) -> None:
        self._step()
        await self.writer.begin(whole=whole, accepted=accepted)

    async def add(self, accounts: Sequence[AccountRow], aliases: Sequence[AliasRow]) -> None:
        self._step()
        await self.writer.add(accounts, aliases)

    async def commit(self, position: Position) -> None:
        self._step()
        await self.writer.commit(position)

    async def abandon(self) -> None:
        pass  # a killed process does not


@pytest.mark.parametrize("seed", range(6))
async def test_the_snapshot_is_the_database_after_any_changes(store: AccountStore, file: Path, seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    snapshot_before: Content = ({}, {})
    for _ in range(25):
        for _ in range(chance.randrange(4)):
            await change_at_random(store, chance)
        sink = DyingSink(file, chance.choice([0, 1, 2, 3, 100, 100]))
        try:
            await store.feed(await sink.writer.position(), sink)
        except Killed:
            await sink.writer.close()
            if file.exists():
                assert content(file) in (snapshot_before, await truth(store))  # never something in between
            continue
        await sink.writer.close()
        snapshot_before = content(file)
        assert snapshot_before == await truth(store)


async def test_a_database_that_was_restored_or_replaced_is_noticed(new_url: Callable[[], str], file: Path) -> None:
    """Same revision numbers, another history."""
    urls = [new_url(), new_url()]
    current = urls[0]
    store, other = AccountStore(lambda: current), AccountStore(lambda: urls[1])
    keeper = SnapshotKeeper(file, store)
    await store.add(AccountLine("ann@mail.example", HASH))
    await store.add(AccountLine("old@mail.example", HASH))
    assert await keeper.one_pass()
    for name in ("ann", "new", "newer"):
        await other.add(AccountLine(f"{name}@mail.example", HASH))
    current = urls[1]
    await store.close()
    assert await keeper.one_pass()
    assert content(file) == await truth(other)
    for closing in (store, other, keeper):
        await closing.close()


@pytest.mark.parametrize("way", ["import", "accept"])
async def test_a_database_that_came_up_empty_is_not_followed_until_it_is_filled_or_accepted(
    new_url: Callable[[], str], file: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    now, current = 0.0, new_url()
    store = AccountStore(lambda: current)
    keeper = SnapshotKeeper(file, store, clock=lambda: now)
    lines = [Wanted(AccountLine(f"u{i}@mail.example", HASH, (f"a{i}@mail.example",))) for i in range(11)]
    await store.put(lines)
    assert await keeper.one_pass()
    before = content(file)
    await store.close()
    current = new_url()  # the volume of the database is gone, a new one is made

    async def look() -> bool:
        nonlocal now
        now += keeping.HELD_SECONDS + 1
        return await keeper.one_pass()

    assert not await look()
    assert content(file) == before
    assert "are 0 where there were 11" in keeper.held and "mailarray account accept" in keeper.held
    assert any(r.levelname == "ERROR" and "not followed" in r.message for r in caplog.records)
    assert REGISTRY.get_sample_value("mailarray_directory_snapshot_held") == 1
    await store.put(lines[:5])  # an import under way
    assert not await look()
    assert content(file) == before
    await keeper.close()
    keeper = SnapshotKeeper(file, store, clock=lambda: now)  # a restart forgets nothing of it
    assert not await look() and "are 5 where there were 11" in keeper.held
    if way == "import":
        await store.put(lines[5:6])
    else:
        assert await store.accept() == 5
    assert await look()
    assert content(file) == await truth(store) != before
    assert keeper.held == "" and REGISTRY.get_sample_value("mailarray_directory_snapshot_held") == 0
    for i in range(6):  # one history: what people remove goes, to the last account
        with contextlib.suppress(AccountsError):
            await store.remove(f"u{i}@mail.example")
    assert await look()
    assert content(file) == ({}, {})
    await store.close()
    await keeper.close()


async def test_a_person_s_word_does_not_count_for_ever(
    new_url: Callable[[], str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = new_url()
    store = AccountStore(lambda: current)
    keeper = SnapshotKeeper(file, store)
    await store.add(AccountLine("ann@mail.example", HASH))
    assert await keeper.one_pass()
    await store.close()
    current = new_url()
    assert await store.accept() == 0
    monkeypatch.setattr("mailarray.directory.database.store.ACCEPTED_SECONDS", -1)
    assert not await keeper.one_pass()
    assert content(file)[0]
    await store.close()
    await keeper.close()


async def test_with_the_database_away_all_goes_on(
    store: AccountStore, keeper: SnapshotKeeper, directory: SnapshotDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DirectoryUnavailable):
        directory.resolve("ann@mail.example")
    with pytest.raises(DirectoryUnavailable):
        await directory.verify("ann@mail.example", "password")
    assert directory.resolve("ann@else.example") is NotFound.DOMAIN  # that is known from the settings
    await store.add(AccountLine("ann@mail.example", HASH, ("info@mail.example",), 7))
    assert await keeper.one_pass()
    directory.refresh()
    assert directory.resolve("info+x@mail.example") == Account("ann@mail.example", 7)

    async def away(since: Position | None, sink: Sink) -> bool:
        raise AccountsUnavailable("away")

    monkeypatch.setattr(store, "feed", away)
    assert not await keeper.one_pass()
    directory.refresh()
    assert directory.resolve("ANN@mail.example") == Account("ann@mail.example", 7)
    assert await directory.verify("ann@mail.example", "password") == Account("ann@mail.example", 7)
    monkeypatch.undo()
    await store.set_enabled("ann@mail.example", False)
    assert await keeper.one_pass()
    directory.refresh()
    assert directory.resolve("ANN@mail.example") == Account("ann@mail.example", 7)  # mail is kept for it
    assert await directory.verify("ann@mail.example", "password") is None
    await store.remove("ann@mail.example")
    assert await keeper.one_pass()
    directory.refresh()
    assert directory.resolve("ANN@mail.example") is NotFound.RECIPIENT


async def test_a_running_keeper_and_a_running_directory_follow_by_themselves(
    store: AccountStore, keeper: SnapshotKeeper, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("mailarray.directory.snapshot.POLL_SECONDS", 0.01)
    directory = SnapshotDirectory(DirectorySettings(domains=DOMAINS, snapshot_file=str(file)))
    await directory.start()
    running = asyncio.create_task(keeper.run())
    await keeper.first_pass(10)
    await store.add(AccountLine("ann@mail.example", HASH))

    async def until_found() -> None:
        while True:
            try:
                if isinstance(directory.resolve("ann@mail.example"), Account):
                    return
            except DirectoryUnavailable:
                pass
            await asyncio.sleep(0.01)

    await asyncio.wait_for(until_found(), 10)
    for suffix in ("", "-wal", "-shm"):  # somebody deletes it: it comes again, and nobody is told "unknown" meanwhile
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    fresh = SnapshotKeeper(file, store)
    assert await fresh.one_pass()
    await asyncio.wait_for(until_found(), 10)
    await directory.stop()
    await fresh.close()


async def test_a_damaged_snapshot_is_made_anew(
    store: AccountStore, keeper: SnapshotKeeper, directory: SnapshotDirectory, file: Path
) -> None:
    await store.add(AccountLine("ann@mail.example", HASH))
    file.parent.mkdir()
    file.write_bytes(b"not a database" * 1000)
    directory.refresh()
    with pytest.raises(DirectoryUnavailable):
        directory.resolve("ann@mail.example")
    assert not await keeper.one_pass()
    assert await keeper.one_pass()
    directory.refresh()
    assert isinstance(directory.resolve("ann@mail.example"), Account)


async def test_a_snapshot_of_another_format_is_none(
    store: AccountStore, keeper: SnapshotKeeper, directory: SnapshotDirectory, file: Path
) -> None:
    await store.add(AccountLine("ann@mail.example", HASH))
    assert await keeper.one_pass()
    await keeper.close()
    raw = sqlite3.connect(file)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    directory.refresh()
    with pytest.raises(DirectoryUnavailable):
        directory.resolve("ann@mail.example")
    again = SnapshotKeeper(file, store)
    assert await again.one_pass()
    await again.close()
    directory.refresh()
    assert isinstance(directory.resolve("ann@mail.example"), Account)


KILLED_WRITER = """
import asyncio, sys, os, signal
from pathlib import Path
from mailarray.directory.rows import AccountRow, Position
from mailarray.directory.snapshot_file import SnapshotWriter
async def main():
    writer = SnapshotWriter(Path(sys.argv[1]))
    await writer.begin(whole=True)
    await writer.add([AccountRow("ann@mail.example", "", None, True, 1, False)], ())
    await writer.commit(Position(1, 1))
    await writer.begin(whole=True)
    await writer.add([AccountRow(f"{i}@mail.example", "", None, True, 1, False) for i in range(100_000)], ())
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def test_a_keeper_killed_in_the_middle_leaves_what_was(directory: SnapshotDirectory, file: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED_WRITER, str(file), env=dict(os.environ))
    assert await process.wait() == -9
    directory.refresh()
    assert directory.resolve("ann@mail.example") == Account("ann@mail.example")
    assert directory.resolve("5@mail.example") is NotFound.RECIPIENT


FLAT = f"""\
aaron@mail.example:{HASH}
ann@mail.example:{HASH}:info@mail.example,info@second.example:1Gi
ops@mail.example::postmaster@second.example
"""


@pytest.mark.parametrize("postmaster", [None, "ops@mail.example", "gone@mail.example"])
async def test_a_snapshot_answers_as_the_flat_file_does(
    store: AccountStore, keeper: SnapshotKeeper, file: Path, tmp_path: Path, postmaster: str | None
) -> None:
    domains = (DomainSettings(name="mail.example", postmaster=postmaster), DomainSettings(name="second.example"))
    (tmp_path / "flat").write_text(FLAT)
    names = [d.name for d in domains]
    await store.put([Wanted(line) for line in parse(FLAT, names).accounts.values()])
    assert await keeper.one_pass()
    flat = FlatFileDirectory(DirectorySettings(domains=domains, accounts_file=str(tmp_path / "flat")))
    snapshot = SnapshotDirectory(DirectorySettings(domains=domains, snapshot_file=str(file)))
    await flat.start()
    await snapshot.start()
    for local in ("ann", "ANN+x", '"ann"', "info", "ops", "nobody", "postmaster", "Postmaster+x", "+x", "", "aaron"):
        for domain in ("@mail.example", "@second.example", "@SECOND.example.", "@else.example", ""):
            address = local + domain
            assert snapshot.resolve(address) == flat.resolve(address), address
    for login in ("ann@mail.example", "info@second.example", "ops@mail.example", "nobody@mail.example"):
        for password in ("password", "wrong"):
            assert await snapshot.verify(login, password) == await flat.verify(login, password), (login, password)
    await flat.stop()
    await snapshot.stop()
