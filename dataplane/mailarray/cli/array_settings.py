"""The settings that a launcher wrote down, for commands that work on an array beside it."""

from __future__ import annotations

from pathlib import Path

import click

from mailarray.contract import mirroring_table, settings
from mailarray.contract.settings import AccessSettings, ServerSettings, SettingsError
from mailarray.local.layout import Layout
from mailarray.local.render import ACCESS_NAME


def access_settings(data: Path) -> AccessSettings:
    """Catalog, token and mirroring table of the array under a data folder."""
    try:
        return settings.load(AccessSettings, Layout(data).settings_file(ACCESS_NAME))
    except FileNotFoundError:
        raise click.ClickException(f"{data} holds no array; start `mailarray up` once, or give --data") from None


def process_settings(file: Path) -> ServerSettings | AccessSettings:
    """The settings of a server or an access server, whichever the file is. Raises SettingsError or OSError."""
    try:
        return settings.load(ServerSettings, file)
    except SettingsError as error:
        try:
            return settings.load(AccessSettings, file)
        except SettingsError:
            raise error from None


def server_volumes(data: Path) -> list[tuple[str, Path]]:
    """Name and volume of every server under a data folder."""
    layout = Layout(data)
    return [
        (server.name, Path(settings.load(ServerSettings, layout.settings_file(server.name)).volume))
        for server in mirroring_table.load(access_settings(data).mirroring_table_file).servers
    ]
