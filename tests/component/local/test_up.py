"""`mailarray up` from the outside, as a process of its own, with stand-ins for the processes it runs."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mailarray.local.checks import closed_to_others

ROOT = Path(__file__).parents[3]
LIMIT = 60.0
STAND_IN = (sys.executable, "-m", "tests.component.local.fake_process")
# `mailarray up` with another command prefix for its processes.
LAUNCHER = (
    "import sys, mailarray.local.supervisor as supervisor\n"
    "supervisor.COMMAND = {stand_in!r}\n"
    "from mailarray.cli.main import main\n"
    "main(sys.argv[1:])\n"
)
RESOURCES = """\
apiVersion: mailarray.io/v1alpha1
kind: MailCluster
metadata: {{name: example, annotations: {{mailarray.io/local-ports: "{ports}"}}}}
spec:
  domains: [{{name: mail.example}}]
---
apiVersion: mailarray.io/v1alpha1
kind: MailServer
metadata: {{name: mail}}
spec: {{clusterRef: {{name: example}}, replicas: 2}}
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'dataplane'}{os.pathsep}{ROOT}"}


def free_block() -> int:
    """The first of 40 ports that are free now; between ports that the kernel gives out to clients on its own."""
    start = 20000 + (os.getpid() * 40) % 10000
    for base in [*range(start, 30000, 40), *range(20000, start, 40)]:
        with ExitStack() as stack:
            try:
                for port in range(base, base + 40):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return int(base)
    raise AssertionError("no 40 free ports")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short path, since UNIX sockets go below it; and not below pytest's folder, which is closed to other users."""
    with tempfile.TemporaryDirectory(prefix="mailarray-") as folder:
        yield Path(folder)


@pytest.fixture
def base() -> int:
    return free_block()


@pytest.fixture
def file(tmp_path: Path, base: int) -> Path:
    path = tmp_path / "cluster.yaml"
    ports = f"smtp={base},pop3={base + 4},status={base + 5},internal={base + 6}"
    path.write_text(RESOURCES.format(ports=ports), encoding="utf-8")
    return path


class Running:
    """A launcher that was started, and what it says."""

    def __init__(self, file: Path, data: Path, *options: str, stand_in: tuple[str, ...] = STAND_IN) -> None:
        launcher = LAUNCHER.format(stand_in=stand_in)
        command = [sys.executable, "-c", launcher, "up", "-f", str(file), "--data", str(data), *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
        )
        self.lines: list[str] = []

    def until(self, words: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if words in line:
                return line.rstrip()
        raise AssertionError(f"{words!r} was never said:\n" + "\n".join(self.lines))

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        assert self.process.stdout is not None
        self.lines += [line.rstrip() for line in self.process.stdout]
        return self.process.wait(LIMIT)


@pytest.fixture
def launchers() -> Iterator[list[Running]]:
    started: list[Running] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait(LIMIT)
        if one.process.stdout is not None:
            one.process.stdout.close()


def mailarray(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mailarray", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=LIMIT, check=False, **more
    )


def test_from_start_to_stop(file: Path, base: int, tmp_path: Path, launchers: list[Running]) -> None:
    data = tmp_path / "data"
    up = Running(file, data)
    launchers.append(up)
    ready = up.until("ready: ")
    assert ready.startswith("ready: 2/2 servers, pop3 serving")
    password = (data / "demo-password").read_text(encoding="utf-8").strip()
    assert any(f"demo account demo@mail.example, password {password} (kept in" in line for line in up.lines)
    for secret in ("demo-password", "accounts", "token"):
        assert (data / secret).stat().st_mode & 0o077 == 0
    assert (data / "servers/mail-0/volume").stat().st_mode & 0o777 == 0o700

    url = f"http://127.0.0.1:{base + 5}"
    status = mailarray("status", "-o", "json", "--url", url)
    assert status.returncode == 0
    seen = json.loads(status.stdout)
    assert [s["name"] for s in seen["servers"]] == ["mail-0", "mail-1"]
    assert seen["totals"]["lag_bytes"] == 6
    table = mailarray("status", "--url", url).stdout
    assert "mail-1" in table and "1,234" in table and "InSync" in table
    metrics = urllib.request.urlopen(f"{url}/metrics").read().decode()
    assert 'mailarray_fake_total{process="smtp",server="mail-0"} 2.0' in metrics

    again = mailarray("up", "-f", str(file), "--data", str(data))
    assert again.returncode == 1
    assert again.stderr == (
        f"mailarray: {data} is in use by another `mailarray up` (process {up.process.pid}); stop it, or give --data\n"
    )

    victim = seen["servers"][1]["smtp"]["pid"]
    os.kill(victim, signal.SIGKILL)
    assert "mail-1/smtp died, signal 9 (SIGKILL); started again at once" in up.until("mail-1/smtp died")
    assert "mail-1/smtp started" in up.until("mail-1/smtp started")

    pids = [p["pid"] for s in seen["servers"] for p in (s["smtp"], s["sidecar"])] + [seen["access"]["pid"]]
    assert up.end() == 0
    assert up.lines[-1] == "stopped"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert "Traceback" not in "\n".join(up.lines)


def test_another_run_keeps_password_and_token_and_raises_the_table(
    file: Path, tmp_path: Path, launchers: list[Running]
) -> None:
    kept = []
    for replicas in (2, 1):
        text = file.read_text(encoding="utf-8").replace("replicas: 2", f"replicas: {replicas}")
        if replicas == 1:
            text = text.replace("spec:\n  domains", "spec:\n  storage: {copies: 1}\n  domains")
        file.write_text(text, encoding="utf-8")
        up = Running(file, tmp_path / "data")
        launchers.append(up)
        up.until(f"ready: {replicas}/{replicas}")
        assert up.end(signal.SIGTERM) == 0
        kept.append([(tmp_path / "data" / name).read_bytes() for name in ("demo-password", "accounts", "token")])
    assert kept[0] == kept[1]
    assert json.loads((tmp_path / "data/settings/mirroring-table.json").read_text(encoding="utf-8"))["generation"] == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="user ids of their own need root")
@pytest.mark.skipif(
    closed_to_others(Path(os.__file__).resolve()) is not None, reason="this Python is for its owner alone"
)
def test_isolated_servers_cannot_open_each_others_folders(
    file: Path, base: int, tmp_path: Path, launchers: list[Running]
) -> None:
    hidden = mailarray("up", "-f", str(file), "--data", str(tmp_path / "data"), "--isolate-users")
    assert hidden.returncode == 1
    assert hidden.stderr == (
        f"mailarray: {tmp_path} cannot be passed by other users, so isolated servers cannot reach their folders; "
        f"choose another folder with --data, or chmod o+x {tmp_path}\n"
    )
    tmp_path.chmod(0o711)
    data = tmp_path / "data"
    up = Running(file, data, "--isolate-users")
    launchers.append(up)
    up.until("ready: ")
    status = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{base + 5}/v1/status").read())
    processes = [(f"{s['name']}/{r}", s[r]) for s in status["servers"] for r in ("smtp", "sidecar")]
    assert {name: (p["uid"], p["opens"]) for name, p in [*processes, ("access", status["access"])]} == {
        "mail-0/smtp": (42000, ["catalog", "mail-0"]),
        "mail-0/sidecar": (42000, ["catalog", "mail-0"]),
        "mail-1/smtp": (42001, ["catalog", "mail-1"]),
        "mail-1/sidecar": (42001, ["catalog", "mail-1"]),
        "access": (42002, ["catalog", "run"]),
    }
    catalog = (data / "catalog/catalog.sqlite").stat()
    assert (catalog.st_mode & 0o777, catalog.st_gid) == (0o660, 42000)
    parent = up.process
    parent.kill()  # processes that changed their user end with their parent all the same
    parent.wait(LIMIT)
    descriptors = {name: _open_process(p["pid"]) for name, p in [*processes, ("access", status["access"])]}
    for descriptor in filter(None, descriptors.values()):
        assert select.select([descriptor], [], [], LIMIT)[0]
        os.close(descriptor)


def _open_process(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def test_one_sentence_and_exit_code_1(file: Path, base: int, tmp_path: Path) -> None:
    def says(*arguments: str) -> str:
        done = mailarray("up", "--data", str(tmp_path / "data"), *arguments)
        assert done.returncode == 1, done
        assert done.stdout == "" and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
        return done.stderr.removeprefix("mailarray: ").rstrip()

    assert says("-f", "nowhere.yaml") == (
        "nowhere.yaml cannot be read: No such file or directory; give the path of a file with -f"
    )
    bad = tmp_path / "bad.yaml"
    bad.write_text(file.read_text(encoding="utf-8").replace("replicas: 2", "replcas: 2"), encoding="utf-8")
    assert says("-f", str(bad)) == f"{bad}, MailServer mail: spec.replcas is not a field; did you mean replicas?"

    with socket.create_server(("127.0.0.1", base + 1)):
        assert says("-f", str(file)) == (
            f"SMTP of mail-1: port {base + 1} on 127.0.0.1 is in use by another process; stop it, or "
            "choose another port; ports are set by the annotation mailarray.io/local-ports of the MailCluster"
        )

    volume = tmp_path / "data/servers/mail-0/volume"
    volume.parent.mkdir(parents=True)
    volume.write_text("a file, no folder", encoding="utf-8")
    assert says("-f", str(file)) == (
        f"the volume of mail-0 cannot be used: {volume}: Not a directory; "
        "give this user read and write permission on it, or run as its owner"
    )
    volume.unlink()

    full = tmp_path / "full.yaml"
    full.write_text(
        file.read_text(encoding="utf-8").replace(
            "[{name: mail.example}]", "[{name: mail.example}]\n  storage: {reserve: 900Ti}"
        ),
        encoding="utf-8",
    )
    assert says("-f", str(full)).startswith(f"the disk of {tmp_path / 'data'} is full: ")

    nowhere = tmp_path / "file"
    nowhere.write_text("", encoding="utf-8")
    assert says("-f", str(file), "--data", str(nowhere / "data")) == (
        f"{nowhere / 'data'} cannot be written: Not a directory; "
        "choose another folder with --data, or mend its permissions"
    )


def test_a_process_that_can_never_run_ends_it_all(file: Path, tmp_path: Path, launchers: list[Running]) -> None:
    doomed = (sys.executable, "-S", "-c", "import sys; sys.exit('mailarray: this volume is of a later version')")
    up = Running(file, tmp_path / "data", stand_in=doomed)
    launchers.append(up)
    said = up.until("cannot run")
    assert said.startswith("mailarray: ")
    assert said.endswith("cannot run, exit code 1: this volume is of a later version")
    assert up.process.wait(LIMIT) == 1


async def test_nothing_answers_without_an_array(base: int) -> None:
    done = await asyncio.to_thread(mailarray, "status", "--url", f"http://127.0.0.1:{base}")
    assert done.returncode == 1
    assert "start one with `mailarray up`" in done.stderr and done.stderr.count("\n") == 1
