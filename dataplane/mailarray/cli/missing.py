"""`mailarray missing`: which mail is lost, message by message, when disks went before others had a copy."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mailarray.cli.catalog_choice import catalog_options, catalog_url, with_catalog

if TYPE_CHECKING:
    from mailarray.catalog.missing import MissingMessage


@click.command()
@catalog_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def missing(url: str | None, settings_file: Path | None, data: Path, as_json: bool) -> int:
    """Name each message that no volume holds any more; all volumes that had it are marked lost.

    Exit code 1 when there are any. Mail on a server that only does not answer is not missing.
    """
    found = asyncio.run(with_catalog(catalog_url(url, settings_file, data), lambda catalog: catalog.missing()))
    if not found.catalog_open:
        click.echo(
            "the catalog is being rebuilt, servers may still tell of copies: ask again when it is open", err=True
        )
    if as_json:
        for message in found.messages:
            click.echo(json.dumps(_record(message)))
    elif found.messages:
        width = max([7, *(len(message.mailbox) for message in found.messages)])
        click.echo(f"{'MAILBOX':{width}}  {'RECEIVED':24}  {'BYTES':>10}  {'MESSAGE':32}  SENDER")
        for message in found.messages:
            row = _record(message)
            click.echo(
                f"{message.mailbox:{width}}  {row['received_at']:24}  {message.size:>10}  {row['message']}  "
                f"{message.sender or '<>'}"
            )
    else:
        click.echo("nothing is missing: some volume that is not lost holds each message", err=True)
    return 1 if found.messages else 0


def _record(message: MissingMessage) -> dict[str, Any]:
    received = datetime.fromtimestamp(message.received_at / 1e6, UTC)
    return {
        "mailbox": message.mailbox,
        "uid": message.uid,
        "uidl": str(message.placement),
        "message": message.message.hex(),
        "received_at": received.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "sender": message.sender,
        "size": message.size,
    }
