"""`mailarray volume`: what only a person can know about a volume."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from mailarray.cli.array_settings import access_settings
from mailarray.model.ids import VolumeId, parse_id


@click.group()
def volume() -> None:
    """Say what became of a volume."""


@volume.command()
@click.argument("volume_id")
@click.option("--data", default="data", type=click.Path(path_type=Path), show_default=True, help="The data folder.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def lost(volume_id: str, data: Path, yes: bool) -> None:
    """Declare that a volume will never come back, so that nothing waits for it any more."""
    try:
        identifier = parse_id(volume_id)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    settings = access_settings(data)
    if not yes:
        click.confirm(f"Volume {volume_id} is gone for ever?", abort=True)
    asyncio.run(_mark_lost(settings.catalog.current_url(), VolumeId(identifier)))
    click.echo(f"volume {volume_id} is marked lost")


async def _mark_lost(url: str, volume: VolumeId) -> None:
    from mailarray.catalog.database import open_catalog

    catalog = await open_catalog(url)
    try:
        await catalog.mark_lost(volume)
    finally:
        await catalog.close()
