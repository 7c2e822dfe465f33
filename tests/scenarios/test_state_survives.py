"""What was deleted stays deleted, and a message keeps its unique id: over restarts, and over a catalog made anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.array import DOMAIN, Array, wait_for
from tests.support.mail import mailbox, message, read, retrieve, send, uidls, wait_for_mail

USER = f"user@{DOMAIN}"


@pytest.fixture
def array() -> Iterator[Array]:
    with Array() as started:
        yield started.start()


def assert_all_sealed(array: Array) -> None:
    """After a clean stop every segment is sealed by its writer's server; a mirror may hear of it at its next start."""
    found, sealed = set(), set()
    for index in range(len(array.names)):
        done = array.cli("journal", "verify", str(array.volume(index)))
        assert done.returncode == 0, done.stdout + done.stderr
        for line in done.stdout.splitlines()[:-1]:
            found.add(line.split()[0])
            if "sealed at" in line:
                sealed.add(line.split()[0])
    assert found == sealed


def test_deletions_and_unique_ids_survive_restarts_and_rebuilds(array: Array) -> None:
    for number in range(6):
        send(array, number % 3, USER, message(f"number {number}"))
    wait_for_mail(array, USER, 6)
    with mailbox(array, USER) as client:
        gone = [n for n in range(1, 7) if b"Subject: number 2" in retrieve(client, n) or n == 5]
        for number in gone:
            client.dele(number)

    def texts() -> dict[str, bytes]:  # by unique id; the order may be another one when a catalog was made anew
        return dict(zip(uidls(array, USER), read(array, USER), strict=True))

    kept = texts()
    assert len(kept) == 6 - len(gone)

    def assert_same() -> None:
        assert texts() == kept

    done = array.cli("catalog", "rebuild", "--data", str(array.data))  # while it runs
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same()  # closed to readers or not, the answer is the same
    wait_for(lambda: array.catalog_is_open(), 30, "the rebuilt catalog opens")
    assert_same()
    send(array, 1, USER, message("after the rebuild"))
    wait_for_mail(array, USER, len(kept) + 1)
    kept = texts()

    array.stop()
    assert_all_sealed(array)
    for file in (array.data / "catalog").iterdir():  # gone, as if its disk had died
        file.unlink()
    array.start()
    wait_for(lambda: array.catalog_is_open(), 30, "the new catalog opens")
    assert_same()
    array.stop()
