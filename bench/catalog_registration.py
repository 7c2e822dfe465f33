"""What registering costs: `PYTHONPATH=dataplane:. python bench/catalog_registration.py --help`.

Prints, for each database, wall time and CPU of this process for one message (PostgreSQL's own processes are
counted apart), the same with one full mailbox against an empty one, and how long a mailbox takes to read.
Files are made in the current directory unless `--directory` says otherwise: that disk is what is measured.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import tempfile
import time
from pathlib import Path

import uvloop
from tests.support.postgres import PostgresServer, available

from mailarray.catalog.catalog import Catalog
from mailarray.catalog.database import open_catalog
from mailarray.catalog.rows import MessageRow, Registered, Registration, SegmentFacts
from mailarray.model.ids import VolumeId, new_incarnation_id, new_message_id, new_segment_id, new_volume_id

BODY = 4096
MIB = 1024 * 1024


class Writer:
    """One sidecar: a segment, and batches of it one after the other."""

    def __init__(self, catalog: Catalog, volume: VolumeId, epoch: int) -> None:
        self._catalog, self._volume, self._epoch = catalog, volume, epoch
        self._segment = SegmentFacts(new_segment_id(), volume, new_incarnation_id(), 0, (volume, new_volume_id()), 2)
        self._at = 0

    def batch(self, mailboxes: list[str]) -> Registration:
        """One message for each mailbox."""
        begin, now = self._at, time.time_ns() // 1000
        rows = []
        for mailbox in mailboxes:
            row = MessageRow(new_message_id(), now, "sender@far.example", [(mailbox, mailbox)], self._at, BODY, 12345)
            rows.append(row)
            self._at += BODY
        return Registration(self._segment, self._epoch, begin, self._at, None, rows, [])

    async def register(self, run: Registration) -> None:
        """Must succeed."""
        answer = await self._catalog.register(self._volume, run)
        assert isinstance(answer, Registered), answer


async def rate(writer: Writer, names: itertools.cycle[str], messages: int, batch: int) -> tuple[float, float]:
    """Wall and CPU microseconds for one message; making the rows is not counted."""
    wall = cpu = 0.0
    for _ in range(messages // batch):
        run = writer.batch([next(names) for _ in range(batch)])
        wall_begin, cpu_begin = time.perf_counter(), time.process_time()
        await writer.register(run)
        wall += time.perf_counter() - wall_begin
        cpu += time.process_time() - cpu_begin
    return wall * 1e6 / messages, cpu * 1e6 / messages


async def measure(name: str, url: str, arguments: argparse.Namespace) -> None:
    catalog = await open_catalog(url)
    volume = new_volume_id()
    epoch = (await catalog.check_in(volume, "bench", 0, 0)).epoch
    await catalog.caught_up(volume, epoch, [volume], 1)
    writer = Writer(catalog, volume, epoch)
    spread = itertools.cycle([f"user{i * 617 % 1000:04}@mail.example" for i in range(1000)])
    await rate(writer, spread, 2000, arguments.batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall, cpu = await rate(writer, spread, arguments.messages, arguments.batch)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - peak
    print(
        f"{name}: {arguments.messages} messages, batches of {arguments.batch}, 1000 mailboxes: "
        f"{wall:.1f} us each ({1e6 / wall:.0f}/s), CPU {cpu:.1f} us, peak RSS +{grown:.0f} MiB"
    )
    full = itertools.cycle(["full@mail.example"])
    await rate(writer, full, arguments.prefill, 1000)
    rates: dict[str, list[float]] = {"full": [], "empty": []}
    for i in range(arguments.rounds):
        for kind, names in (("full", full), ("empty", itertools.cycle([f"empty{i}@mail.example"]))):
            rates[kind].append((await rate(writer, names, 2000, arguments.batch))[0])
    medians = {kind: sorted(values)[len(values) // 2] for kind, values in rates.items()}
    print(
        f"{name}: into a mailbox of {arguments.prefill} {medians['full']:.1f} us, "
        f"into an empty one {medians['empty']:.1f} us: rate {medians['empty'] / medians['full']:.2f}"
    )
    await writer.register(writer.batch(["ten@mail.example"] * 10))
    for mailbox in ("ten@mail.example", "full@mail.example"):
        took = []
        for _ in range(5):
            begin = time.perf_counter()
            entries = await catalog.mailbox(mailbox)
            took.append(time.perf_counter() - begin)
        print(f"{name}: mailbox of {len(entries)} read in {sorted(took)[2] * 1000:.2f} ms")
    await catalog.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--prefill", type=int, default=100_000, help="messages in the full mailbox")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--directory", default=".", help="where the SQLite file is made")
    arguments = parser.parse_args()
    if arguments.only != "postgresql":
        with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
            uvloop.run(measure("sqlite", f"sqlite:///{Path(directory).resolve()}/catalog.db", arguments))
    if arguments.only != "sqlite" and available():
        server = PostgresServer()
        try:
            uvloop.run(measure("postgresql", server.fresh_database(), arguments))
        finally:
            server.close()


if __name__ == "__main__":
    main()
