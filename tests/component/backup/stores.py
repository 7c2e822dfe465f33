"""Targets for tests: a directory, and a bucket of a server that speaks S3."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 60.0


def moto_server() -> str | None:
    """Path of moto's server, which has an environment of its own: its dependencies do not agree with the project's."""
    given = os.environ.get("MAILARRAY_TEST_S3") or str(Path(sys.prefix) / "s3" / "bin" / "moto_server")
    return shutil.which(given)


@contextlib.contextmanager
def s3_server(program: str) -> Iterator[str]:
    """A server of its own on a free loopback port; answers its URL. Ended by its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < end, "the S3 server does not start"
            time.sleep(0.1)
        url = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(urllib.request.Request(f"{url}/mail", method="PUT"), timeout=30):
            yield url
    finally:
        process.kill()
        process.wait()
