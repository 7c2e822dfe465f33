"""`mailarray journal`: a volume read by hand, with no other part running."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

_volume = click.argument("volume", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.group()
def journal() -> None:
    """Look into a volume (for example data/servers/mail-0/volume) with nothing else running."""


@journal.command()
@_volume
def verify(volume: Path) -> int:
    """Check every checksum; exit code 1 when something is damaged."""
    return int(_tool().verify(volume) or 0)


@journal.command("list")
@_volume
def list_records(volume: Path) -> int:
    """One line for each record: id, time, sender, mailboxes, size."""
    return int(_tool().list_records(volume) or 0)


@journal.command()
@_volume
@click.argument("message")
def cat(volume: Path, message: str) -> int:
    """Write one message, found by its id, to standard output."""
    return int(_tool().cat(volume, message) or 0)


@journal.command()
@_volume
@click.argument("target", type=click.Path(path_type=Path))
def export(volume: Path, target: Path) -> int:
    """Write all mail as Maildirs below TARGET; goes on past damage and says what it skipped."""
    return int(_tool().export(volume, target) or 0)


def _tool() -> Any:  # imported when asked for; its functions answer an exit code or None
    return importlib.import_module("mailarray.journal.tool")
