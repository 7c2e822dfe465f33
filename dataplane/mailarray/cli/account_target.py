"""Where `mailarray account` finds the accounts: a flat file, or the database. One interface for the commands.

The cluster's domains come from settings files; without one, any domain will do.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

import click

from mailarray.cli.array_settings import process_settings
from mailarray.contract.settings import AccessSettings, CatalogSettings, ServerSettings
from mailarray.directory import accounts_editor
from mailarray.directory.accounts_file import AccountLine, AccountsError, AccountTable, parse
from mailarray.directory.addresses import canonical_domain
from mailarray.directory.database.changes import Counts, Wanted
from mailarray.directory.database.store import AccountStore, ListedAccount
from mailarray.local.layout import Layout, write_private
from mailarray.local.render import ACCESS_NAME


class Target(Protocol):
    """Accounts that a person changes. All methods may raise AccountsError."""

    domains: Collection[str] | None  # canonical; None: any
    catalog: CatalogSettings | None  # where the mail of these accounts is listed; None: nobody said

    def __enter__(self) -> Target: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def check_new(self, line: AccountLine) -> None:
        """Raises when `add` would."""
        ...

    def add(self, line: AccountLine) -> None: ...

    def require(self, address: str) -> None:
        """Raises when there is no such account."""
        ...

    def set_password(self, address: str, password_hash: str) -> None: ...

    def set_enabled(self, address: str, enabled: bool) -> None: ...

    def remove(self, address: str) -> None: ...

    def add_alias(self, address: str, target: str) -> None: ...

    def remove_alias(self, address: str) -> None: ...

    def accounts(self, containing: str) -> Iterator[ListedAccount]: ...

    def stored(self, addresses: Sequence[str]) -> Mapping[str, str]:
        """Password hashes of those that there are."""
        ...

    def put(self, batch: Sequence[Wanted]) -> Counts:
        """See `AccountStore.put`."""
        ...

    def accept(self) -> int:
        """See `AccountStore.accept`."""
        ...


class DatabaseTarget:
    """Accounts in the catalog's database."""

    def __init__(self, catalog: CatalogSettings, domains: Collection[str] | None) -> None:
        self.domains = domains
        self.catalog: CatalogSettings | None = catalog
        self._store = AccountStore(catalog.current_url)
        self._runner = asyncio.Runner()

    def __enter__(self) -> DatabaseTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._store.close())
        self._runner.close()

    def check_new(self, line: AccountLine) -> None:
        self._runner.run(self._store.check_new(line))

    def add(self, line: AccountLine) -> None:
        self._runner.run(self._store.add(line))

    def require(self, address: str) -> None:
        self._runner.run(self._store.require(address))

    def set_password(self, address: str, password_hash: str) -> None:
        self._runner.run(self._store.set_password(address, password_hash))

    def set_enabled(self, address: str, enabled: bool) -> None:
        self._runner.run(self._store.set_enabled(address, enabled))

    def remove(self, address: str) -> None:
        self._runner.run(self._store.remove(address))

    def add_alias(self, address: str, target: str) -> None:
        self._runner.run(self._store.add_alias(address, target))

    def remove_alias(self, address: str) -> None:
        self._runner.run(self._store.remove_alias(address))

    def accounts(self, containing: str) -> Iterator[ListedAccount]:
        pages = self._store.accounts(containing)

        async def some() -> list[ListedAccount]:
            found: list[ListedAccount] = []
            async for one in pages:
                found.append(one)
                if len(found) == 1000:
                    break
            return found

        while page := self._runner.run(some()):
            yield from page

    def stored(self, addresses: Sequence[str]) -> Mapping[str, str]:
        return self._runner.run(self._store.stored(addresses))

    def put(self, batch: Sequence[Wanted]) -> Counts:
        return self._runner.run(self._store.put(batch))

    def accept(self) -> int:
        return self._runner.run(self._store.accept())


class FlatFileTarget:
    """Accounts in a flat file; running servers read it again within a second."""

    def __init__(self, file: Path, domains: Collection[str] | None, catalog: CatalogSettings | None = None) -> None:
        self.domains = domains
        self.catalog = catalog
        self._file = file

    def __enter__(self) -> FlatFileTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def check_new(self, line: AccountLine) -> None:
        accounts_editor.add(self._read(), line, self._domains(self._read(), line.address, *line.aliases))

    def add(self, line: AccountLine) -> None:
        names = (line.address, *line.aliases)
        self._edit(lambda text: accounts_editor.add(text, line, self._domains(text, *names)))

    def require(self, address: str) -> None:
        text = self._read()
        accounts_editor.set_password(text, address, "", self._domains(text))

    def set_password(self, address: str, password_hash: str) -> None:
        self._edit(lambda text: accounts_editor.set_password(text, address, password_hash, self._domains(text)))

    def set_enabled(self, address: str, enabled: bool) -> None:
        raise AccountsError("a flat file knows no disabled accounts; give the account another password instead")

    def remove(self, address: str) -> None:
        self._edit(lambda text: accounts_editor.remove(text, address, self._domains(text)))

    def add_alias(self, address: str, target: str) -> None:
        def change(aliases: tuple[str, ...]) -> tuple[str, ...]:
            return aliases if address in aliases else (*aliases, address)

        self._edit(lambda text: accounts_editor.set_aliases(text, target, change, self._domains(text, address)))

    def remove_alias(self, address: str) -> None:
        found = self._table().aliases.get(address)
        if found is None:
            raise AccountsError(f"there is no alias {address}; `mailarray account list` shows all")

        def change(aliases: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(alias for alias in aliases if alias != address)

        self._edit(lambda text: accounts_editor.set_aliases(text, found.address, change, self._domains(text)))

    def accounts(self, containing: str) -> Iterator[ListedAccount]:
        for line in self._table().accounts.values():
            if containing in line.address:
                yield ListedAccount(line.address, line.aliases, line.quota, True, bool(line.password_hash), 0, 0)

    def stored(self, addresses: Sequence[str]) -> Mapping[str, str]:
        there = self._table().accounts
        return {address: there[address].password_hash for address in addresses if address in there}

    def put(self, batch: Sequence[Wanted]) -> Counts:
        if any(one.enabled is False for one in batch):
            raise AccountsError("a flat file knows no disabled accounts; leave the column out")
        counts = Counts()

        def edit(text: str) -> str:
            lines = [one.line for one in batch]
            names = (name for line in lines for name in (line.address, *line.aliases))
            known = self._domains(text, *names)
            text, counts.added, counts.changed, counts.unchanged = accounts_editor.put(text, lines, known)
            return text

        self._edit(edit)
        return counts

    def accept(self) -> int:
        raise AccountsError("a flat file is followed as it is; this is for accounts in the database")

    def _edit(self, change: Callable[[str], str]) -> None:
        try:
            status = self._file.stat() if self._file.exists() else None
            with self._file.with_name(f".{self._file.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                write_private(self._file, change(self._read()))
            if status is not None:  # isolated servers read it by its group
                os.chown(self._file, status.st_uid, status.st_gid)
                self._file.chmod(status.st_mode & 0o777)
        except OSError as error:
            raise click.ClickException(
                f"{self._file} cannot be changed: {error.strerror}; accounts in a Secret are changed there"
            ) from None

    def _read(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError:
            raise AccountsError(f"{self._file} is not UTF-8; save it as UTF-8") from None

    def _table(self) -> AccountTable:
        text = self._read()
        return parse(text, self._domains(text), self._file.name)

    def _domains(self, text: str, *addresses: str) -> Collection[str]:
        """The cluster's; when nobody said which those are, whatever the file and these addresses say."""
        if self.domains is not None:
            return self.domains
        lines = (line.split(":") for line in text.splitlines() if not line.lstrip().startswith("#"))
        names = (name for fields in lines for name in (fields[0], *(fields[2].split(",") if len(fields) > 2 else ())))
        return {canonical_domain(name.rpartition("@")[2].strip()) for name in (*names, *addresses) if "@" in name}


def open_target(data: Path, file: Path | None, catalog_url: str | None, settings_file: Path | None) -> Target:
    """What the options say; `data` counts when there is none of the others."""
    if sum(option is not None for option in (file, catalog_url, settings_file)) > 1:
        raise click.UsageError("give one of --file, --catalog-url and --settings")
    if file is not None:
        return FlatFileTarget(file, None)
    if catalog_url is not None:
        return DatabaseTarget(CatalogSettings(url=catalog_url), None)
    if settings_file is not None:
        return _of_settings(process_settings(settings_file))
    layout = Layout(data)
    if not layout.data.is_dir():
        raise click.ClickException(
            f"{data} is not there; start `mailarray up` once, or say with --data, --file, --settings or --catalog-url"
            " where the accounts are"
        )
    try:
        return _of_settings(process_settings(layout.settings_file(ACCESS_NAME)), layout.accounts)
    except OSError:
        return FlatFileTarget(layout.accounts, None)  # before the first start


def _of_settings(loaded: ServerSettings | AccessSettings, accounts: Path | None = None) -> Target:
    domains = frozenset(canonical_domain(d.name) for d in loaded.directory.domains)
    if loaded.directory.accounts_file is None:
        return DatabaseTarget(loaded.catalog, domains)
    return FlatFileTarget(accounts or Path(loaded.directory.accounts_file), domains, loaded.catalog)
