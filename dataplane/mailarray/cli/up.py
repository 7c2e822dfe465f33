"""`mailarray up`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console


@click.command()
@click.option(
    "-f", "--file", required=True, type=click.Path(path_type=Path), help="MailCluster and MailServer documents."
)
@click.option("--data", default="data", type=click.Path(path_type=Path), show_default=True, help="Where mail lies.")
@click.option("--plain", is_flag=True, help="Plain lines, also on a terminal.")
@click.option("--isolate-users", is_flag=True, help="A user id of its own for each server (root only; for tests).")
@click.option(
    "--catalog-url",
    envvar="MAILARRAY_CATALOG_URL",
    help="postgresql://... instead of SQLite; in MAILARRAY_CATALOG_URL no list of processes shows its password.",
)
def up(file: Path, data: Path, plain: bool, isolate_users: bool, catalog_url: str | None) -> None:
    """Run an array on this machine: real processes on loopback, until Ctrl-C."""
    from mailarray.local.up import UpOptions, run_up

    options = UpOptions(file=file, data=data, plain=plain, isolate_users=isolate_users, catalog_url=catalog_url)
    run_up(options, Console())
