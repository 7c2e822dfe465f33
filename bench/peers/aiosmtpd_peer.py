"""aiosmtpd, the usual SMTP server of Python: accepts and stores nothing.

On uvloop, like Mailarray, and with the same check of recipients, so that only the protocol differs.
`python -m bench.peers.aiosmtpd_peer PORT` is the server itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.addresses import MAX_MESSAGES, address
from bench.peers.peer import Peer, System
from bench.processes import Daemon, free_port, running

_BACKLOG = 1000


class Aiosmtpd(Peer):
    name = "aiosmtpd"
    counted = "accepted, nothing stored"

    @contextlib.contextmanager
    def running(self, directory: Path) -> Iterator[System]:
        port = free_port()
        argv = [sys.executable, "-m", "bench.peers.aiosmtpd_peer", str(port)]
        with running(Daemon(self.name, argv, directory / "log")) as daemon:
            daemon.wait_for_port(port)
            yield System([port], [daemon])


class _Handler:
    """Accepts the benchmark's recipients, and forgets the message."""

    def __init__(self) -> None:
        self._known = {address(n) for n in range(1, MAX_MESSAGES + 1)}

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, recipient: str, options: list[str]) -> str:
        if recipient not in self._known:
            return "550 5.1.1 No such mailbox"
        envelope.rcpt_tos.append(recipient)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        return "250 OK"


async def _serve(port: int) -> None:
    from aiosmtpd.smtp import SMTP

    handler = _Handler()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="mail.example", loop=loop), "127.0.0.1", port, backlog=_BACKLOG
    )
    await server.serve_forever()


def main() -> None:
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
