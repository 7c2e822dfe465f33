"""The settings that a launcher wrote down, for commands that work on an array beside it."""

from __future__ import annotations

from pathlib import Path

import click

from mailarray.contract import settings
from mailarray.contract.settings import AccessSettings
from mailarray.local.layout import Layout
from mailarray.local.render import ACCESS_NAME


def access_settings(data: Path) -> AccessSettings:
    """Catalog, token and mirroring table of the array under a data folder."""
    try:
        return settings.load(AccessSettings, Layout(data).settings_file(ACCESS_NAME))
    except FileNotFoundError:
        raise click.ClickException(f"{data} holds no array; start `mailarray up` once, or give --data") from None
