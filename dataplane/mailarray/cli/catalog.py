"""`mailarray catalog`: the index, which can always be made again from the journals."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path

import click

from mailarray.cli.array_settings import access_settings

_data = click.option(
    "--data", default="data", type=click.Path(path_type=Path), show_default=True, help="The data folder."
)


@click.group()
def catalog() -> None:
    """Rebuild or migrate the catalog of an array on this machine."""


@catalog.command()
@_data
def rebuild(data: Path) -> None:
    """Drop the catalog and register everything again from the journals; the servers may run on."""
    settings = access_settings(data)
    asyncio.run(importlib.import_module("mailarray.tracking.rebuild").rebuild(settings))


@catalog.command()
@_data
def migrate(data: Path) -> None:
    """Bring the catalog's tables to this version."""
    settings = access_settings(data)
    asyncio.run(importlib.import_module("mailarray.tracking.rebuild").migrate(settings))
