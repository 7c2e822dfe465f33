"""Accounts in a database: changed by `mailarray account`, followed by snapshot keepers.

Refuses to know which domains the cluster has: those are in its settings, and the caller checks.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import ColumnElement, Connection, Table, delete, func, insert, select

from mailarray.directory.accounts_file import AccountLine
from mailarray.directory.database import changes
from mailarray.directory.database.changes import Counts, Wanted, changing
from mailarray.directory.database.engine import AccountsDatabase
from mailarray.directory.database.schema import accepted, account, alias, revisions, state
from mailarray.directory.rows import AccountRow, AliasRow, Position, Sink

PAGE = 1000  # accounts that `accounts` reads at a time
FEED_ROWS = 5000  # rows given to a sink at a time: some hundred KiB
# A person's word that few accounts are right counts so long: servers that are away now hear it when they are back,
# and a backup that is restored much later is not believed because of it.
ACCEPTED_SECONDS = 24 * 3600.0
IMPORT_SECONDS = 60.0  # for one batch; another import may hold the lock


@dataclass(frozen=True, slots=True)
class ListedAccount:
    """An account as a person sees it."""

    address: str
    aliases: tuple[str, ...]
    quota: int | None
    enabled: bool
    has_password: bool
    created: int  # seconds since 1970
    changed: int


class AccountStore:
    """See the module. All methods raise AccountsUnavailable, those that change something AccountsError too."""

    def __init__(self, current_url: Callable[[], str]) -> None:
        """`current_url` is asked before each connection; see `CatalogSettings.current_url`."""
        self._database = AccountsDatabase(current_url)

    async def close(self) -> None:
        """Give connections back."""
        await self._database.close()

    async def add(self, line: AccountLine) -> None:
        """A new account; its addresses must be canonical, as `accounts_file.parse_line` makes them."""
        await self._database.write(changing(lambda t: changes.add(t, line)))

    async def set_password(self, address: str, password_hash: str) -> None:
        """Give an account another hash."""
        await self._database.write(changing(lambda t: changes.set_password(t, address, password_hash)))

    async def set_enabled(self, address: str, enabled: bool) -> None:
        """Let people log in to an account, or not; its mail is taken either way."""
        await self._database.write(changing(lambda t: changes.set_enabled(t, address, enabled)))

    async def remove(self, address: str) -> None:
        """Take an account and its aliases away; its mail stays in the journals."""
        await self._database.write(changing(lambda t: changes.remove(t, address)))

    async def add_alias(self, address: str, target: str) -> None:
        """Another address for an account."""
        await self._database.write(changing(lambda t: changes.add_alias(t, address, target)))

    async def remove_alias(self, address: str) -> None:
        """Take an alias away."""
        await self._database.write(changing(lambda t: changes.remove_alias(t, address)))

    async def put(self, batch: Sequence[Wanted]) -> Counts:
        """Make accounts be as an import wants them, in one transaction; others stay as they are."""
        return await self._database.write(changing(lambda t: changes.put(t, batch)), IMPORT_SECONDS)

    async def accept(self) -> int:
        """Say that this history is to be followed, however few accounts it has; answers how many those are."""
        await self._database.write(_accept)
        return await self.count()

    async def check_new(self, line: AccountLine) -> None:
        """Raises AccountsError when `add` would."""

        def check(connection: Connection) -> None:
            changes.check_new(connection, line)

        await self._database.read(check)

    async def require(self, address: str) -> None:
        """Raises AccountsError when there is no such account."""
        await self._database.read(lambda connection: changes.require(connection, address))

    async def stored(self, addresses: Sequence[str]) -> dict[str, str]:
        """The password hashes of those of the accounts that there are."""
        chosen = select(account.c.address, account.c.password_hash)
        chosen = chosen.where(account.c.address.in_(addresses), account.c.removed.is_(False))

        def read(connection: Connection) -> dict[str, str]:
            return {row.address: row.password_hash for row in connection.execute(chosen)}

        return await self._database.read(read)

    async def count(self) -> int:
        """How many accounts there are."""
        counted = select(func.count()).select_from(account).where(account.c.removed.is_(False))
        return await self._database.read(lambda connection: connection.execute(counted).scalar_one())

    async def accounts(self, containing: str = "") -> AsyncIterator[ListedAccount]:
        """All accounts by address, read in pages; those only whose address has the text in it, if one is given."""
        after = ""
        while True:
            page = await self._database.read(partial(_page, containing=containing, after=after))
            for found in page:
                yield found
            if len(page) < PAGE:
                return
            after = page[-1].address

    async def feed(self, since: Position | None, sink: Sink) -> bool:
        """Give a snapshot what it lacks, all of it from one moment; False when it lacks nothing. See `rows.Source`."""
        async with self._database.stream() as connection:
            now = Position(*(await connection.execute(select(state.c.revision, state.c.stamp))).one())
            if now == since:
                return False
            known = False
            if since is not None:
                same = (revisions.c.revision == since.revision, revisions.c.stamp == since.stamp)
                known = bool(await connection.scalar(select(func.count()).select_from(revisions).where(*same)))

            def wanted(table: Table) -> ColumnElement[bool]:
                return table.c.revision > since.revision if known and since is not None else table.c.removed.is_(False)

            said = await connection.scalar(select(accepted.c.time))
            lately = said is not None and abs(time.time() - said) < ACCEPTED_SECONDS
            await sink.begin(whole=not known, accepted=lately)
            try:
                # In the order of the snapshot's own tables, which grow at their end then: many times faster.
                accounts = select(*(account.c[name] for name in AccountRow._fields)).where(wanted(account))
                accounts = accounts.order_by(account.c.address)
                async for rows in (await connection.stream(accounts)).partitions(FEED_ROWS):
                    await sink.add([AccountRow(*row) for row in rows], ())
                aliases = select(*(alias.c[name] for name in AliasRow._fields)).where(wanted(alias))
                aliases = aliases.order_by(alias.c.address)
                async for names in (await connection.stream(aliases)).partitions(FEED_ROWS):
                    await sink.add((), [AliasRow(*name) for name in names])
                await sink.commit(now)
            except BaseException:
                await sink.abandon()
                raise
            return True


def _accept(connection: Connection) -> None:
    connection.execute(delete(accepted))
    connection.execute(insert(accepted).values(id=1, time=int(time.time())))


def _page(connection: Connection, containing: str, after: str) -> list[ListedAccount]:
    query = select(account).where(account.c.removed.is_(False), account.c.address > after)
    if containing:
        query = query.where(account.c.address.contains(containing, autoescape=True))
    rows = connection.execute(query.order_by(account.c.address).limit(PAGE)).all()
    names: dict[str, list[str]] = {}
    if rows:
        of = alias.c.account.in_([row.address for row in rows])
        for name, target in connection.execute(
            select(alias.c.address, alias.c.account).where(of, alias.c.removed.is_(False)).order_by(alias.c.address)
        ):
            names.setdefault(target, []).append(name)
    return [
        ListedAccount(
            row.address,
            tuple(names.get(row.address, ())),
            row.quota,
            bool(row.enabled),
            bool(row.password_hash),
            row.created,
            row.changed,
        )
        for row in rows
    ]
