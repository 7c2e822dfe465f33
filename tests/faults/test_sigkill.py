"""Any process is killed at any moment, many times, with senders and readers at work: what got a 250 is there, once.

From the environment: SEED (printed, so that a run can be had again, as far as processes allow), KILLS (200), INTERVAL
between two kills (0.2 seconds in the mean), FAULTS (`kill`; also `kill,pair,stop`).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter

import pytest

from tests.faults.killer import Killer
from tests.faults.ledger import Ledger
from tests.faults.readers import Reader, read_all
from tests.faults.senders import Sender
from tests.faults.where import local
from tests.support.array import DOMAIN, Array

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
KILLS = int(os.environ.get("KILLS", "200"))
INTERVAL = float(os.environ.get("INTERVAL", "0.2"))
FAULTS = tuple(os.environ.get("FAULTS", "kill").split(","))
SENDERS_PER_SERVER = 3
READERS = 3
PAUSE = 0.12  # seconds between a sender's bursts, in the mean
SETTLE_SECONDS = 60.0
READ_SECONDS = 60.0

MAILBOXES = tuple(f"box{i}@{DOMAIN}" for i in range(12))
BIN = MAILBOXES[-1]


@pytest.mark.timeout(120 + KILLS * (INTERVAL + 2))
async def test_acknowledged_mail_is_read_back_exactly_once() -> None:
    print(f"\nSEED={SEED} KILLS={KILLS} INTERVAL={INTERVAL} FAULTS={','.join(FAULTS)}")
    chance = random.Random(SEED)
    ledger = Ledger(chance.randrange(1 << 31))

    def another() -> random.Random:
        return random.Random(chance.randrange(1 << 31))

    with Array(accounts=MAILBOXES, annotations={"mailarray.io/local-max-restart-delay": "50ms"}) as array:
        array.start()
        senders = [
            Sender(local(array.smtp(i)), ledger, MAILBOXES, another(), PAUSE)
            for i in range(len(array.names))
            for _ in range(SENDERS_PER_SERVER)
        ]
        readers = [Reader(local(array.pop3), ledger, MAILBOXES, BIN, another()) for _ in range(READERS)]
        killer = Killer(array, ledger, FAULTS, KILLS, INTERVAL, another())
        began = time.monotonic()
        stop = asyncio.Event()
        workers: list[Sender | Reader] = [*senders, *readers]
        at_work = [asyncio.create_task(worker.run(stop)) for worker in workers]
        try:
            await killer.run()
            hurt = time.monotonic() - began
        finally:
            stop.set()
            await asyncio.gather(*at_work)

        began = time.monotonic()
        await asyncio.to_thread(array.wait_ready)
        await asyncio.to_thread(array.wait_settled, SETTLE_SECONDS)
        settled = time.monotonic() - began
        began = time.monotonic()
        texts = await asyncio.gather(*(read_all(local(array.pop3), mailbox, READ_SECONDS) for mailbox in MAILBOXES))
        found = dict(zip(MAILBOXES, texts, strict=True))
        read = time.monotonic() - began
        verdict = ledger.judge(found)
        print(f"{verdict}, kills {killer.done}")
        refused = sum((reader.refused for reader in readers), Counter())
        print(
            f"kills {dict(killer.by_role)}, stops {killer.stops}, without traffic {killer.idle}; "
            f"sent {len(ledger.entries)}, deleted {ledger.deleted}, found {sum(map(len, found.values()))}; "
            f"sessions read {sum(r.sessions for r in readers)}, not had {dict(refused)}; "
            f"longest answer {max(s.longest for s in senders):.1f} s; "
            f"hurt for {hurt:.0f} s, settled in {settled:.1f} s, read in {read:.1f} s"
        )
        print(*verdict.examples(), sep="\n")
        assert verdict.good, str(verdict)
        assert ledger.acknowledged > killer.done
        array.stop()
        array.verify_journals()
