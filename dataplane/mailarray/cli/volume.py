"""`mailarray volume`: which volumes the catalog knows, and what only a person can know about one.

In a server's pod: `mailarray volume list --settings /etc/mailarray/settings/server.json`, so that nobody has to hand
over the database's URL, in which there is a password.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mailarray.cli.catalog_choice import catalog_options, catalog_url, with_catalog
from mailarray.cli.volume_scrub import scrub
from mailarray.model.ids import VolumeId, parse_id

if TYPE_CHECKING:
    from mailarray.catalog.catalog import Catalog
    from mailarray.catalog.rows import VolumeRow, WaitsFor

_CLOSED = (
    "The catalog is closed to readers, whom the servers serve by themselves: it waits for volumes above that have not "
    "told all, or were never heard of, and for copies. Bring volumes back, or say `volume lost` of one that is gone."
)


@click.group()
def volume() -> None:
    """Show volumes, and say what became of one."""


@volume.command("list")
@catalog_options
def list_volumes(url: str | None, settings_file: Path | None, data: Path) -> None:
    """Every volume that the catalog has ever seen, with its server and what became of it."""

    async def ask(catalog: Catalog) -> tuple[list[VolumeRow], WaitsFor | None]:
        return await catalog.volumes(), await catalog.waits_for()

    rows, waits = asyncio.run(with_catalog(catalog_url(url, settings_file, data), ask))
    width = max([6, *(len(row.server) for row in rows)])
    click.echo(f"{'VOLUME':32}  {'SERVER':{width}}  STATE")
    for row in rows:
        click.echo(f"{row.id.hex():32}  {row.server or '-':{width}}  {_state(row, waits)}")
    if waits is not None:
        for stranger in sorted(waits.unknown):
            click.echo(f"{stranger.hex():32}  {'-':{width}}  named by segments, never heard of")
        click.echo(_CLOSED, err=True)


@volume.command()
@click.argument("volume_id")
@catalog_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def lost(volume_id: str, url: str | None, settings_file: Path | None, data: Path, yes: bool) -> None:
    """Declare that a volume will never come back, so that nothing waits for it any more."""
    try:
        identifier = VolumeId(parse_id(volume_id))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    where = catalog_url(url, settings_file, data)
    if not yes:
        click.confirm(f"Volume {volume_id} is gone for ever?", abort=True)
    asyncio.run(with_catalog(where, lambda catalog: catalog.mark_lost(identifier)))
    click.echo(f"volume {volume_id} is marked lost")


volume.add_command(scrub)


def _state(row: VolumeRow, waits: WaitsFor | None) -> str:
    if row.lost:
        short = waits is not None and row.id in waits.unrepaired
        return "lost" + (", and some of its segments have too few copies yet" if short else "")
    if row.retired:
        return "retired: drained, not waited for"
    silent = waits is not None and row.id in waits.silent
    return "in use" + (", and has not told the catalog all that it holds yet" if silent else "")
