"""The script that `helm test` runs in a pod, against the array on one machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.array import DOMAIN, HOST, PASSWORD, Array

SCRIPT = Path(__file__).parents[2] / "charts" / "mailarray" / "files" / "send_and_read.py"


def run(array: Array, password: str, seconds: str) -> subprocess.CompletedProcess[str]:
    """The script, with what the chart's pod sets."""
    environment = {
        **os.environ,
        "ADDRESS": f"chart@{DOMAIN}",
        "PASSWORD": password,
        "SMTP_HOST": HOST,
        "SMTP_PORT": str(array.smtp(0)),
        "POP3_HOST": HOST,
        "POP3_PORT": str(array.pop3),
        "TIMEOUT_SECONDS": seconds,
    }
    return subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=60)


def test_a_message_is_sent_and_read(array: Array) -> None:
    done = run(array, PASSWORD, "20")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["sent", "read"]


def test_a_wrong_password_is_told(array: Array) -> None:
    done = run(array, "wrong", "1")
    assert done.returncode == 1
    assert "not read: " in done.stderr
