"""A backup is what one falls back on when everything else is gone: so everything is taken away, and read again.

Real arrays, real POP3; the ledger is what senders sent and readers had read.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.array import DOMAIN, Array
from tests.support.mail import mailbox, message, read, send, uidls, wait_for_mail

USERS = tuple(f"{name}@{DOMAIN}" for name in ("anna", "ben", "carla"))


@pytest.fixture
def target() -> Iterator[Path]:
    """Outside of the array, which is wiped."""
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="mailarray-backup-"))
    yield path / "target"
    shutil.rmtree(path, ignore_errors=True)


def texts(array: Array, user: str) -> dict[str, bytes]:
    """What a reader sees, by unique id; reading fails the test when there are two of one."""
    ids, bodies = uidls(array, user), read(array, user)
    assert len(set(ids)) == len(ids) == len(bodies)
    return dict(zip(ids, bodies, strict=True))


def backup(array: Array, target: Path, *more: str) -> str:
    done = array.cli("backup", str(target), "--data", str(array.data), *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def listed(array: Array, target: Path) -> list[dict[str, object]]:
    done = array.cli("backup", "list", str(target), "-o", "json")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows


def fill(array: Array, source: random.Random, count: int) -> None:
    for number in range(count):
        size = source.choice((10, 500, 4000, 70_000, 400_000))
        body = "".join(source.choice("abc \r\n.") for _ in range(size // 10)).replace("\r", "").replace("\n", "\r\n")
        to = source.sample(USERS, source.choice((1, 1, 2)))
        send(array, source.randrange(len(array.names)), to, message(f"{number}", body * 10 + "\r\n"))


def settle(array: Array) -> dict[str, dict[str, bytes]]:
    array.wait_settled()
    return {user: texts(array, user) for user in USERS}


def delete_some(array: Array, user: str, count: int) -> None:
    with mailbox(array, user) as client:
        for number in range(1, count + 1):
            client.dele(number)


@pytest.mark.parametrize("servers", [3, 2, 4])
def test_everything_comes_back(target: Path, servers: int) -> None:
    seed = int(os.environ.get("SEED", "7")) + servers
    print(f"SEED={seed}")
    source = random.Random(seed)
    with Array(accounts=USERS, servers=3) as array:
        array.start()
        fill(array, source, 12)
        settle(array)
        delete_some(array, USERS[0], 2)
        assert "copied now" in backup(array, target)
        first_time = listed(array, target)[0]
        early = settle(array)
        fill(array, source, 8)
        backup(array, target)  # at once: what was acknowledged a moment ago is in it
        ledger = settle(array)
        assert sum(map(len, ledger.values())) > sum(map(len, early.values()))
        both = listed(array, target)
        assert both[1]["bytes"] == both[0]["bytes"] + both[1]["copied_bytes"]  # type: ignore[operator]
        assert 0 < both[1]["copied_bytes"] < both[1]["bytes"]  # type: ignore[operator]
        array.stop()
        again = backup(array, target)  # stopped: nothing new
        assert "0 of 0 B copied now" in again, again
        done = array.cli("restore", str(target), "--data", str(array.data))
        assert done.returncode == 1 and "does not run" in done.stderr

    with Array(accounts=(f"other@{DOMAIN}",), servers=servers) as array:  # nothing of the first one is left
        array.start()
        done = array.cli("restore", str(target), "--data", str(array.data), timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert {user: texts(array, user) for user in USERS} == ledger
        status = array.status()
        assert status is not None
        counts = array.cli("catalog", "rebuild", "--data", str(array.data))
        assert counts.returncode == 0, counts.stderr
        array.wait_settled()
        assert {user: texts(array, user) for user in USERS} == ledger, "what was deleted stays deleted"
        send(array, 0, USERS[1], message("after the restore"))
        wait_for_mail(array, USERS[1], len(ledger[USERS[1]]) + 1)
        done = array.cli("restore", str(target), "--data", str(array.data))
        assert done.returncode == 1 and "holds mail already" in done.stderr, done.stderr
        array.stop()
        array.verify_journals()

    if servers == 3:
        with Array(accounts=(), servers=3) as array:
            array.start()
            done = array.cli("restore", str(target), "--data", str(array.data), "--at", str(first_time["id"]))
            assert done.returncode == 0, done.stdout + done.stderr
            assert {user: texts(array, user) for user in USERS} == early
            array.stop()
