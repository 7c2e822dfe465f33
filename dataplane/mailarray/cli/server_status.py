"""`mailarray server-status`: what the two processes of one server say of themselves, as one JSON document.

Runs beside them, where the token of the internal ports is. Called by `kubectl mailarray` in the servers' pods, so that
it needs no port of its own and no right but to execute there. A process that does not answer is null, and `errors`
says why.
"""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

from mailarray.contract import paths, settings
from mailarray.contract.settings import Listen, ServerSettings

ANSWER_SECONDS = 3.0
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}


@click.command()
@click.option(
    "--settings", "settings_file", required=True, type=click.Path(path_type=Path), help="The server's settings."
)
@click.option("--name", default=None, help="Name of this server; the host's name when left out.")
def server_status(settings_file: Path, name: str | None) -> int:
    """Show what the two processes of this server say; exit code 1 when neither answers."""
    loaded = settings.load(ServerSettings, settings_file, name or socket.gethostname())
    token = Path(loaded.token_file).read_text(encoding="ascii").strip()
    answer: dict[str, Any] = {"server": loaded.server, "errors": {}}
    for process, listen in (("writer", loaded.writer), ("sidecar", loaded.sidecar)):
        try:
            answer[process] = _ask(listen, token)
        except (OSError, ValueError) as error:
            answer[process] = None
            answer["errors"][process] = str(getattr(error, "reason", error))
    click.echo(json.dumps(answer, indent=2))
    return 0 if answer["writer"] or answer["sidecar"] else 1


def _ask(listen: Listen, token: str) -> dict[str, Any]:
    host = _EVERYWHERE.get(listen.host, listen.host)
    request = urllib.request.Request(
        f"http://{host}:{listen.port}{paths.STATUS}", headers={"Authorization": f"{paths.TOKEN_SCHEME} {token}"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever the environment says of proxies
    with opener.open(request, timeout=ANSWER_SECONDS) as response:
        answer = json.load(response)
    if not isinstance(answer, dict):
        raise ValueError("the answer is not a status")
    return answer
