"""`mailarray export`: mailboxes as Maildirs or mbox files, from an array that runs or one that does not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mailarray.cli import array_reach
from mailarray.cli.array_reach import Reach
from mailarray.cli.array_settings import server_volumes
from mailarray.cli.progress import progress

if TYPE_CHECKING:
    from mailarray.backup.folders import Folders


@click.command()
@click.option("--mailbox", "address", help="One mailbox, by its account's address.")
@click.option("--all", "every", is_flag=True, help="All mailboxes.")
@click.option("--format", "format_", type=click.Choice(["maildir", "mbox"]), default="maildir", show_default=True)
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@array_reach.where_options
def export(
    address: str | None,
    every: bool,
    format_: str,
    directory: Path,
    data: Path,
    mounts: Path | None,
    copies: int | None,
) -> int:
    """Write mailboxes below DIRECTORY, one Maildir or mbox file each; deleted mail is left out.

    Read as an access server reads: with the catalog away from the servers themselves, and when the array does not
    run from its volumes. Exit code 1 when a message could not be had whole, which is named.
    """
    from mailarray.backup.folders import Folders
    from mailarray.directory.addresses import split

    if every == (address is not None):
        raise click.UsageError("give either --mailbox ADDRESS or --all")
    if address is not None:
        address = "@".join(split(address))
    reach = array_reach.find(data, mounts, copies)
    folders = Folders(directory, format_)
    try:
        with array_reach.held_still(reach) as stopped:
            if stopped:
                messages, bad = _from_volumes(data, folders, address)
            else:
                messages, bad = asyncio.run(_from_servers(reach, folders, address))
    finally:
        folders.close()
    click.echo(f"{messages} messages written below {directory}" + (f", {bad} could not be read" if bad else ""))
    return 1 if bad else 0


def _from_volumes(data: Path, folders: Folders, address: str | None) -> tuple[int, int]:
    from mailarray.journal import inspect

    volumes = [inspect.open_for_reading(path) for _, path in server_volumes(data)]
    done = inspect.Exported()
    written = 0
    for entry, mailboxes, body in inspect.living(
        volumes,
        lambda segment, damage: click.echo(f"skipped a part of segment {segment.hex()}: {damage.reason}", err=True),
        lambda message, reason: click.echo(f"{reason}; looking for another copy", err=True),
        done,
        address,
    ):
        for mailbox in mailboxes:
            folders.add(mailbox, entry.sender, entry.received_at, body)
            written += 1
    return written, done.damaged


async def _from_servers(reach: Reach, folders: Folders, address: str | None) -> tuple[int, int]:
    from mailarray.access.array import ServerArray
    from mailarray.backup.exporting import MailboxReader

    written = bad = 0
    servers = ServerArray(str(reach.table), str(reach.token))
    await servers.start()
    try:
        async with array_reach.catalog_of(reach) as catalog:
            reader = MailboxReader(servers, catalog, reach.copies)
            addresses = await reader.addresses() if address is None else [address]
            with progress() as show:
                for number, mailbox in enumerate(addresses):
                    await asyncio.to_thread(folders.begin, mailbox)
                    async for message in reader.messages(mailbox):
                        if message.body is None:
                            bad += 1
                            click.echo(f"no server gives message {message.uidl} of {mailbox} whole", err=True)
                            continue
                        await asyncio.to_thread(folders.add, mailbox, "", message.received_at, message.body)
                        written += 1
                    show("mailboxes", number + 1, len(addresses))
    finally:
        await servers.stop()
    return written, bad
