"""`mailarray locate`: where a message lies, as JSON from the catalog, for people and for `kubectl mailarray locate`."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mailarray.contract import settings
from mailarray.contract.settings import ServerSettings
from mailarray.model.ids import PlacementId, parse_id

_INTERNET_MESSAGE_ID = re.compile(r"<?[^<>@\s]+@[^<>@\s]+>?")  # RFC 5322 section 3.6.4

WHICH_ID = (
    "give the 32 hexadecimal digits that the sender heard behind `250 2.0.0 Ok: queued as`, "
    "or the message's UIDL in POP3; the Message-ID header is not indexed"
)


@click.command()
@click.argument("message_id")
@click.option(
    "--settings", "settings_file", required=True, type=click.Path(path_type=Path), help="Settings of a server."
)
@click.option("--name", default=None, help="Name of this server; the host's name when left out.")
@click.option("--missing-ok", is_flag=True, help="Exit code 0 also when the message is not known.")
def locate(message_id: str, settings_file: Path, name: str | None, missing_ok: bool) -> int:
    """Show where a message lies: mailboxes, segments, and the servers that hold them.

    MESSAGE_ID is what the sender heard after `queued as`, or the UIDL of POP3. Exit code 1 when it is not known.
    """
    from mailarray.catalog.catalog import CatalogUnavailable
    from mailarray.catalog.locate import Answer

    record = parse_message_id(message_id)
    loaded = settings.load(ServerSettings, settings_file, name or socket.gethostname())

    async def ask() -> Answer:
        from mailarray.catalog.database import open_catalog

        catalog = await open_catalog(loaded.catalog.current_url)
        try:
            return await catalog.locate(record)
        finally:
            await catalog.close()

    try:
        answer = asyncio.run(ask())
    except CatalogUnavailable as error:
        raise click.ClickException(
            f"the catalog does not answer ({error}); look on each server's volume with `mailarray journal`"
        ) from None
    click.echo(json.dumps(render(answer), indent=2))
    return 0 if answer.message or missing_ok else 1


def parse_message_id(text: str) -> bytes:
    """The record's id. Raises ClickException with a sentence that says which id to give."""
    text = text.strip()
    if _INTERNET_MESSAGE_ID.fullmatch(text):
        raise click.ClickException(f"{text} is a Message-ID header: {WHICH_ID}")
    try:
        return PlacementId.parse(text).record if "." in text else parse_id(text)
    except ValueError:
        raise click.ClickException(f"{text!r} is not a message id: {WHICH_ID}") from None


def render(answer: Any) -> dict[str, Any]:  # catalog.locate.Answer, whose module is imported when the command runs
    """As JSON: ids in hexadecimal digits, times as RFC 3339."""
    found = answer.message
    if found is None:
        return {"catalog_open": answer.catalog_open, "message": None}
    received = datetime.fromtimestamp(found.received_at / 1e6, UTC)
    return {
        "catalog_open": answer.catalog_open,
        "message": found.message.hex(),
        "received_at": received.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "sender": found.sender,
        "size": found.size,
        "mailboxes": [{"mailbox": m.mailbox, "uid": m.uid, "uidl": str(m.placement)} for m in found.mailboxes],
        "deleted_from": list(found.deleted_from),
        "places": [
            {
                "segment": place.segment.hex(),
                "offset": place.offset,
                "sealed": place.sealed,
                "copies": place.copies,
                "superseded": place.superseded,
                "holders": [
                    {
                        "server": h.server,
                        "volume": h.volume.hex(),
                        "role": h.role,
                        "lost": h.lost,
                        "retired": h.retired,
                    }
                    for h in place.holders
                ],
            }
            for place in found.places
        ],
    }
