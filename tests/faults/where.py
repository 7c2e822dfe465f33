"""Where a client finds its server: asked again for each connection, since a pod that restarts has a new address."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.array import HOST

Where = Callable[[], tuple[str, int]]  # host, port; raises OSError while there is none

CONNECT_SECONDS = 1.0  # as a sender that has other servers to try


def local(port: int) -> Where:
    """A port of this machine."""
    return lambda: (HOST, port)
