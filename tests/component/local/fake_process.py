"""Stands in for `mailarray` in tests of the launcher: `run ROLE SETTINGS ...` serves status and metrics, nothing else.

Takes the place of the command prefix, so that `mailarray up` is tested without mail.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from prometheus_client import Counter

from mailarray.contract import settings
from mailarray.contract.settings import AccessSettings, ServerSettings
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
            else {"server": server.server, "lag_records": 3, "segments": {"own": 4, "mirrored": 5, "unsealed": 1}}
        )
    Counter("mailarray_fake", "For tests.").inc(2)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    runner = await serve(
        internal_app(Path(token_file).read_text(encoding="utf-8").strip(), lambda: {**status, "uid": os.getuid()}),
        listen,
    )
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[2], sys.argv[3]))
