"""A host's name is looked up before somebody connects to it, so that giving up meanwhile leaves nothing behind.

uvloop's `create_connection` looks names up in a future of its own. When who waits for it is cancelled or out of time,
and the name cannot be found, that future's error is for nobody: "Future exception was never retrieved" is logged at
each attempt while names cannot be resolved. Its `getaddrinfo` takes the cancellation along.
Refuses to remember answers: that is the resolver's work. Called by who opens connections on uvloop itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence


async def look_up(host: str, port: int) -> None:
    """Returns when the name is known, and at once for an address or a socket's path. Raises OSError."""
    if not host.startswith("/"):
        await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def look_up_any(hosts: Sequence[str], port: int) -> None:
    """The same for hosts of which one is enough. Raises the OSError of the last one."""
    for index, host in enumerate(hosts):
        try:
            await look_up(host, port)
        except OSError:
            if index == len(hosts) - 1:
                raise
        else:
            return
