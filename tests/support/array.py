"""A real array for tests: `mailarray up` as a process of its own, with its servers, on ports of its own.

Started through the launcher, stopped as a person would stop it; `stop` asserts that it stopped cleanly. Each server
runs under a user id of its own where that can be had, so that nothing is shared by accident. Nothing here knows what
a test wants to see: it starts, tells, waits, signals and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import argon2
import yaml

from mailarray.contract.server_names import volume_name
from mailarray.local.layout import Layout

ROOT = Path(__file__).parents[2]
DOMAIN = "mail.example"
PASSWORD = "correct horse"  # of every account
HOST = "127.0.0.1"
START_SECONDS = 60.0  # bounds, for a machine that does much else; a start takes two
STOP_SECONDS = 45.0
HEARTBEAT = 0.6  # seconds; a writer tells its sidecar everything every half second
LOOK_SECONDS = 0.05  # between two looks at a condition that only another process can tell
_BLOCK = 60  # ports of one array
_STARTED = re.compile(r"^(?P<name>\S+) started, process (?P<pid>\d+)$")
_DIED = re.compile(r"^(?P<name>\S+) died, ")

T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], seconds: float, what: str) -> T:
    """The first answer that is true. Fails the test after so many seconds."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(LOOK_SECONDS)
    return answer


@cache
def cheap_hash(password: str = PASSWORD) -> str:
    """An argon2 hash that is checked within a millisecond; its parameters stand in it."""
    return argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(password)


def account_line(address: str, *aliases: str) -> str:
    """A line of the accounts file."""
    return f"{address}:{cheap_hash()}:{','.join(aliases)}:\n"


def isolation_problem() -> str | None:
    """Why servers cannot have user ids of their own here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    for path in (Path(sys.executable).resolve(), Path(sys.prefix), ROOT):
        for folder in (path, *path.parents):
            if not folder.stat().st_mode & 0o001:
                return f"{folder} is closed to other users, so they cannot run this Python"
    return None


class PortBlock:
    """A run of free ports, held against other test runs by an abstract UNIX socket named after it."""

    def __init__(self) -> None:
        bases = list(range(11_000, 20_000, _BLOCK))
        random.Random(os.getpid() * 1_000_003 + time.monotonic_ns()).shuffle(bases)
        for base in bases:
            guard = socket.socket(socket.AF_UNIX)
            try:
                guard.bind(f"\0mailarray-test-ports-{base}")
                for port in range(base, base + _BLOCK):
                    with socket.create_server((HOST, port)):
                        pass
            except OSError:
                guard.close()
                continue
            self._guard = guard
            self.smtp, self.pop3, self.status, self.internal = base, base + 15, base + 16, base + 20
            return
        raise RuntimeError(f"there is no run of {_BLOCK} free ports")

    @property
    def annotation(self) -> str:
        """As the MailCluster wants it."""
        return f"smtp={self.smtp},pop3={self.pop3},status={self.status},internal={self.internal}"

    def release(self) -> None:
        """Others may have them."""
        self._guard.close()


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a launcher ended."""

    code: int
    output: str


class Array:
    """An array. Use as a context manager; leaving it kills whatever is left, by process id."""

    def __init__(
        self,
        *,
        accounts: Sequence[str] = (f"user@{DOMAIN}",),
        servers: int = 3,
        spec: dict[str, Any] | None = None,
        annotations: dict[str, str] | None = None,
        catalog_url: str | None = None,
        isolate: bool = True,
        groups: dict[str, int] | None = None,
        volumes: int = 1,
    ) -> None:
        """`groups` names MailServers and their replicas, instead of one of `servers` replicas named mail. With several
        `volumes` in each server `names` are those of the volumes, server by server."""
        groups = groups or {"mail": servers}
        self.home = Path(tempfile.mkdtemp(prefix="mailarray-"))  # short: UNIX sockets lie in it
        self.home.chmod(0o755)
        self.data = self.home / "data"
        self.data.mkdir()
        self.ports = PortBlock()
        self.servers = tuple(f"{group}-{i}" for group, replicas in groups.items() for i in range(replicas))
        self.names = tuple(volume_name(server, number) for server in self.servers for number in range(volumes))
        self.isolated = isolate and isolation_problem() is None
        self._catalog_url = catalog_url
        self._launcher: subprocess.Popen[bytes] | None = None
        self._output = self.home / "output"
        self._output_start = 0
        self.seen: set[int] = set()  # process ids of every process that ever ran
        self.write_accounts(*accounts)
        self.config = self.home / "array.yaml"
        cluster = {
            "apiVersion": "mailarray.io/v1alpha1",
            "kind": "MailCluster",
            "metadata": {
                "name": "test",
                "annotations": {"mailarray.io/local-ports": self.ports.annotation, **(annotations or {})},
            },
            "spec": {"domains": [{"name": DOMAIN}], **(spec or {})},
        }
        mail_servers = [
            {
                "apiVersion": "mailarray.io/v1alpha1",
                "kind": "MailServer",
                "metadata": {"name": group},
                "spec": {
                    "clusterRef": {"name": "test"},
                    "replicas": replicas,
                    **({"storage": {"volumes": volumes}} if volumes > 1 else {}),
                },
            }
            for group, replicas in groups.items()
        ]
        self.config.write_text(yaml.safe_dump_all([cluster, *mail_servers], sort_keys=False))

    # -- files ---------------------------------------------------------------------------------------

    def write_accounts(self, *accounts: str) -> None:
        """Replace the accounts file: addresses, or whole lines."""
        path = self.data / "accounts"
        text = "".join(a if a.endswith("\n") else account_line(a) for a in accounts)
        new = path.with_name("accounts.new")
        new.write_text(text)
        if path.exists():
            stat = path.stat()
            os.chown(new, stat.st_uid, stat.st_gid)
            new.chmod(stat.st_mode & 0o777)
        else:
            new.chmod(0o600)
        new.replace(path)

    def volume(self, index: int) -> Path:
        """A volume, by the place of its name."""
        return Layout(self.data).volume(self.names[index])

    @property
    def token(self) -> str:
        """Of the internal ports."""
        return (self.data / "token").read_text().strip()

    def log(self, process: str) -> str:
        """The log of `mail-0/smtp`, `access`."""
        server, _, role = process.partition("/")
        folder = self.data / "access" / "log" if server == "access" else Layout(self.data).logs(server)
        return (folder / f"{role or 'access'}.log").read_text()

    def output(self) -> str:
        """What the launcher printed in its present run."""
        with self._output.open("rb") as file:
            file.seek(self._output_start)
            return file.read().decode()

    # -- ports ---------------------------------------------------------------------------------------

    def smtp(self, index: int = 0) -> int:
        """SMTP port of a server."""
        return self.ports.smtp + index

    @property
    def pop3(self) -> int:
        """POP3 port."""
        return self.ports.pop3

    def all_ports(self) -> list[int]:
        """Everything that an array listens on."""
        inside = self.ports.internal
        count = range(len(self.names))
        return [
            self.ports.status,
            self.ports.pop3,
            inside + 30,
            *(self.smtp(i) for i in range(len(self.servers))),
            *(port for i in count for port in (inside + 10 + i, inside + 20 + i)),
        ]

    # -- running -------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """For commands of the project."""
        path = os.pathsep.join(filter(None, (str(ROOT / "dataplane"), os.environ.get("PYTHONPATH"))))
        return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def launch(self) -> None:
        """Start the launcher; does not wait."""
        assert self._launcher is None
        command = [sys.executable, "-m", "mailarray", "up", "-f", str(self.config), "--data", str(self.data), "--plain"]
        if self.isolated:
            command.append("--isolate-users")
        environment = self.environment()
        if self._catalog_url:
            environment["MAILARRAY_CATALOG_URL"] = self._catalog_url
        with self._output.open("ab") as output:
            self._output_start = output.tell()
            self._launcher = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=self.home
            )

    def start(self) -> Array:
        """Start, and wait until every process serves."""
        self.launch()
        self.wait_ready()
        return self

    def wait_ready(self, seconds: float = START_SECONDS) -> dict[str, Any]:
        """Until the status says ready and every server has its mirrors."""

        def ready() -> dict[str, Any] | None:
            assert self._launcher is not None
            assert self._launcher.poll() is None, f"the launcher ended:\n{self.output()}"
            status = self.status()
            return status if status and status["ready"] and all(map(_mirrors_ready, status["servers"])) else None

        return wait_for(ready, seconds, f"the array is ready\n{self.output()[-3000:]}")

    def status(self) -> dict[str, Any] | None:
        """/v1/status of the launcher; None while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.ports.status}/v1/status", timeout=5) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except (urllib.error.URLError, OSError, ValueError):
            return None

    def ask(self, process: str) -> dict[str, Any] | None:
        """/v1/status of one process, asked just now; None while it does not answer."""
        server, _, role = process.partition("/")
        if server == "access":
            port = self.ports.internal + 30
        else:
            port = self.ports.internal + (10 if role == "smtp" else 20) + self.names.index(server)
        request = urllib.request.Request(
            f"http://{HOST}:{port}/v1/status", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except (urllib.error.URLError, OSError, ValueError):
            return None

    def catalog_is_open(self, after: int = 0) -> bool:
        """Readers may use it, every server says, in an epoch past `after`: what was heard before is said a while."""
        said = self._of_catalog()
        return bool(said) and all(s.get("open") is True and s.get("epoch", 0) > after for s in said)

    def catalog_epoch(self) -> int:
        """The highest that a server has heard of."""
        return max((s.get("epoch", 0) for s in self._of_catalog()), default=0)

    def _of_catalog(self) -> list[dict[str, Any]]:
        status = self.status()
        return [] if status is None else [s["sidecar"].get("catalog", {}) for s in status["servers"]]

    def wait_settled(self, seconds: float = 30.0) -> None:
        """Until all is registered, and nothing is unsettled but the mirrors' copies of segments that are written."""
        sidecars: list[dict[str, Any] | None] = []
        writers: list[dict[str, Any] | None] = []

        since = 0.0  # seen settled without a break; a sidecar may not have heard the writer's last word yet

        def settled() -> bool:
            nonlocal since
            sidecars[:] = (self.ask(f"{name}/sidecar") for name in self.names)
            writers[:] = (self.ask(f"{name}/smtp") for name in self.names)
            if not _settled([s for s in sidecars if s], [w for w in writers if w], len(self.names)):
                since = 0.0
                return False
            since = since or time.monotonic()
            return time.monotonic() - since > HEARTBEAT

        try:
            wait_for(settled, seconds, "all is sealed and registered")
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *map(str, sidecars), *map(str, writers)])) from error

    def cli(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run `mailarray ...` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "mailarray", *arguments],
            env=self.environment(), cwd=self.home, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def verify_journals(self) -> None:
        """`mailarray journal verify` finds no damage on any volume."""
        for index in range(len(self.names)):
            done = self.cli("journal", "verify", str(self.volume(index)))
            assert done.returncode == 0, done.stdout + done.stderr

    # -- processes -----------------------------------------------------------------------------------

    @property
    def launcher_pid(self) -> int:
        """Of `mailarray up` itself."""
        assert self._launcher is not None
        return self._launcher.pid

    def processes(self) -> dict[str, int]:
        """Process ids by name, as the launcher told: those that it has started and not seen dead."""
        now: dict[str, int] = {}
        for line in self.output().splitlines():
            if started := _STARTED.match(line):
                now[started["name"]] = int(started["pid"])
                self.seen.add(int(started["pid"]))
            elif died := _DIED.match(line):
                now.pop(died["name"], None)
        return now

    def signal(self, process: str, number: signal.Signals) -> None:
        """To one process by its name."""
        os.kill(self.processes()[process], number)

    @contextlib.contextmanager
    def held_down(self, *processes: str) -> Iterator[None]:
        """Kill processes and keep them down: the launcher, stopped meanwhile, cannot start them again."""
        pids = [self.processes()[name] for name in processes]
        os.kill(self.launcher_pid, signal.SIGSTOP)
        try:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            yield
        finally:
            os.kill(self.launcher_pid, signal.SIGCONT)

    @contextlib.contextmanager
    def frozen(self, *processes: str) -> Iterator[None]:
        """Stop processes in the middle of what they do, and let them go on."""
        pids = [self.processes()[name] for name in processes]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def wait_exit(self, seconds: float = START_SECONDS) -> Stopped:
        """Wait for the launcher to end by itself."""
        assert self._launcher is not None
        code = self._launcher.wait(seconds)
        self._launcher = None
        return Stopped(code, self.output())

    def stop(self) -> None:
        """As Ctrl-C does; asserts exit code 0, no process left, all ports free."""
        assert self._launcher is not None
        self.processes()
        self._launcher.send_signal(signal.SIGINT)
        stopped = self.wait_exit(STOP_SECONDS)
        self.processes()
        assert stopped.code == 0, stopped.output
        assert stopped.output.rstrip().endswith("stopped"), stopped.output
        assert "Traceback" not in stopped.output
        assert not self._survivors()
        for port in self.all_ports():
            with socket.socket() as probe:
                assert probe.connect_ex((HOST, port)) != 0, f"port {port} still answers"

    def _survivors(self) -> list[int]:
        """Processes that ran for this array and still do; a process id may belong to somebody else by now."""
        mark = str(self.data).encode()
        alive = []
        for pid in self.seen:
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{pid}/cmdline").read_bytes():
                    alive.append(pid)
        return alive

    def kill(self) -> None:
        """At once, by process id; nothing of the array runs afterwards."""
        launcher, self._launcher = self._launcher, None
        if launcher is not None and launcher.poll() is None:
            self.processes()
            os.kill(launcher.pid, signal.SIGKILL)  # its children end with it; those that are stopped, below
            launcher.wait()
            self.processes()
        for pid in self._survivors():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Array:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.ports.release()
        if not os.environ.get("KEEP"):  # for a person who looks into a failure
            shutil.rmtree(self.home, ignore_errors=True)
        else:
            print(f"kept: {self.home}")


def _mirrors_ready(server: dict[str, Any]) -> bool:
    return all(mirror["state"] == "InSync" for mirror in server["smtp"].get("mirrors", ()))


def _settled(sidecars: Sequence[dict[str, Any]], writers: Sequence[dict[str, Any]], servers: int) -> bool:
    open_copies = sum((writer["copies"]["now"] or 1) - 1 for writer in writers)
    return (
        len(sidecars) == len(writers) == servers
        and all(s["lag_bytes"] == 0 and s["catalog"]["open"] is True for s in sidecars)
        and sum(s["segments"]["unsettled"] for s in sidecars) <= open_copies
    )
