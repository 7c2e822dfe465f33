"""An array that cannot start says why in one sentence, and ends with an exit code that is not 0."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.array import HOST, Array, isolation_problem

SECONDS = 30.0
NOBODY = 42_900  # a user id that owns nothing else


@pytest.fixture
def array() -> Iterator[Array]:
    with Array() as prepared:
        yield prepared


def refusal(array: Array) -> str:
    """Launch, and answer the sentence."""
    array.launch()
    stopped = array.wait_exit(SECONDS)
    assert stopped.code not in (0, None), stopped.output
    assert "Traceback" not in stopped.output
    said = [line for line in stopped.output.splitlines() if line.strip()]
    assert len(said) == 1, stopped.output
    return said[0]


def test_a_port_in_use(array: Array) -> None:
    with socket.create_server((HOST, array.smtp(1))):
        said = refusal(array)
    assert str(array.smtp(1)) in said
    assert "SMTP of mail-1" in said


@pytest.mark.parametrize(
    ("wrong", "right", "names"),
    [
        ("copies: 9", "storage: {}", "spec.storage.copies"),
        ("storag: {}", "storage: {}", "storag"),
        ("storage: {mirrorTimeout: soon}", "storage: {}", "mirrorTimeout"),
        ("storage: {", "storage: {}", "not YAML"),
    ],
)
def test_bad_yaml(array: Array, wrong: str, right: str, names: str) -> None:
    text = array.config.read_text()
    if wrong.startswith("copies"):
        wrong = f"storage: {{{wrong}}}"
    array.config.write_text(text.replace("spec:\n", f"spec:\n  {wrong}\n", 1))
    assert names in refusal(array)


def test_no_file(array: Array) -> None:
    array.config.unlink()
    assert str(array.config) in refusal(array)


def test_a_volume_that_is_no_folder(array: Array) -> None:
    array.volume(1).parent.mkdir(parents=True)
    array.volume(1).write_text("")
    assert "volume" in refusal(array)


def test_an_unreadable_volume(array: Array) -> None:
    if isolation_problem() is not None:
        pytest.skip(f"root reads everything, and no other user can be had: {isolation_problem()}")
    array.volume(1).mkdir(parents=True)
    for folder, _, files in os.walk(array.home):
        for path in (folder, *(f"{folder}/{file}" for file in files)):
            os.chown(path, NOBODY, NOBODY)
    array.volume(1).chmod(0)
    done = subprocess.run(
        [sys.executable, "-m", "mailarray", "up", "-f", str(array.config), "--data", str(array.data), "--plain"],
        user=NOBODY, group=NOBODY, extra_groups=[], env={**array.environment(), "HOME": "/nonexistent"},
        capture_output=True, text=True, timeout=SECONDS, check=False, cwd=array.home,
    )  # fmt: skip
    assert done.returncode != 0
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert len(said) == 1, said
    assert "mail-1" in said[0]
    assert "permission" in said[0].lower()
