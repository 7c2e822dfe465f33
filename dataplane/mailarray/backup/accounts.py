"""Accounts in a backup: JSON lines, whatever they are kept in.

    {"alias": [address, account]}
    {"account": [address, hash, quota in bytes or null, enabled, created in seconds since 1970]}

Aliases stand first, so that whoever reads has all of an account's when it comes. Password hashes are in it: a backup
is as secret as the accounts are. Memory: the aliases, some hundred bytes each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from mailarray.directory.accounts_file import AccountLine, parse
from mailarray.directory.addresses import canonical_domain
from mailarray.directory.database.changes import Wanted
from mailarray.directory.rows import AccountRow, AccountsUnavailable, AliasRow, Position


class AccountsSource(Protocol):
    """Where the accounts are."""

    async def write(self, file: Path) -> int:
        """Write them all; answers how many accounts. Raises AccountsError, AccountsUnavailable, OSError."""
        ...


class FlatFileAccounts:
    """The flat file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def write(self, file: Path) -> int:
        """See `AccountsSource`."""
        text = self._file.read_text(encoding="utf-8")
        table = parse(text, _domains(text), str(self._file))
        with file.open("w", encoding="utf-8") as opened:
            for alias, account in table.aliases.items():
                opened.write(_line("alias", [alias, account.address]))
            for line in table.accounts.values():
                opened.write(_line("account", [line.address, line.password_hash, line.quota, True, 0]))
        return len(table.accounts)


class Database(Protocol):
    """`AccountStore`, or a server's snapshot of it."""

    async def feed(self, since: Position | None, sink: Any) -> bool: ...


class DatabaseAccounts:
    """The accounts' database."""

    def __init__(self, database: Database, fallback: Database | None = None) -> None:
        """`fallback`: the servers' snapshots, for when the database is away."""
        self._database = database
        self._fallback = fallback

    async def write(self, file: Path) -> int:
        """See `AccountsSource`."""
        accounts = file.with_name(file.name + ".later")
        try:
            with file.open("w", encoding="utf-8") as first, accounts.open("w+", encoding="utf-8") as later:
                sink = _FileSink(first, later)
                try:
                    await self._database.feed(None, sink)
                except AccountsUnavailable:
                    if self._fallback is None:
                        raise
                    await self._fallback.feed(None, sink)
                later.seek(0)
                for line in later:
                    first.write(line)
                return sink.count
        finally:
            accounts.unlink(missing_ok=True)


class _FileSink:
    """A `rows.Sink`: one moment of the database as lines."""

    def __init__(self, aliases: Any, accounts: Any) -> None:
        self._aliases = aliases
        self._accounts = accounts
        self.count = 0

    async def begin(self, *, whole: bool, accepted: bool = False) -> None:
        assert whole, "nothing was known before"
        for file in (self._aliases, self._accounts):  # another source may have broken off
            file.seek(0)
            file.truncate()
        self.count = 0

    async def add(self, accounts: Sequence[AccountRow], aliases: Sequence[AliasRow]) -> None:
        for account in accounts:
            self._accounts.write(_line("account", list(account[:5])))
        for alias in aliases:
            self._aliases.write(_line("alias", list(alias[:2])))
        self.count += len(accounts)

    async def commit(self, position: Position) -> None:
        return

    async def abandon(self) -> None:
        return


def read_accounts(file: Path) -> Iterator[Wanted]:
    """All accounts of a backup, as an import wants them."""
    aliases: dict[str, list[str]] = {}
    with file.open(encoding="utf-8") as lines:
        for raw in map(json.loads, lines):
            if "alias" in raw:
                address, account = raw["alias"]
                aliases.setdefault(account, []).append(address)
            else:
                address, stored, quota, enabled, _created = raw["account"]
                yield Wanted(AccountLine(address, stored, tuple(aliases.get(address, ())), quota), bool(enabled))


def _line(kind: str, values: list[Any]) -> str:
    return json.dumps({kind: values}, ensure_ascii=False) + "\n"


def _domains(text: str) -> set[str]:
    """All that the file names: which ones the cluster receives for is none of a backup's business."""
    lines = (line.split(":") for line in text.splitlines() if not line.lstrip().startswith("#"))
    names = (name for fields in lines for name in (fields[0], *(fields[2].split(",") if len(fields) > 2 else ())))
    return {canonical_domain(name.rpartition("@")[2].strip()) for name in names if "@" in name}
