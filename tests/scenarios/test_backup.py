"""A backup is what one falls back on when everything else is gone: so everything is taken away, and read again.

Real arrays, real POP3; the ledger is what senders sent and readers had read.
"""

from __future__ import annotations

import json
import mailbox as mailbox_module
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.array import DOMAIN, Array, wait_for
from tests.support.mail import count, mailbox, message, read, send, takes, uidls, wait_for_mail

USERS = tuple(f"{name}@{DOMAIN}" for name in ("anna", "ben", "carla"))


def texts(array: Array, user: str) -> dict[str, bytes]:
    """What a reader sees, by unique id; reading fails the test when there are two of one."""
    ids, bodies = uidls(array, user), read(array, user)
    assert len(set(ids)) == len(ids) == len(bodies)
    return dict(zip(ids, bodies, strict=True))


def backup(array: Array, target: Path, *more: str) -> str:
    done = array.cli("backup", str(target), "--data", str(array.data), *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def listed(array: Array, target: Path) -> list[dict[str, Any]]:
    done = array.cli("backup", "list", str(target), "-o", "json")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
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


@dataclass(frozen=True)
class Made:
    """Two backups of an array that is gone, and what its readers had read at each."""

    target: Path
    first: str  # id
    early: dict[str, dict[str, bytes]]
    late: dict[str, dict[str, bytes]]


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    folder = Path(tempfile.mkdtemp(prefix="mailarray-backup-"))
    target = folder / "target"
    seed = int(os.environ.get("SEED", "7"))
    print(f"SEED={seed}")
    source = random.Random(seed)
    with Array(accounts=USERS) as array:
        array.start()
        fill(array, source, 12)
        settle(array)
        delete_some(array, USERS[0], 2)
        backup(array, target)
        early = settle(array)
        assert len(early[USERS[0]]) > 0
        fill(array, source, 8)
        backup(array, target)  # at once: what was acknowledged a moment ago is in it
        late = settle(array)
        assert sum(map(len, late.values())) > sum(map(len, early.values()))
        one, two = listed(array, target)
        assert two["bytes"] == one["bytes"] + two["copied_bytes"], "each segment once, and only what was new"
        assert 0 < two["copied_bytes"] < two["bytes"]

        export = folder / "running"
        done = array.cli("export", "--all", "--data", str(array.data), str(export))
        assert done.returncode == 0, done.stdout + done.stderr
        assert maildirs(export) == {user: sorted(found.values()) for user, found in late.items()}

        array.stop()
        assert "0 of 0 B copied now" in backup(array, target), "it had everything already"
        export = folder / "stopped"
        done = array.cli("export", "--mailbox", "Ben@mail.example", "--data", str(array.data), str(export))
        assert done.returncode == 0, done.stdout + done.stderr
        assert maildirs(export) == {USERS[1]: sorted(late[USERS[1]].values())}
        done = array.cli("export", "--all", "--format", "mbox", "--data", str(array.data), str(folder / "mbox"))
        assert done.returncode == 0, done.stdout + done.stderr
        for user, found in late.items():
            assert len(mailbox_module.mbox(folder / "mbox" / f"{user}.mbox")) == len(found)
        done = array.cli("restore", str(target), "--data", str(array.data))
        assert done.returncode == 1 and "does not run" in done.stderr
    yield Made(target, str(one["id"]), early, late)
    shutil.rmtree(folder, ignore_errors=True)


def restored(array: Array, made: Made, *more: str) -> dict[str, dict[str, bytes]]:
    """What readers see after a restore, as soon as the accounts are known."""
    done = array.cli("restore", str(made.target), "--data", str(array.data), *more, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    for user in USERS:
        wait_for(lambda user=user: count(array, user) >= 0, 20, f"{user} can log in")  # type: ignore[misc]
    for index in range(len(array.names)):
        wait_for(lambda index=index: takes(array, index, USERS[1]), 20, f"server {index} knows them")  # type: ignore[misc]
    return {user: texts(array, user) for user in USERS}


def maildirs(folder: Path) -> dict[str, list[bytes]]:
    return {box.name: sorted(file.read_bytes() for file in (box / "new").iterdir()) for box in folder.iterdir()}


def test_an_array_that_is_gone_comes_back(made: Made) -> None:
    with Array(accounts=(f"other@{DOMAIN}",)) as array:  # nothing of the first one is left
        array.start()
        assert restored(array, made) == made.late
        send(array, 0, USERS[1], message("after the restore"))
        wait_for_mail(array, USERS[1], len(made.late[USERS[1]]) + 1)
        done = array.cli("restore", str(made.target), "--data", str(array.data))
        assert done.returncode == 1 and "holds mail already" in done.stderr, done.stderr
        array.wait_settled()
        now = {user: texts(array, user) for user in USERS}
        backup(array, made.target.with_name("again"))  # the restored array is an array like any other
        epoch = array.catalog_epoch()
        done = array.cli("catalog", "rebuild", "--data", str(array.data))
        assert done.returncode == 0, done.stderr
        wait_for(lambda: array.catalog_is_open(epoch), 60, "the rebuilt catalog opens")
        assert {user: texts(array, user) for user in USERS} == now, "what was deleted stays deleted"
        array.stop()
        array.verify_journals()


def test_an_older_backup_into_fewer_servers(made: Made) -> None:
    with Array(accounts=(), servers=2) as array:
        array.start()
        assert restored(array, made, "--at", made.first) == made.early
        array.stop()
        for index in range(2):
            done = array.cli("journal", "verify", str(array.volume(index)))
            assert done.returncode == 0 and "0 damaged" in done.stdout  # every segment is on both
