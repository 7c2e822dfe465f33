"""`mailarray account`: edits the flat file; running servers read it again within a second."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from mailarray.contract import settings
from mailarray.directory import accounts_editor
from mailarray.directory.accounts_file import AccountLine, AccountsError, parse, parse_quota, render_size
from mailarray.directory.addresses import canonical_domain, split
from mailarray.directory.passwords import hash_password
from mailarray.local.layout import Layout, write_private
from mailarray.local.render import ACCESS_NAME

MIN_PASSWORD = 8  # characters; NIST SP 800-63B

_data = click.option(
    "--data", default="data", type=click.Path(path_type=Path), show_default=True, help="The data folder."
)
_stdin = click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")


@click.group()
def account() -> None:
    """Accounts of an array on this machine."""


@account.command()
@click.argument("address")
@click.option("--alias", "aliases", multiple=True, help="A further address; may be given several times.")
@click.option("--quota", default="", help="Bytes, like 1Gi.")
@_stdin
@_data
def add(address: str, aliases: tuple[str, ...], quota: str, password_stdin: bool, data: Path) -> None:
    """Add an account; asks for its password."""
    size = parse_quota(quota)
    full = tuple(a if "@" in a else f"{a}@{split(address)[1]}" for a in aliases)

    def edit(text: str, domains: list[str]) -> str:
        accounts_editor.add(text, AccountLine(address, "", full, size), domains)  # refused before a password is asked
        return accounts_editor.add(text, AccountLine(address, _new_hash(password_stdin), full, size), domains)

    _edit(data, address, edit)
    click.echo(f"{address} added")


@account.command()
@click.argument("address")
@_stdin
@_data
def passwd(address: str, password_stdin: bool, data: Path) -> None:
    """Give an account another password."""

    def edit(text: str, domains: list[str]) -> str:
        accounts_editor.set_password(text, address, "", domains)
        return accounts_editor.set_password(text, address, _new_hash(password_stdin), domains)

    _edit(data, address, edit)
    click.echo(f"password of {address} changed")


@account.command()
@click.argument("address")
@_data
def remove(address: str, data: Path) -> None:
    """Take an account out; its mail stays in the journals."""
    _edit(data, address, lambda text, domains: accounts_editor.remove(text, address, domains))
    click.echo(f"{address} removed")


@account.command("list")
@_data
def list_accounts(data: Path) -> None:
    """Show all accounts."""
    layout = Layout(data)
    text = _read(layout)
    for line in parse(text, _domains(layout, text), layout.accounts.name).accounts.values():
        notes = [] if line.password_hash else ["no login"]
        notes += [] if line.quota is None else [render_size(line.quota)]
        notes += [f"aliases {', '.join(line.aliases)}"] if line.aliases else []
        click.echo(f"{line.address}{'  ' if notes else ''}{'; '.join(notes)}")


def _edit(data: Path, address: str, change: Callable[[str, list[str]], str]) -> None:
    layout = Layout(data)
    if not layout.data.is_dir():
        raise click.ClickException(f"{data} is not there; start `mailarray up` once, or give --data")
    status = layout.accounts.stat() if layout.accounts.exists() else None
    with (layout.data / ".accounts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = _read(layout)
        write_private(layout.accounts, change(text, _domains(layout, text, address)))
    if status is not None:  # isolated servers read it by its group
        os.chown(layout.accounts, status.st_uid, status.st_gid)
        layout.accounts.chmod(status.st_mode & 0o777)


def _read(layout: Layout) -> str:
    try:
        return layout.accounts.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise AccountsError(f"{layout.accounts} is not UTF-8; save it as UTF-8") from None


def _domains(layout: Layout, text: str, *addresses: str) -> list[str]:
    """The cluster's, as the launcher wrote them down; before its first start, whatever the file says."""
    try:
        access = settings.load(settings.AccessSettings, layout.settings_file(ACCESS_NAME))
        return [d.name for d in access.directory.domains]
    except OSError:
        lines = (line.partition(":")[0] for line in text.splitlines() if not line.lstrip().startswith("#"))
        return sorted({canonical_domain(a.rpartition("@")[2].strip()) for a in (*lines, *addresses)} - {""})


def _new_hash(from_stdin: bool) -> str:
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt="The same again", err=True)
    if len(password) < MIN_PASSWORD:
        raise click.ClickException(f"the password has {len(password)} characters; use at least {MIN_PASSWORD}")
    return hash_password(password)
