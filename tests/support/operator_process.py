"""An operator as a process of its own, for tests against a real API server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 30.0
STOP_SECONDS = 15.0


class RunningOperator:
    """Started at once; `entry` is the module that is run."""

    def __init__(
        self,
        kubeconfig: Path,
        folder: Path,
        *arguments: str,
        entry: str = "mailarray_operator.main",
        name: str = "operator",
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.log = folder / f"{name}.log"
        path = os.pathsep.join(str(p) for p in (ROOT, ROOT / "dataplane", ROOT / "operator"))
        command = [sys.executable, "-m", entry, "run", f"--kubeconfig={kubeconfig}", f"--listen=127.0.0.1:{self.port}"]
        command += ["--dataplane-image=dataplane:test", "--postgresql-image=postgresql:test", *arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stderr=log)

    def wait_ready(self) -> None:
        """Until all is watched."""
        deadline = time.monotonic() + START_SECONDS
        while self._get("/readyz")[0] != 200:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"the operator does not get ready:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def metric(self, name: str) -> float:
        """The value of a sample, as the text format spells it."""
        for line in self._get("/metrics")[1].splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        return 0.0

    def leads(self) -> bool:
        """Whether it holds the Lease."""
        return self.metric("mailarray_operator_leader") == 1.0

    def rss(self) -> float:
        """Resident memory, MiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the operator is gone")

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def _get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""
