"""From registration to the answer at RCPT: how full mailboxes are, asked of a real sidecar."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailarray.journal.disk import Disk
from mailarray.journal.format import Tombstone
from mailarray.model.ids import PlacementId
from mailarray.model.message import Committed
from mailarray.smtp.quota_keeper import QuotaKeeper
from mailarray.smtp.quotas import Quotas
from mailarray.smtp.replies import MAILBOX_FULL
from mailarray.tracking import usage
from tests.support.array_of_three import TOKEN, Array, fast_clocks

ANNA, BERT = "anna@mail.example", "bert@mail.example"
BODY = b"x" * 100


@pytest.fixture
async def array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Array]:
    fast_clocks(monkeypatch)
    made_array = Array(tmp_path, [Disk(), Disk()])
    await made_array.start()
    catalog = await made_array.catalog()
    await until(lambda: catalog.mailbox(ANNA))  # open to readers
    yield made_array
    await made_array.close()


async def until(question: object) -> None:
    """Until it is answered with something other than an error."""
    assert callable(question)
    deadline = time.monotonic() + 30
    while True:
        try:
            await question()
            return
        except Exception:
            assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def registered(array: Array, mailbox: str, count: int) -> None:
    catalog = await array.catalog()
    deadline = time.monotonic() + 30
    while len(await catalog.mailbox(mailbox)) != count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_what_registration_and_expunge_counted_reaches_rcpt(array: Array) -> None:
    server = array.servers[0]
    quotas = Quotas()
    keeper = QuotaKeeper(quotas, str(server.settings.sidecar), TOKEN)
    quotas.refusal(ANNA, 250, 0)
    assert await keeper.ask()
    assert quotas.refusal(ANNA, 250, 250) is None  # no mail yet: it holds nothing
    outcomes = [await server.deliver(BODY, ANNA), await array.servers[1].deliver(BODY, ANNA, BERT)]
    await registered(array, ANNA, 2)
    assert await keeper.ask()
    assert quotas.refusal(ANNA, 250, 50) is None
    assert quotas.refusal(ANNA, 250, 51) is MAILBOX_FULL
    assert isinstance(outcomes[0], Committed)
    tombstone = Tombstone(PlacementId(outcomes[0].id, 0), outcomes[0].id, ANNA)
    await server.expunge(tombstone)
    await registered(array, ANNA, 1)
    assert await keeper.ask()
    assert quotas.refusal(ANNA, 250, 150) is None
    assert quotas.refusal(ANNA, 250, 151) is MAILBOX_FULL
    # Away, or being told anew: the last answer holds.
    await (await array.catalog()).reset()
    await server.kill_sidecar()
    assert not await keeper.ask()
    assert quotas.refusal(ANNA, 250, 151) is MAILBOX_FULL


async def test_a_mailbox_that_was_never_counted_is_counted_when_it_is_asked_for(
    array: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = array.servers[0]
    await server.deliver(BODY, ANNA, BERT)
    await registered(array, BERT, 1)
    database = sqlite3.connect(array.catalog_url.removeprefix("sqlite:///"), timeout=10)
    database.execute("UPDATE mailboxes SET used = CASE WHEN address = ? THEN NULL ELSE 12345 END", (ANNA,))
    database.commit()
    assert server.agent is not None
    asked = usage.MailboxUsage(server.agent.link)
    assert await asked.used([ANNA, BERT, "nobody@x"]) == {ANNA: 100, BERT: 100}  # the wrong one was counted anew, too
    database.execute("UPDATE mailboxes SET used = 12345")
    database.commit()
    assert await asked.used([ANNA]) == {ANNA: 12345}  # not at every question
    monkeypatch.setattr(usage, "RECOUNT_SECONDS", 0.0)
    assert await asked.used([ANNA]) == {ANNA: 100}
    database.close()
