"""`mailarray account`: accounts in a flat file or in the database; running servers know of a change within two seconds.

In a server's pod: `mailarray account list --settings /etc/mailarray/settings/server.json`.
Passwords are asked for, or read from standard input; they are never arguments, which other users of a machine can see.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from mailarray.cli.account_target import Target, open_target
from mailarray.cli.account_usage import with_usage
from mailarray.directory.accounts_file import AccountLine, AccountsError, parse_address, parse_quota, render_size
from mailarray.directory.addresses import split
from mailarray.directory.database.store import ListedAccount
from mailarray.directory.passwords import check_new_password, hash_password
from mailarray.local.view import human_size

TABLE_ROWS = 1000  # a longer list comes as plain lines: a table is drawn only when its last row is known

_Row = tuple[ListedAccount, int | None]  # an account, and the bytes that it holds

_stdin = click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")


def _target(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where the accounts are; the command gets them as its first argument."""

    @click.option(
        "--data", default="data", type=click.Path(path_type=Path), show_default=True, help="Folder of an array here."
    )
    @click.option("--file", type=click.Path(path_type=Path), help="A flat file.")
    @click.option("--settings", "settings_file", type=click.Path(path_type=Path), help="Settings file of a process.")
    @click.option("--catalog-url", envvar="MAILARRAY_CATALOG_URL", help="The database.")
    @functools.wraps(command)
    def run(
        *arguments: Any,
        data: Path,
        file: Path | None,
        settings_file: Path | None,
        catalog_url: str | None,
        **options: Any,
    ) -> Any:
        with open_target(data, file, catalog_url, settings_file) as target:
            return command(target, *arguments, **options)

    return run


@click.group()
def account() -> None:
    """Add, change, list and remove accounts, in a flat file or in the database."""


@account.command()
@click.argument("address")
@click.option("--alias", "aliases", multiple=True, help="A further address; may be given several times.")
@click.option("--quota", default="", help="Bytes, like 1Gi.")
@click.option("--no-login", is_flag=True, help="Ask for no password: mail is received, nobody can log in.")
@_stdin
@_target
def add(
    target: Target, address: str, aliases: tuple[str, ...], quota: str, no_login: bool, password_stdin: bool
) -> None:
    """Add an account; asks for its password."""
    size = parse_quota(quota)
    address = parse_address(address, target.domains)
    full = tuple(_alias(target, alias, address) for alias in aliases)
    target.check_new(AccountLine(address, "", full, size))  # refused before a password is asked for
    target.add(AccountLine(address, "" if no_login else _new_hash(password_stdin), full, size))
    click.echo(f"{address} added")


@account.command()
@click.argument("address")
@_stdin
@_target
def passwd(target: Target, address: str, password_stdin: bool) -> None:
    """Give an account another password."""
    address = _canonical(address)
    target.require(address)
    target.set_password(address, _new_hash(password_stdin))
    click.echo(f"password of {address} changed")


@account.command()
@click.argument("address")
@_target
def remove(target: Target, address: str) -> None:
    """Take an account out, with its aliases; its mail stays in the journals."""
    target.remove(_canonical(address))
    click.echo(f"{_canonical(address)} removed")


@account.command()
@click.argument("address")
@_target
def disable(target: Target, address: str) -> None:
    """Let nobody log in to an account; its mail is received all the same."""
    target.set_enabled(_canonical(address), False)
    click.echo(f"{_canonical(address)} disabled; its mail is received all the same")


@account.command()
@click.argument("address")
@_target
def enable(target: Target, address: str) -> None:
    """Let people log in again to an account that was disabled."""
    target.set_enabled(_canonical(address), True)
    click.echo(f"{_canonical(address)} enabled")


@account.group("alias")
def alias_group() -> None:
    """Further addresses of accounts."""


@alias_group.command("add")
@click.argument("alias")
@click.argument("address")
@_target
def add_alias(target: Target, alias: str, address: str) -> None:
    """Let mail for ALIAS go to the account ADDRESS."""
    address = _canonical(address)
    full = _alias(target, alias, address)
    target.add_alias(full, address)
    click.echo(f"mail for {full} goes to {address}")


@alias_group.command("remove")
@click.argument("alias")
@_target
def remove_alias(target: Target, alias: str) -> None:
    """Take an alias away."""
    target.remove_alias(_canonical(alias))
    click.echo(f"alias {_canonical(alias)} removed")


@account.command("list")
@click.option("--containing", default="", help="Only accounts whose address has this text in it.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="json: a JSON list.")
@click.option("--json", "output", flag_value="json", help="The same as -o json.")
@_target
def list_accounts(target: Target, containing: str, output: str) -> None:
    """Show accounts, and how much of its quota each holds: `-` while the catalog does not say."""
    found = with_usage(target.accounts(containing.lower()), target.catalog)
    if output == "json":
        _print_json(found)
        return
    rows: list[_Row] = []
    console = Console()
    if console.is_terminal:
        for one in found:
            rows.append(one)
            if len(rows) > TABLE_ROWS:
                break
        else:
            console.print(_table(rows))
            return
    for one in chain(rows, found):
        click.echo(_line(*one))


@account.command("import")
@click.argument("source", type=click.File("r", encoding="utf-8", errors="surrogateescape"), metavar="FILE")
@_target
def import_accounts(target: Target, source: Any) -> int:
    """Add and change many accounts at once: CSV with a header, or the lines of an accounts file; - for standard input.

    CSV columns: address, password or password_hash, quota, aliases (separated by spaces), enabled. Accounts that are
    not in the file stay as they are. Plain passwords cost 50 to 100 ms each to hash, on purpose.
    """
    from mailarray.cli.account_import import import_all

    return import_all(target, source)


@account.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@_target
def accept(target: Target, yes: bool) -> None:
    """Let servers follow a database that lost its accounts: made anew, or restored with fewer than half of them.

    Servers keep the accounts they know until then, so that nobody's mail is refused because a database came up empty.
    """
    if not yes:
        click.confirm("Mail for accounts that are not in the database now will be refused for good. Go on?", abort=True)
    click.echo(f"servers follow the database from now on: {target.accept()} accounts")


def _canonical(address: str) -> str:
    return parse_address(address, None)


def _alias(target: Target, alias: str, address: str) -> str:
    return parse_address(alias if "@" in alias else f"{alias}@{split(address)[1]}", target.domains, "alias")


def _table(rows: list[_Row]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("ADDRESS", "ALIASES", "USED", "QUOTA", "LOGIN", "CHANGED"):
        table.add_column(column, justify="right" if column in ("USED", "QUOTA") else "left")
    for one, used in rows:
        changed = datetime.fromtimestamp(one.changed, UTC).strftime("%Y-%m-%d") if one.changed else ""
        quota = "" if one.quota is None else render_size(one.quota)
        table.add_row(one.address, "\n".join(one.aliases), _used(used), quota, _login(one), changed)
    return table


def _login(one: ListedAccount) -> str:
    return "disabled" if not one.enabled else "yes" if one.has_password else "no"


def _used(used: int | None) -> str:
    return "-" if used is None else human_size(used)


def _line(one: ListedAccount, used: int | None) -> str:
    notes = [] if one.enabled and one.has_password else ["disabled" if not one.enabled else "no login"]
    if one.quota is not None:
        notes.append(f"{_used(used)} of {render_size(one.quota)} used")
    elif used is not None:
        notes.append(f"{_used(used)} used")
    notes += [f"aliases {', '.join(one.aliases)}"] if one.aliases else []
    return f"{one.address}{'  ' if notes else ''}{'; '.join(notes)}"


def _print_json(found: Iterator[_Row]) -> None:
    """A list that is printed as it is read."""
    separator = "["
    for one, used in found:
        fields = {
            "address": one.address,
            "aliases": one.aliases,
            "used": used,
            "quota": one.quota,
            "enabled": one.enabled,
            "hasPassword": one.has_password,
            "created": one.created or None,
            "changed": one.changed or None,
        }
        click.echo(f"{separator}\n  {json.dumps(fields, ensure_ascii=False)}", nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")


def _new_hash(from_stdin: bool) -> str:
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt="The same again", err=True)
    try:
        check_new_password(password)
    except AccountsError as error:
        raise click.ClickException(str(error)) from None
    return hash_password(password)
