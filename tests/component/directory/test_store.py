"""Accounts in a database: what can be done, what is refused, and what does not touch them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mailarray.catalog.database import migrate, open_catalog
from mailarray.contract.settings import CatalogSettings
from mailarray.directory.accounts_file import AccountLine, AccountsError
from mailarray.directory.database.changes import Wanted
from mailarray.directory.database.store import AccountStore
from mailarray.directory.rows import AccountsUnavailable

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzYWx0$3L9WqVlPEm7ZyHAXkcbYlA"
ANN = AccountLine("ann@mail.example", HASH, ("info@mail.example", "sales@mail.example"), 1 << 30)
BOB = AccountLine("bob@mail.example", "")


async def listed(store: AccountStore) -> dict[str, tuple[tuple[str, ...], int | None, bool, bool]]:
    return {a.address: (a.aliases, a.quota, a.enabled, a.has_password) async for a in store.accounts()}


async def test_a_life(store: AccountStore) -> None:
    await store.add(ANN)
    await store.add(BOB)
    assert await listed(store) == {
        "ann@mail.example": (("info@mail.example", "sales@mail.example"), 1 << 30, True, True),
        "bob@mail.example": ((), None, True, False),
    }
    await store.set_password("bob@mail.example", HASH)
    await store.set_enabled("ann@mail.example", False)
    await store.remove_alias("info@mail.example")
    await store.add_alias("info@mail.example", "bob@mail.example")
    await store.add_alias("info@mail.example", "bob@mail.example")  # is there already
    assert await listed(store) == {
        "ann@mail.example": (("sales@mail.example",), 1 << 30, False, True),
        "bob@mail.example": (("info@mail.example",), None, True, True),
    }
    await store.remove("ann@mail.example")
    await store.add(AccountLine("sales@mail.example", ""))  # was an alias
    await store.add(AccountLine("ann@mail.example", ""))  # was another account
    assert await listed(store) == {
        "ann@mail.example": ((), None, True, False),
        "bob@mail.example": (("info@mail.example",), None, True, True),
        "sales@mail.example": ((), None, True, False),
    }
    assert [a.address async for a in store.accounts("al")] == ["sales@mail.example"]
    assert [a.address async for a in store.accounts("%")] == []
    assert await store.count() == 3


async def test_what_is_refused_changes_nothing(store: AccountStore) -> None:
    await store.add(ANN)
    before = await listed(store)
    cases: tuple[tuple[Callable[[], Awaitable[object]], str], ...] = (
        (lambda: store.add(ANN), "is an account already"),
        (lambda: store.add(AccountLine("info@mail.example", "")), "is an alias of ann@mail.example already"),
        (lambda: store.add(AccountLine("x@mail.example", "", ("ann@mail.example",))), "is an account already"),
        (lambda: store.add(AccountLine("x@mail.example", "", ("info@mail.example",))), "alias of ann@mail.example"),
        (lambda: store.add(AccountLine("x@mail.example", "", ("x@mail.example",))), "itself as an alias"),
        (lambda: store.add(AccountLine("x@mail.example", "", ("y@mail.example",) * 2)), "an alias twice"),
        (lambda: store.set_password("nobody@mail.example", HASH), "there is no account nobody@mail.example; `mail"),
        (lambda: store.remove("info@mail.example"), "there is no account info@.*; it is an alias of ann@mail.example"),
        (lambda: store.set_enabled("nobody@mail.example", True), "there is no account"),
        (lambda: store.add_alias("ann@mail.example", "ann@mail.example"), "itself as an alias"),
        (lambda: store.add_alias("z@mail.example", "nobody@mail.example"), "there is no account"),
        (lambda: store.remove_alias("ann@mail.example"), "there is no alias"),
    )
    for refused, words in cases:
        with pytest.raises(AccountsError, match=words):
            await refused()
        assert await listed(store) == before


async def test_many_at_once_each_as_if_it_came_alone(store: AccountStore) -> None:
    batch = [
        Wanted(ANN),
        Wanted(AccountLine("cat@mail.example", "", ("info@mail.example",))),  # ann's alias
        Wanted(BOB, enabled=False),
        Wanted(AccountLine("ann@mail.example", HASH, ("sales@mail.example",))),  # once more, with less
        Wanted(AccountLine("info@mail.example", "")),  # free by now
    ]
    counts = await store.put(batch)
    assert (counts.added, counts.changed, counts.unchanged) == (3, 1, 0)
    assert counts.refused == [(1, "info@mail.example is an alias of ann@mail.example already; remove that first")]
    now = await listed(store)
    assert now == {
        "ann@mail.example": (("sales@mail.example",), None, True, True),
        "bob@mail.example": ((), None, False, False),
        "info@mail.example": ((), None, True, False),
    }
    again = await store.put([batch[3], batch[2], batch[4]])
    assert (again.added, again.changed, again.unchanged, again.refused) == (0, 0, 3, [])
    assert await listed(store) == now


async def test_changes_at_the_same_time_are_all_made(url: str) -> None:
    stores = [AccountStore(lambda: url) for _ in range(4)]

    async def work(number: int) -> None:
        for i in range(10):
            await stores[number].add(AccountLine(f"a{number}-{i}@mail.example", ""))

    await asyncio.gather(*(work(number) for number in range(4)))  # all four make the tables, too
    assert await stores[0].count() == 40
    for store in stores:
        await store.close()


async def test_a_reset_and_a_migration_of_the_catalog_leave_accounts_alone(store: AccountStore, url: str) -> None:
    await migrate(url)
    await store.add(ANN)
    catalog = await open_catalog(url)
    await catalog.reset()
    await catalog.close()
    if url.startswith("sqlite"):
        for file in Path(url.removeprefix("sqlite:///")).parent.glob("catalog.sqlite*"):
            file.unlink()
    assert list(await listed(store)) == ["ann@mail.example"]


async def test_twenty_thousand_in_a_moment(store: AccountStore) -> None:
    wanted = [Wanted(AccountLine(f"u{i:06}@mail.example", HASH, (f"alias{i:06}@mail.example",))) for i in range(20_000)]
    begin = time.process_time()  # whatever else the machine is doing
    for i in range(0, len(wanted), 1000):
        await store.put(wanted[i : i + 1000])
    took = time.process_time() - begin
    assert await store.count() == 20_000
    assert took < 12, took  # a fifth of a minute for a fifth of 100,000


async def test_an_account_database_that_is_away_is_a_sentence_without_a_password(tmp_path: Path) -> None:
    for url, words in (
        ("postgresql://m:geheim@127.0.0.1:1/x", "the accounts' database failed: "),
        ("postgresql://m:gehe:im@127.0.0.1:port/x", "is not a database URL"),
        ("mysql://m:geheim@127.0.0.1/x", "must begin with sqlite:/// or postgresql://, not mysql:"),
    ):
        store = AccountStore(lambda url=url: url)  # type: ignore[misc]
        with pytest.raises(AccountsUnavailable, match=words) as error:
            await store.count()
        assert "gehe" not in str(error.value)
        await store.close()
    missing = AccountStore(CatalogSettings(url_file=str(tmp_path / "url")).current_url)
    with pytest.raises(AccountsUnavailable, match="url cannot be read: No such file"):
        await missing.count()


async def test_a_changed_url_counts_at_the_next_connection(
    kind: str, new_url: Callable[[], str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite":
        pytest.skip("its URL is not a secret")
    file = tmp_path / "url"
    file.write_text(new_url())
    store = AccountStore(CatalogSettings(url_file=str(file)).current_url)
    catalog = await open_catalog(CatalogSettings(url_file=str(file)).current_url)
    await store.add(ANN)
    epoch = await catalog.reset()  # counted by each database for itself
    file.write_text(new_url())
    server = request.getfixturevalue("postgres")
    server.stop()
    for call in (store.count, catalog.volumes):
        with pytest.raises(Exception, match="failed"):
            await call()
    server.start()
    assert await store.count() == 0  # another database
    assert await catalog.reset() == epoch
    await store.close()
    await catalog.close()
