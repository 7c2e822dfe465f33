"""`mailarray run`: one process of an array, as launchers start it."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from mailarray.cli.messages import is_sentence
from mailarray.contract import settings
from mailarray.contract.settings import AccessSettings, ServerSettings
from mailarray.local.lifeline import become
from mailarray.observe import logs

log = logging.getLogger(__name__)

_ROLES: dict[str, tuple[str, type[ServerSettings] | type[AccessSettings]]] = {
    "smtp": ("mailarray.smtp.process", ServerSettings),
    "sidecar": ("mailarray.tracking.process", ServerSettings),
    "access": ("mailarray.access.process", AccessSettings),
}


@click.command()
@click.argument("role", type=click.Choice(list(_ROLES)))
@click.argument("settings_file", type=click.Path(path_type=Path), metavar="SETTINGS")
@click.option("--name", help="Name of this pod; it replaces {pod} and {ordinal} in the settings, which a group shares.")
@click.option(
    "--log-file",
    type=click.Path(path_type=Path),
    envvar="MAILARRAY_LOG_FILE",
    help="Rotated JSON lines; without it they go to standard error.",
)
@click.option(
    "--log-level", default="info", envvar="MAILARRAY_LOG_LEVEL", type=click.Choice(["debug", "info", "warning"])
)
@click.option("--user", type=int, help="Run under this user id (needs root, and --group).")
@click.option("--group", type=int, help="Run under this group id alone.")
def run(
    role: str,
    settings_file: Path,
    name: str | None,
    log_file: Path | None,
    log_level: str,
    user: int | None,
    group: int | None,
) -> None:
    """Run one process of an array until SIGTERM."""
    module_name, kind = _ROLES[role]
    try:
        module = importlib.import_module(module_name)  # as the user who may read it, before `become`
    except ImportError as error:
        raise click.ClickException(f"the {role} process cannot be loaded: {error}") from error
    if user is not None and group is not None:
        become(user, group)
    loaded = settings.load(kind, settings_file, name)
    own_name = loaded.server if isinstance(loaded, ServerSettings) else loaded.name
    try:
        logs.configure(f"{own_name}/{role}", file=log_file, level=logging.getLevelName(log_level.upper()))
    except OSError as error:
        raise click.ClickException(f"{log_file}: {error.strerror}; logs cannot be written there") from None
    log.info("process starts", extra={"settings_file": str(settings_file)})
    try:
        _run(module.run, loaded)
    except Exception as error:
        log.exception("process ends by an error")
        if log_file is None or is_sentence(error):
            raise
        raise click.ClickException(f"unexpected {type(error).__name__}; the details are in {log_file}") from error
    log.info("process ends")


def _run(main: Callable[[Any], Coroutine[Any, Any, None]], loaded: ServerSettings | AccessSettings) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(loaded))
