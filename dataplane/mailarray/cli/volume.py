"""`mailarray volume`: which volumes the catalog knows, and what only a person can know about one.

In a server's pod: `mailarray volume list --settings /etc/mailarray/settings/server.json`, so that nobody has to hand
over the database's URL, in which there is a password.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mailarray.cli.array_settings import access_settings, process_settings
from mailarray.cli.volume_scrub import scrub
from mailarray.model.ids import VolumeId, parse_id

if TYPE_CHECKING:
    from mailarray.catalog.catalog import Catalog, VolumeRow

T = TypeVar("T")

_F = TypeVar("_F", bound=Callable[..., Any])


@click.group()
def volume() -> None:
    """Show volumes, and say what became of one."""


def _where(command: _F) -> _F:
    """The options that say which catalog."""
    command = click.option(
        "--data", default="data", type=click.Path(path_type=Path), show_default=True, help="The data folder."
    )(command)
    command = click.option(
        "--settings", "settings_file", type=click.Path(path_type=Path), help="Settings file of a process."
    )(command)
    return click.option(
        "--catalog",
        "url",
        envvar="MAILARRAY_CATALOG_URL",
        help="URL of the catalog, instead of a data folder: sqlite:///path or postgresql://user:password@host/name.",
    )(command)


@volume.command("list")
@_where
def list_volumes(url: str | None, settings_file: Path | None, data: Path) -> None:
    """Every volume that the catalog has ever seen, with its server and what became of it."""
    rows = asyncio.run(_with_catalog(_url(url, settings_file, data), lambda catalog: catalog.volumes()))
    width = max([6, *(len(row.server) for row in rows)])
    click.echo(f"{'VOLUME':32}  {'SERVER':{width}}  STATE")
    for row in rows:
        click.echo(f"{row.id.hex():32}  {row.server or '-':{width}}  {_state(row)}")


@volume.command()
@click.argument("volume_id")
@_where
@click.option("--yes", is_flag=True, help="Do not ask.")
def lost(volume_id: str, url: str | None, settings_file: Path | None, data: Path, yes: bool) -> None:
    """Declare that a volume will never come back, so that nothing waits for it any more."""
    try:
        identifier = VolumeId(parse_id(volume_id))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    where = _url(url, settings_file, data)
    if not yes:
        click.confirm(f"Volume {volume_id} is gone for ever?", abort=True)
    asyncio.run(_with_catalog(where, lambda catalog: catalog.mark_lost(identifier)))
    click.echo(f"volume {volume_id} is marked lost")


volume.add_command(scrub)


def _state(row: VolumeRow) -> str:
    if row.lost:
        return "lost"
    return "retired: drained, not waited for" if row.retired else "in use"


def _url(url: str | None, settings_file: Path | None, data: Path) -> str:
    if settings_file is not None:
        return process_settings(settings_file).catalog.current_url()
    return url or access_settings(data).catalog.current_url()


async def _with_catalog(url: str, work: Callable[[Catalog], Awaitable[T]]) -> T:
    from mailarray.catalog.catalog import CatalogUnavailable
    from mailarray.catalog.database import open_catalog

    try:
        catalog = await open_catalog(url)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        return await work(catalog)
    except CatalogUnavailable as error:
        raise click.ClickException(f"the catalog does not answer: {error}") from None
    finally:
        await catalog.close()
