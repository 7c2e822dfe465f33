"""`kubectl mailarray account`: accounts in the catalog's database, changed from inside a server's pod.

The database's password stays in the cluster, and rules about addresses stay in the data plane: this passes words on and
shows the answer. Passwords are asked for here and go through standard input alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mailarray_operator.api import names
from mailarray_operator.kubectl import array
from mailarray_operator.kubectl.asking import remote
from mailarray_operator.kubectl.status import secret_name
from mailarray_operator.kubectl.targets import kubectl, output_option, target_options

CHANGE_SECONDS = 60.0  # of one change; hashing a password takes half a second, a database that is away ten
IMPORT_SECONDS = None  # as long as it takes: 100,000 accounts are some minutes

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
@_stdin
def add(address: str, aliases: tuple[str, ...], quota: str, password_stdin: bool) -> None:
    """Add an account; asks for its password."""
    options = [f"--alias={alias}" for alias in aliases] + ([f"--quota={quota}"] if quota else [])
    _run("add", address, options=["--password-stdin", *options], password=password_stdin)


@account.command()
@target_options
@click.argument("address")
@_stdin
def passwd(address: str, password_stdin: bool) -> None:
    """Give an account another password."""
    _run("passwd", address, options=["--password-stdin"], password=password_stdin)


@account.command("list")
@target_options
@output_option
def list_accounts(output: str) -> None:
    """Show all accounts."""
    _run("list", options=["-o", "json"] if output == "json" else [])


@account.command()
@target_options
@click.argument("address")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(address: str, yes: bool) -> None:
    """Take an account out; its mail stays in the journals."""
    _run(
        "remove",
        address,
        question=None if yes else f"Remove {address}? Nobody can log in there any more, and mail to it is refused.",
    )


@account.command("import")
@target_options
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
def import_accounts(file: Path) -> None:
    """Add the accounts of a flat file: address:argon2-hash:alias,alias:quota, one a line; - is standard input."""
    content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    _run("import", "-", stdin=content, seconds=IMPORT_SECONDS)


@account.group()
@target_options
def alias() -> None:
    """Further addresses of accounts."""


@alias.command("add")
@target_options
@click.argument("alias_address", metavar="ALIAS")
@click.argument("address")
def add_alias(alias_address: str, address: str) -> None:
    """Let ALIAS be delivered to ADDRESS too."""
    _run("alias add", alias_address, address)


@alias.command("remove")
@target_options
@click.argument("alias_address", metavar="ALIAS")
def remove_alias(alias_address: str) -> None:
    """Take an alias away."""
    _run("alias remove", alias_address)


def _run(
    command: str,
    *arguments: str,
    options: list[str] | None = None,
    password: bool | None = None,
    question: str | None = None,
    stdin: bytes | None = None,
    seconds: float | None = CHANGE_SECONDS,
) -> None:
    """In one pod. `password`: None for none, else whether it is read from standard input."""
    client = kubectl()
    cluster = array.chosen(client)
    secret = secret_name(cluster)
    if secret is not None:
        raise click.ClickException(
            f"the accounts of {cluster.name} are the file `{names.KEY_ACCOUNTS}` in the Secret {secret}: change the "
            f"file, then `kubectl create secret generic {secret} --from-file={names.KEY_ACCOUNTS} --dry-run=client "
            "-o yaml | kubectl apply -f -`"
        )
    pod = array.one_to_ask(client, cluster.name)
    if question is not None:
        click.confirm(question, abort=True, err=True)
    if password is not None:
        stdin = _password(from_stdin=password)
    said = client.execute(
        pod.name,
        names.CONTAINER_CATALOG,
        remote(f"account {command}", *arguments, options=options or []),
        stdin=stdin,
        seconds=seconds,
    )
    click.echo(said, nl=False)


def _password(*, from_stdin: bool) -> bytes:
    if from_stdin:
        return sys.stdin.buffer.readline().rstrip(b"\r\n") + b"\n"
    asked: str = click.prompt("Password", hide_input=True, confirmation_prompt="The same again", err=True)
    return f"{asked}\n".encode()
