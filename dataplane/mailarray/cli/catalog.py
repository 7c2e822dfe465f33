"""`mailarray catalog`: the index, which can always be made again from the journals."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from mailarray.cli.array_settings import access_settings, server_volumes

_data = click.option(
    "--data", default="data", type=click.Path(path_type=Path), show_default=True, help="The data folder."
)


@click.group()
def catalog() -> None:
    """Rebuild or migrate the catalog of an array on this machine."""


@catalog.command()
@_data
def rebuild(data: Path) -> int:
    """Drop the catalog and register everything again from the journals; the servers may run on."""
    settings = access_settings(data)
    return asyncio.run(_rebuild(settings.catalog.current_url(), server_volumes(data)))


async def _rebuild(url: str, volumes: list[tuple[str, Path]]) -> int:
    from mailarray.catalog.database import open_catalog
    from mailarray.tracking.rebuild import rebuild as rebuild_from

    opened = await open_catalog(url)
    columns = (TextColumn("rebuilding"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("rebuild", total=None)
            done = await rebuild_from(
                opened, volumes, lambda so_far, total: bar.update(task, completed=so_far, total=total)
            )
    finally:
        await opened.close()
    for trouble in done.troubles:
        click.echo(trouble, err=True)
    click.echo(f"{done.messages} messages and {done.tombstones} deletions registered from {done.segments} segments")
    if done.left_open:
        click.echo(f"{done.left_open} segments are still open; their servers register them while they run")
    click.echo("readers use the catalog again once the servers have checked it")
    return 1 if done.troubles else 0


@catalog.command()
@_data
def migrate(data: Path) -> None:
    """Bring the catalog's tables to this version."""
    from mailarray.catalog.database import migrate as migrate_database

    asyncio.run(migrate_database(access_settings(data).catalog.current_url()))
    click.echo("the catalog's tables are up to date")
