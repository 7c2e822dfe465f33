"""`mailarray volume scrub`: have servers read their volumes through now, instead of in their own time.

Asks the sidecars, which do it in the background; `mailarray server-status` shows how far they are and what they found.
"""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import click

from mailarray.cli.array_settings import access_settings
from mailarray.contract import mirroring_table, paths, settings
from mailarray.contract.settings import ServerSettings

ANSWER_SECONDS = 10.0
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}


@click.command("scrub")
@click.option("--data", default="data", type=click.Path(path_type=Path), show_default=True, help="The data folder.")
@click.option("--settings", "settings_file", type=click.Path(path_type=Path), help="Settings file of one server.")
@click.option("--name", default=None, help="Name of that server; the host's name when left out.")
def scrub(data: Path, settings_file: Path | None, name: str | None) -> int:
    """Read every segment through now and mend what is damaged; exit code 1 when a server does not answer."""
    failed = 0
    for server, address, token_file in _sidecars(data, settings_file, name):
        token = Path(token_file).read_text(encoding="ascii").strip()
        request = urllib.request.Request(
            f"http://{address}{paths.SCRUB}", method="POST", headers={"Authorization": f"{paths.TOKEN_SCHEME} {token}"}
        )
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({})
        )  # whatever the environment says of proxies
        try:
            with opener.open(request, timeout=ANSWER_SECONDS) as response:
                said = json.load(response)
            click.echo(f"{server}: reads {said['segments']} segments, {said['bytes']} bytes")
        except (OSError, ValueError, KeyError, TypeError) as error:
            failed += 1
            click.echo(f"{server}: does not answer: {getattr(error, 'reason', error)}", err=True)
    return 1 if failed else 0


def _sidecars(data: Path, settings_file: Path | None, name: str | None) -> list[tuple[str, str, str]]:
    """Name, address and token file of each server that is meant."""
    if settings_file is not None:
        loaded = settings.load(ServerSettings, settings_file, name or socket.gethostname())
        host = _EVERYWHERE.get(loaded.sidecar.host, loaded.sidecar.host)
        return [(loaded.server, f"{host}:{loaded.sidecar.port}", loaded.token_file)]
    access = access_settings(data)
    table = mirroring_table.load(access.mirroring_table_file)
    return [(server.name, server.sidecar, access.token_file) for server in table.servers]
