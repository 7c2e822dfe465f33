"""Stands in for `mailarray` in tests of the launcher: `run ROLE SETTINGS ...` serves status and metrics, nothing else.

Takes the place of the command prefix, so that `mailarray up` is tested without mail.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from prometheus_client import Counter

from mailarray.contract import settings
from mailarray.contract.settings import AccessSettings, ServerSettings
from mailarray.local.lifeline import become
from mailarray.observe.http import internal_app, serve


async def main(role: str, path: str) -> None:
    """Serve until SIGTERM."""
    if role == "access":
        access = settings.load(AccessSettings, path)
        listen, token_file = access.internal, access.token_file
        status: dict[str, object] = {"sessions": 1}
    else:
        server = settings.load(ServerSettings, path)
        token_file = server.token_file
        listen = server.writer if role == "smtp" else server.sidecar
        status = (
            {"server": server.server, "sessions": 2, "accepted": 1234, "mirrors": [{"server": "x", "state": "InSync"}]}
            if role == "smtp"
            else {"server": server.server, "lag_bytes": 3, "segments": {"own": 4, "mirrored": 5, "unsealed": 1}}
        )
    Counter("mailarray_fake", "For tests.").inc(2)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    status |= {"uid": os.getuid(), "opens": opens(Path(path).parents[1])}
    runner = await serve(internal_app(Path(token_file).read_text(encoding="utf-8").strip(), lambda: status), listen)
    await stop.wait()
    await runner.cleanup()


def opens(data: Path) -> list[str]:
    """Which folders of the array this process can look into."""
    found = []
    for path in (data / "catalog", data / "access" / "run", *sorted(data.glob("servers/*"))):
        with suppress(PermissionError):
            list((path / "volume" if path.parent.name == "servers" else path).iterdir())
            found.append(path.name)
    return found


if __name__ == "__main__":
    if "--user" in sys.argv:
        become(int(sys.argv[sys.argv.index("--user") + 1]), int(sys.argv[sys.argv.index("--group") + 1]))
    asyncio.run(main(sys.argv[2], sys.argv[3]))
