"""`mailarray backup`: all mail, flags and accounts into a directory or an object store; and what to do with backups.

`mailarray backup TARGET` makes one; `list`, `verify` and `prune` look after them. Exit code 0 only when the backup has
everything; 1 when there is none, or when something that it names is missing in it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mailarray.cli import array_reach
from mailarray.cli.array_reach import Reach
from mailarray.cli.progress import progress

if TYPE_CHECKING:
    from mailarray.backup.manifest import Manifest
    from mailarray.backup.store import Store

_F = TypeVar("_F", bound=Callable[..., Any])


class _TargetGroup(click.Group):
    """`backup TARGET` is `backup take TARGET`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["take", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_TargetGroup, subcommand_metavar="TARGET [OPTIONS] | COMMAND TARGET [OPTIONS]")
def backup() -> None:
    """Back up all mail, flags and accounts to TARGET: a directory, or s3://bucket/prefix.

    Only segments that TARGET does not have yet are copied. Everything that was acknowledged before the command
    began is in the backup. Credentials of an object store come from the environment (AWS_ACCESS_KEY_ID, ...).
    """


def store_options(command: _F) -> _F:
    """The target, and how it is reached."""
    command = click.argument("target")(command)
    command = click.option("--endpoint", help="URL of an S3-compatible store; else AWS_ENDPOINT_URL.")(command)
    return click.option(
        "--scratch", type=click.Path(path_type=Path), help="Folder for some segments on their way; else TMPDIR."
    )(command)


def parse_time(text: str | None) -> datetime | None:
    """A time, or a backup's id. Raises UsageError."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f"{text!r} is not a time; write it as 2026-01-31T04:00Z, or give a backup's id"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@backup.command()
@store_options
@array_reach.where_options
@click.option("--keep", type=click.IntRange(min=1), help="Afterwards keep so many of the newest backups only.")
def take(
    target: str,
    endpoint: str | None,
    scratch: Path | None,
    data: Path,
    mounts: Path | None,
    copies: int | None,
    keep: int | None,
) -> int:
    """Make a backup now; the array may run or not."""
    from mailarray.backup.opening import open_store

    reach = array_reach.find(data, mounts, copies)
    store = open_store(target, endpoint)
    with array_reach.scratch_folder(scratch) as folder, array_reach.held_still(reach) as stopped:
        made = asyncio.run(_take(store, reach, stopped, folder))
    for trouble in made.troubles:
        click.echo(trouble, err=True)
    click.echo(
        f"backup {made.id}: {len(made.segments)} segments of {_size(made.size)}, "
        f"{made.copied_segments} of {_size(made.copied_bytes)} copied now"
    )
    if made.troubles:
        return 1
    if keep is not None:
        _prune(store, keep)
    return 0


async def _take(store: Store, reach: Reach, stopped: bool, folder: Path) -> Manifest:
    from mailarray.backup.taking import take as take_backup

    with progress() as show:
        async with (
            array_reach.source_of(reach, stopped) as source,
            array_reach.catalog_of(reach) as catalog,
            array_reach.accounts_of(reach, stopped) as accounts,
        ):
            made = await take_backup(
                store, source, catalog, accounts, folder, lambda done, total: show("copying", done, total)
            )
            for note in source.notes:
                click.echo(note, err=True)
            return made


@backup.command("list")
@store_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def list_backups(target: str, endpoint: str | None, scratch: Path | None, output: str) -> None:
    """The backups in TARGET, oldest first."""
    from mailarray.backup.opening import open_store

    found = asyncio.run(_load_all(open_store(target, endpoint)))
    if output == "json":
        rows = [
            {
                "id": one.id,
                "began": one.began.isoformat(),
                "ended": one.ended.isoformat(),
                "segments": len(one.segments),
                "bytes": one.size,
                "copied_bytes": one.copied_bytes,
                "missing": len(one.missing),
                "accounts": None if one.accounts is None else one.accounts.rows,
                "troubles": list(one.troubles),
            }
            for one in found
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(f"{'ID':20}  {'SEGMENTS':>8}  {'SIZE':>10}  {'COPIED':>10}  {'ACCOUNTS':>8}  STATE")
    for one in found:
        accounts = "-" if one.accounts is None else str(one.accounts.rows)
        state = "whole" if not one.troubles else "; ".join(one.troubles)
        sizes = f"{_size(one.size):>10}  {_size(one.copied_bytes):>10}"
        click.echo(f"{one.id:20}  {len(one.segments):>8}  {sizes}  {accounts:>8}  {state}")


@backup.command()
@store_options
@click.option("--at", help="Only the newest backup at or before this time, or of this id; else all.")
def verify(target: str, endpoint: str | None, scratch: Path | None, at: str | None) -> int:
    """Read everything that backups name, and check every checksum; exit code 1 when something is wrong."""
    from mailarray.backup import keeping, manifest
    from mailarray.backup.opening import open_store

    store, time = open_store(target, endpoint), parse_time(at)

    async def run(folder: Path) -> keeping.Verified:
        await manifest.check_target(store, make=False)
        backups = await _load_all(store) if time is None else [await manifest.newest(store, time)]
        with progress() as show:
            return await keeping.verify(store, backups, folder, lambda done, total: show("reading", done, total))

    with array_reach.scratch_folder(scratch) as folder:
        found = asyncio.run(run(folder))
    for sentence in found.bad:
        click.echo(sentence, err=True)
    click.echo(f"{found.backups} backups, {found.segments} segments of {_size(found.bytes)}, {len(found.bad)} bad")
    return 1 if found.bad else 0


@backup.command()
@store_options
@click.option("--keep", type=click.IntRange(min=1), required=True, help="How many of the newest backups stay.")
def prune(target: str, endpoint: str | None, scratch: Path | None, keep: int) -> None:
    """Remove old backups, and segments that no backup names any more. Not while a backup is being made."""
    from mailarray.backup.opening import open_store

    _prune(open_store(target, endpoint), keep)


def _prune(store: Store, keep: int) -> None:
    from mailarray.backup import keeping, manifest

    async def run() -> keeping.Pruned:
        await manifest.check_target(store, make=False)
        return await keeping.prune(store, keep)

    done = asyncio.run(run())
    click.echo(f"removed {done.backups} backups and {done.segments} segments of {_size(done.bytes)}")


async def _load_all(store: Store) -> list[Manifest]:
    from mailarray.backup import manifest

    await manifest.check_target(store, make=False)
    return [await manifest.load(store, id) for id in await manifest.backup_ids(store)]


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
