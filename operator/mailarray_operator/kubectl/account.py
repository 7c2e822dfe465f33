"""`kubectl mailarray account`: accounts in the catalog's database, changed from inside a server's pod.

The database's password stays in the cluster, and rules about addresses stay in the data plane: this passes words on and
shows the answer. Passwords are asked for here and go through standard input alone.
"""

from __future__ import annotations

import json
import sys
from typing import BinaryIO

import click

from mailarray_operator.api import names
from mailarray_operator.kubectl import array, drawing
from mailarray_operator.kubectl.asking import in_any, remote
from mailarray_operator.kubectl.kubectl import Kubectl, Stdin
from mailarray_operator.kubectl.status import secret_name
from mailarray_operator.kubectl.targets import kubectl, output_option, target_options

CHANGE_SECONDS = 60.0  # of one change; hashing a password takes half a second, a database that is away ten

_stdin = click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")


@click.group()
@target_options
def account() -> None:
    """Add, change, list, import and remove accounts."""


@account.command()
@target_options
@click.argument("address")
@click.option("--alias", "aliases", multiple=True, help="A further address; may be given several times.")
@click.option("--quota", default="", help="Bytes, like 1Gi.")
@click.option("--no-login", is_flag=True, help="Ask for no password: mail is received, nobody can log in.")
@_stdin
def add(address: str, aliases: tuple[str, ...], quota: str, no_login: bool, password_stdin: bool) -> int:
    """Add an account; asks for its password."""
    options = [f"--alias={alias}" for alias in aliases] + ([f"--quota={quota}"] if quota else [])
    if no_login:
        return _run("add", address, options=["--no-login", *options])
    return _run("add", address, options=["--password-stdin", *options], password=password_stdin)


@account.command()
@target_options
@click.argument("address")
@_stdin
def passwd(address: str, password_stdin: bool) -> int:
    """Give an account another password."""
    return _run("passwd", address, options=["--password-stdin"], password=password_stdin)


@account.command("list")
@target_options
@click.option("--containing", default="", help="Only accounts whose address has this text in it.")
@output_option
def list_accounts(containing: str, output: str) -> int:
    """Show accounts, and how much of its quota each holds."""
    client = kubectl()
    options = ["--json", *([f"--containing={containing}"] if containing else [])]
    cluster = _cluster(client)
    said = in_any(client, cluster, remote("account list", options=options), seconds=CHANGE_SECONDS).said
    if output == "json":
        click.echo(said, nl=False)
        return 0
    table = drawing.table("ADDRESS", "ALIASES", "USED", "QUOTA", "LOGIN", right=("USED", "QUOTA"))
    for one in json.loads(said):
        login = "disabled" if not one.get("enabled", True) else "yes" if one.get("hasPassword") else "no password"
        aliases = ", ".join(one.get("aliases") or []) or drawing.DASH
        used, quota = drawing.size(one.get("used")), drawing.size(one.get("quota"))
        table.add_row(one.get("address", ""), aliases, used, quota, login)
    drawing.console().print(table)
    return 0


@account.command()
@target_options
@click.argument("address")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(address: str, yes: bool) -> int:
    """Take an account out, with its aliases; its mail stays in the journals."""
    question = f"Remove {address}? Nobody can log in there any more, and mail to it is refused."
    return _run("remove", address, question="" if yes else question)


@account.command()
@target_options
@click.argument("address")
def disable(address: str) -> int:
    """Let nobody log in to an account; its mail is received all the same."""
    return _run("disable", address)


@account.command()
@target_options
@click.argument("address")
def enable(address: str) -> int:
    """Let people log in again to an account that was disabled."""
    return _run("enable", address)


@account.command("import")
@target_options
@click.argument("file", type=click.File("rb"))
def import_accounts(file: BinaryIO) -> int:
    """Add and change many accounts: CSV with a header, or the lines of an accounts file; - is standard input.

    CSV columns: address, password or password_hash, quota, aliases (separated by spaces), enabled.
    """
    return _run("import", "-", stdin=file, seconds=None)


@account.command()
@target_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def accept(yes: bool) -> int:
    """Let servers follow a database that lost its accounts: made anew, or restored with fewer than half of them."""
    question = "Mail for accounts that are not in the database now will be refused for good. Go on?"
    return _run("accept", options=["--yes"], question="" if yes else question)


@account.group()
@target_options
def alias() -> None:
    """Further addresses of accounts."""


@alias.command("add")
@target_options
@click.argument("alias_address", metavar="ALIAS")
@click.argument("address")
def add_alias(alias_address: str, address: str) -> int:
    """Let mail for ALIAS go to the account ADDRESS."""
    return _run("alias add", alias_address, address)


@alias.command("remove")
@target_options
@click.argument("alias_address", metavar="ALIAS")
def remove_alias(alias_address: str) -> int:
    """Take an alias away."""
    return _run("alias remove", alias_address)


def _run(
    command: str,
    *arguments: str,
    options: list[str] | None = None,
    password: bool | None = None,
    question: str = "",
    stdin: Stdin = None,
    seconds: float | None = CHANGE_SECONDS,
) -> int:
    """In one pod. `password`: None for none, else whether it comes from standard input. `seconds`: None: no limit."""
    client = kubectl()
    cluster = _cluster(client)
    if question:
        click.confirm(question, abort=True, err=True)
    if password is not None:
        stdin = _password(from_stdin=password)
    line = remote(f"account {command}", *arguments, options=options or [])
    done = in_any(client, cluster, line, stdin=stdin, seconds=seconds)
    for remark in done.remarks:  # an import tells of each line that it could not take
        click.echo(remark, err=True)
    click.echo(done.said, nl=False)
    return done.code


def _cluster(client: Kubectl) -> str:
    """The MailCluster that is meant. Raises ClickException when its accounts are not in the database."""
    cluster = array.chosen(client)
    secret = secret_name(cluster)
    if secret is not None:
        raise click.ClickException(
            f"the accounts of {cluster.name} are the file `{names.KEY_ACCOUNTS}` in the Secret {secret}: change the "
            f"file, then `kubectl create secret generic {secret} -n {cluster.namespace} "
            f"--from-file={names.KEY_ACCOUNTS} --dry-run=client -o yaml | kubectl apply -f -`"
        )
    return cluster.name


def _password(*, from_stdin: bool) -> bytes:
    if from_stdin:
        return sys.stdin.buffer.readline().rstrip(b"\r\n") + b"\n"
    asked: str = click.prompt("Password", hide_input=True, confirmation_prompt="The same again", err=True)
    return f"{asked}\n".encode()
