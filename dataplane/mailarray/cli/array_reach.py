"""How backup, restore and export find an array: by its data folder, or by what is mounted into a pod.

    /etc/mailarray/            as in every pod of a cluster
      table/mirroring-table.json   internal/token   catalog/url
      accounts/accounts            only with a flat file; without it the accounts are in the catalog's database
      settings/server.json or settings/access.json, if mounted, say how many copies there are

A data folder may be in use by `mailarray up` or not: then its volumes are read from their directories.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mailarray.cli.account_target import DatabaseTarget, FlatFileTarget, Target
from mailarray.cli.array_settings import access_settings, process_settings, server_volumes
from mailarray.contract.settings import AccessSettings, CatalogSettings, SettingsError
from mailarray.directory.addresses import canonical_domain

if TYPE_CHECKING:
    from mailarray.backup.accounts import AccountsSource
    from mailarray.backup.source import Source
    from mailarray.catalog.catalog import Catalog

DEFAULT_COPIES = 2
TABLE, TOKEN, CATALOG = "table/mirroring-table.json", "internal/token", "catalog/url"
ACCOUNTS, SETTINGS = "accounts/accounts", ("settings/server.json", "settings/access.json")

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Reach:
    """Where everything of an array is."""

    table: Path
    token: Path
    catalog: CatalogSettings
    accounts_file: Path | None  # None: in the catalog's database
    copies: int
    domains: frozenset[str] | None = None  # canonical; None: not known
    data: Path | None = None  # of an array on this machine


def where_options(command: _F) -> _F:
    """The options that say which array."""
    command = click.option(
        "--data", default="data", type=click.Path(path_type=Path), show_default=True, help="The data folder."
    )(command)
    command = click.option(
        "--mounts",
        type=click.Path(path_type=Path),
        envvar="MAILARRAY_MOUNTS",
        help="In a pod, instead of --data: the folder with table/, internal/ and catalog/ (/etc/mailarray).",
    )(command)
    return click.option(
        "--copies", type=click.IntRange(1, 7), help="With --mounts: copies of each message, when no settings say it."
    )(command)


def find(data: Path, mounts: Path | None, copies: int | None) -> Reach:
    """What the options say. Raises ClickException."""
    if mounts is None:
        return _of_settings(access_settings(data), data)
    for name in (TABLE, TOKEN):
        if not (mounts / name).exists():
            raise click.ClickException(
                f"{mounts / name} is not there; mount it as in the servers' pods, or give --data"
            )
    for name in SETTINGS:
        with contextlib.suppress(OSError, SettingsError):
            loaded = process_settings(mounts / name)
            copies = copies or (loaded.copies if isinstance(loaded, AccessSettings) else loaded.storage.copies)
    accounts = mounts / ACCOUNTS
    return Reach(
        table=mounts / TABLE,
        token=mounts / TOKEN,
        catalog=CatalogSettings(url_file=str(mounts / CATALOG)),
        accounts_file=accounts if accounts.exists() else None,
        copies=copies or DEFAULT_COPIES,
    )


def _of_settings(settings: AccessSettings, data: Path) -> Reach:
    file = settings.directory.accounts_file
    return Reach(
        table=Path(settings.mirroring_table_file),
        token=Path(settings.token_file),
        catalog=settings.catalog,
        accounts_file=None if file is None else Path(file),
        copies=settings.copies,
        domains=frozenset(canonical_domain(d.name) for d in settings.directory.domains),
        data=data,
    )


@contextmanager
def held_still(reach: Reach) -> Iterator[bool]:
    """Whether the array does not run; while this lasts, it cannot be started then."""
    from mailarray.local.checks import StartError, lock_data
    from mailarray.local.layout import Layout

    if reach.data is None:
        yield False
        return
    try:
        lock = lock_data(Layout(reach.data))
    except StartError:
        yield False
        return
    with lock:
        yield True


@asynccontextmanager
async def source_of(reach: Reach, stopped: bool) -> AsyncIterator[Source]:
    """The array's segments. Raises SourceError."""
    from mailarray.backup.running import RunningArray
    from mailarray.backup.stopped import StoppedArray

    if stopped:
        assert reach.data is not None
        yield StoppedArray(server_volumes(reach.data), reach.copies)
        return
    async with RunningArray(reach.table, reach.token, reach.copies) as array:
        yield array


@asynccontextmanager
async def catalog_of(reach: Reach) -> AsyncIterator[Catalog | None]:
    """The catalog; None when there is none to ask: then all goes on as with the database away."""
    from mailarray.catalog.catalog import CatalogUnavailable
    from mailarray.catalog.database import open_catalog

    url = reach.catalog.url or ""
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite://")).exists():
        yield None  # opening would make an empty one
        return
    try:
        opened = await open_catalog(reach.catalog.current_url)
    except CatalogUnavailable:
        yield None
        return
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def accounts_of(reach: Reach, stopped: bool) -> AsyncIterator[AccountsSource]:
    """The accounts, to be read."""
    from mailarray.access.array import ServerArray
    from mailarray.access.sidecar_accounts import SidecarAccounts
    from mailarray.backup.accounts import DatabaseAccounts, FlatFileAccounts
    from mailarray.directory.database.store import AccountStore

    if reach.accounts_file is not None:
        yield FlatFileAccounts(reach.accounts_file)
        return
    store = AccountStore(reach.catalog.current_url)
    servers = None if stopped else ServerArray(str(reach.table), str(reach.token))
    try:
        if servers is not None:
            await servers.start()
        yield DatabaseAccounts(store, None if servers is None else SidecarAccounts(servers))
    finally:
        if servers is not None:
            await servers.stop()
        await store.close()


def accounts_target(reach: Reach, file: Path | None) -> Target:
    """The accounts, to be written; `file` is a flat file instead of where the array has them."""
    if file is not None:
        return FlatFileTarget(file, None)
    if reach.accounts_file is not None:
        return FlatFileTarget(reach.accounts_file, reach.domains)
    return DatabaseTarget(reach.catalog, reach.domains)


@contextmanager
def scratch_folder(path: Path | None) -> Iterator[Path]:
    """A folder for files on their way, gone afterwards. Raises ClickException."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="mailarray-", dir=path)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}; give another --scratch") from None
    with folder as name:
        yield Path(name)
