"""Servers that only answer: `/v1/status`, `/v1/load` and `PUT /v1/mirroring-table`, each pod at an address of its own.

Run as a process of its own (`python -m tests.support.fake_servers`), so that it takes no time of the test's. All
addresses are served by one socket for each port, bound to the loopback device; a pod is told by the address it is
asked at. Everybody is in sync and has nothing to settle; who is asked to drain has done so at once. `PUT /fake/load`
sets the load that an address says from then on; null: it does not answer.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mailarray.contract import paths
from mailarray_operator.api import names

PORTS = (names.PORT_WRITER, names.PORT_SIDECAR, names.PORT_ACCESS)
SO_BINDTODEVICE = 25  # linux/socket.h

FAKE_LOAD = "/fake/load"
LOAD = 0.2  # of who was not told

_generations: dict[tuple[str, int], int] = {}
_loads: dict[str, float | None] = {}


def status(address: str, port: int) -> dict[str, object]:
    """What a healthy process says."""
    return {
        "server": address,
        "volume": f"{int.from_bytes(socket.inet_aton(address), 'big'):032x}",
        "table_generation": _generations.get((address, port), 0),
        "segments": {"own": 1, "mirrored": 1, "unsealed": 2, "unsettled": 0},
        "under_replicated": 0,
        "drain": {"done": True},  # counts for those alone that stand as Draining in the table they have
        "catalog": {"state": "up", "epoch": 1, "open": True},
        "copies": {"wanted": 2, "now": 2},
        "mirrors": [{"server": "another", "state": "InSync", "in_use": True, "error": ""}],
        "refusing": None,
    }


class _Server(asyncio.Protocol):
    """HTTP/1.1, as far as the operator speaks it."""

    def __init__(self) -> None:
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._address, self._port = transport.get_extra_info("sockname")[:2]

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        lines = self._data[:end].decode("latin-1").split("\r\n")
        fields = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:])}
        length = int(fields.get("content-length", "0"))
        if len(self._data) < end + 4 + length:
            return
        body = bytes(self._data[end + 4 : end + 4 + length])
        del self._data[: end + 4 + length]
        method, path, _ = lines[0].split()
        if method == "PUT" and path == paths.MIRRORING_TABLE:
            if fields.get("content-encoding") == "gzip":
                # Only the beginning: 3000 fakes share one process, and the generation comes first.
                body = zlib.decompressobj(wbits=31).decompress(body, 100)
            found = re.search(rb'"generation": ?([0-9]+)', body)
            assert found is not None
            generation = int(found[1])
            _generations[self._address, self._port] = generation
            answer: dict[str, object] = {"generation": generation, "taken": True}
        elif method == "PUT" and path == FAKE_LOAD:
            _loads[self._address] = json.loads(body)
            answer = {}
        elif _loads.get(self._address, LOAD) is None:
            self._transport.close()
            return
        elif path == paths.LOAD:
            answer = {"server": self._address, "load": _loads.get(self._address, LOAD), "refusing": None}
        else:
            answer = status(self._address, self._port)
        said = json.dumps(answer).encode()
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    for port in PORTS:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo\0")
        listening.bind(("0.0.0.0", port))
        await loop.create_server(_Server, sock=listening, backlog=4096)
    print("serving", flush=True)
    await asyncio.Event().wait()


def set_load(address: str, load: float | None) -> None:
    """What the server at that address says of its load; None: it says nothing any more."""
    asked = http.client.HTTPConnection(address, names.PORT_WRITER, timeout=10)
    asked.request("PUT", FAKE_LOAD, json.dumps(load))
    asked.getresponse().read()
    asked.close()


@contextmanager
def fake_servers() -> Iterator[None]:
    """For as long as the context lasts."""
    root = Path(__file__).parent.parent.parent
    path = os.pathsep.join(str(p) for p in (root, root / "dataplane", root / "operator"))
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], cwd=root, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"serving\n", "ports of the internal protocol are in use on this machine"
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
