"""`python -m bench --quick` works: it starts peers, sends, writes its file, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = "/usr/sbin:/usr/bin:/usr/local/sbin"

pytestmark = [
    pytest.mark.debian,
    pytest.mark.skipif(shutil.which("smtp-source", path=TOOLS) is None, reason="smtp-source is not installed"),
]


def bench(*arguments: str, results: Path, files: Path) -> subprocess.Popen[str]:
    """Start it as a person would."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "dataplane"), str(ROOT)])}
    argv = [sys.executable, "-m", "bench", "--results", str(results), "--directory", str(files), *arguments]
    return subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def processes_that_write_to(directory: Path) -> list[int]:
    """Live processes whose standard output is a file below it: every system under test writes its log there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if str((entry / "fd" / "1").readlink()).startswith(str(directory)):
                    found.append(int(entry.name))
    return found


def test_two_peers_side_by_side(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()

    run = bench("--quick", "--peers", "smtp-sink,aiosmtpd", results=tmp_path / "results", files=files)
    output, _ = run.communicate(timeout=60)

    assert run.returncode == 0, output
    latest = json.loads((tmp_path / "results" / "latest.json").read_text())
    assert latest["machine"]["cores"] == os.cpu_count()
    rows = {row["name"]: row for row in latest["rows"]}
    assert set(rows) == {"smtp-sink", "aiosmtpd", "disk, each record in two files"}
    assert rows["aiosmtpd"]["messages_per_second"] > 0
    assert rows["aiosmtpd"]["size_bytes"] == 4096
    assert rows["aiosmtpd"]["sessions"] == 20
    assert rows["aiosmtpd"]["peak_rss_mib"] > 5
    assert latest["not_run"] == {}
    assert list(files.iterdir()) == []


def test_a_peer_that_does_not_exist_is_named(tmp_path: Path) -> None:
    run = bench("--peers", "sendmail", results=tmp_path, files=tmp_path)
    output, _ = run.communicate(timeout=30)

    assert run.returncode == 2
    assert "there is no peer 'sendmail'; there are smtp-sink," in output


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_it_is_interrupted(tmp_path: Path, how: signal.Signals) -> None:
    files = tmp_path / "files"
    files.mkdir()
    run = bench("--peers", "aiosmtpd", results=tmp_path, files=files)
    deadline = time.monotonic() + 30
    while not (logs := list(files.glob("*/aiosmtpd/log"))) and time.monotonic() < deadline:
        time.sleep(0.02)  # the process under test says nothing that could be awaited
    assert logs

    run.send_signal(how)
    run.communicate(timeout=30)

    assert run.returncode != 0
    assert list(files.iterdir()) == []
    while (left := processes_that_write_to(files)) and time.monotonic() < deadline + 30:
        time.sleep(0.02)  # killed, and not gone at once on a busy machine
    assert left == []
