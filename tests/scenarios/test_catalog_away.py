"""The catalog is an index, not the truth: without it mail is accepted and read, and its backlog is caught up later."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator

import pytest

from tests.support import postgres
from tests.support.array import DOMAIN, Array
from tests.support.mail import mailbox, message, payload, read, send, uidls, wait_for_mail

USER = f"user@{DOMAIN}"
LOCKED_SECONDS = 4.0  # longer than an access server waits for the catalog


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.PostgresServer]:
    if not postgres.available():
        pytest.skip("needs Debian's postgresql-15")
    server = postgres.PostgresServer()
    yield server
    server.close()


@pytest.mark.debian
def test_postgresql_stops_and_returns(database: postgres.PostgresServer) -> None:
    with Array(catalog_url=database.fresh_database()) as array:
        array.start()
        for index in range(3):
            send(array, index, USER, message(f"before {index}"))
        wait_for_mail(array, USER, 3)
        before = uidls(array, USER)

        database.stop()
        for index in range(3):
            send(array, index, USER, message(f"meanwhile {index}"))
        texts = wait_for_mail(array, USER, 6)  # from the servers' own indexes
        assert {payload(text) for text in texts} == {
            message(f"{when} {index}") for when in ("before", "meanwhile") for index in range(3)
        }
        with mailbox(array, USER) as client:
            ids = [line.split()[1].decode() for line in client.uidl()[1]]
            client.dele(ids.index(before[1]) + 1)
        assert sorted(uidls(array, USER)) == sorted(set(ids) - {before[1]})

        database.start()
        array.wait_settled()
        assert sorted(uidls(array, USER)) == sorted(set(ids) - {before[1]})
        array.stop()
        array.verify_journals()


@pytest.mark.skipif(not os.environ.get("LONG"), reason="waits for time limits of the catalog; runs with LONG=1")
def test_sqlite_is_locked_for_a_while() -> None:
    with Array() as array:
        array.start()
        send(array, 0, USER, message("before"))
        wait_for_mail(array, USER, 1)

        locker = sqlite3.connect(array.data / "catalog" / "catalog.sqlite", isolation_level=None)
        locker.execute("BEGIN EXCLUSIVE")
        until = time.monotonic() + LOCKED_SECONDS
        for index in range(3):
            send(array, index, USER, message(f"meanwhile {index}"))
        assert message("before") in map(payload, read(array, USER))  # opens, without a lease
        time.sleep(max(0.0, until - time.monotonic()))
        locker.execute("ROLLBACK")
        locker.close()

        wait_for_mail(array, USER, 4)
        array.wait_settled()
        array.stop()
