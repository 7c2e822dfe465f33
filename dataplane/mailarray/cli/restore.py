"""`mailarray restore`: a backup into an empty array that runs."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mailarray.cli import array_reach
from mailarray.cli.account_target import Target
from mailarray.cli.array_reach import Reach
from mailarray.cli.backup import parse_time, store_options
from mailarray.cli.progress import progress

if TYPE_CHECKING:
    from mailarray.backup.manifest import Manifest
    from mailarray.backup.restoring import Restored
    from mailarray.backup.store import Store


@click.command()
@store_options
@array_reach.where_options
@click.option("--at", help="The newest backup at or before this time, or of this id; else the newest.")
@click.option("--add", is_flag=True, help="Also into an array that holds mail: what is there stays.")
@click.option(
    "--accounts-file",
    type=click.Path(path_type=Path),
    help="Write the accounts to this flat file instead, as for a Secret.",
)
@click.option("--no-accounts", is_flag=True, help="Leave the accounts as they are.")
def restore(
    target: str,
    endpoint: str | None,
    scratch: Path | None,
    data: Path,
    mounts: Path | None,
    copies: int | None,
    at: str | None,
    add: bool,
    accounts_file: Path | None,
    no_accounts: bool,
) -> int:
    """Bring a backup back into an empty array, which must run: start it, restore, then let mail and people in."""
    from mailarray.backup.opening import open_store

    time = parse_time(at)
    reach = array_reach.find(data, mounts, copies)
    store = open_store(target, endpoint)
    with array_reach.held_still(reach) as stopped:
        if stopped:
            raise click.ClickException(f"the array in {data} does not run; start `mailarray up`, then restore into it")
    with array_reach.scratch_folder(scratch) as folder, array_reach.accounts_target(reach, accounts_file) as accounts:
        backup, done = asyncio.run(_restore(store, time, reach, folder, None if no_accounts else accounts, add))
    for note in done.notes:
        click.echo(note, err=True)
    click.echo(
        f"backup {backup.id} is restored: {done.segments} segments, {done.flags} flags, {done.accounts} accounts"
    )
    return 1 if done.notes else 0


async def _restore(
    store: Store, time: datetime | None, reach: Reach, folder: Path, accounts: Target | None, add: bool
) -> tuple[Manifest, Restored]:
    from mailarray.backup import manifest, restoring
    from mailarray.backup.running import RunningArray

    await manifest.check_target(store, make=False)
    backup = await manifest.newest(store, time)
    async with (
        RunningArray(reach.table, reach.token, reach.copies) as array,
        array_reach.catalog_of(reach) as catalog,
    ):
        if catalog is None:
            raise click.ClickException("the catalog cannot be opened; a restore needs it")
        with progress() as show:
            done = await restoring.restore(store, backup, array, catalog, folder, show, accounts, add=add)
    return backup, done
