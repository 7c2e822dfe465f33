"""The smtp process of a server: listener, journal writer and internal port, put together and taken down.

A server whose state in the mirroring table is Draining takes no new session and no tombstone; sessions under way hear
421 after their transaction. `at_rest` says that nothing is open, nor can be opened, until the table says Serving.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import Any

from mailarray import __version__
from mailarray.contract import mirroring_table
from mailarray.contract.server_names import group_of
from mailarray.contract.settings import ServerSettings
from mailarray.directory.opening import open_directory
from mailarray.journal.disk import Disk
from mailarray.journal.spool import check_directory
from mailarray.journal.volume import Volume, VolumeError, open_volume
from mailarray.mirroring.announce import Announcer
from mailarray.mirroring.hand_over import Keepers
from mailarray.mirroring.mirrors import Mirrors
from mailarray.mirroring.writer import JournalWriter
from mailarray.observe.http import internal_app, serve
from mailarray.observe.limits import raise_file_limit, switch_threads_quickly
from mailarray.smtp.listener import SmtpListener
from mailarray.smtp.load_report import LoadMeter
from mailarray.smtp.placing import PlacingSink
from mailarray.smtp.quota_keeper import QuotaKeeper
from mailarray.smtp.quotas import Quotas
from mailarray.smtp.writer_port import add_routes

log = logging.getLogger(__name__)

STOP_GRACE = 5.0  # seconds that sessions have to hear their last reply
LOCK_PATIENCE = 15.0  # seconds: the own sidecar holds the lock while it scans what the last writer left (rule 9)
LOCK_AGAIN = 0.1  # seconds between two tries
DISK_AGAIN = 5.0  # seconds between two tries to write to a disk that failed
PORT_LOOK = 0.25  # seconds; a shared port is left, or taken again, so soon after mail cannot be taken, or can


def status(
    settings: ServerSettings,
    writer: JournalWriter,
    listener: SmtpListener,
    meter: LoadMeter,
    placing: PlacingSink | None = None,
) -> dict[str, Any]:
    """For /v1/status."""
    at_rest = writer.at_rest and listener.transactions == 0 and (placing is None or placing.at_rest)
    segment = writer.segment
    refusal = writer.refusal()
    used = set() if segment is None else {link.server.name for link in segment.links}
    return {
        "server": settings.server,
        "version": __version__,
        "volume": writer.volume.id.hex(),
        "segment": None if segment is None else segment.header.segment.hex(),
        "copies": {"wanted": settings.storage.copies, "now": None if segment is None else 1 + len(segment.links)},
        "mirrors": [
            {
                "server": name,
                "state": link.state.value,
                "in_use": name in used,
                "error": link.last_error if not link.ready else "",
            }
            for name, link in writer.mirrors.links.items()
        ],
        "table_generation": writer.mirrors.table.generation,
        "sessions": listener.sessions,
        "accepted": writer.accepted,
        "pending": writer.pending_bytes,
        "load": meter.report,
        "refusing": None if refusal is None else refusal.text,
        "disk_error": writer.disk_error,
        "draining": writer.draining,
        "at_rest": writer.draining and at_rest,
        "placement": None if placing is None else placing.status(),
    }


def unready(writer: JournalWriter, listener: SmtpListener, *, shared: bool = False) -> str | None:
    """Why no mail should be sent here now, or None; for /readyz. `shared`: the server's other volumes take mail on the
    same port, so that one which cannot does not speak for the server; but a disk that fails does, so that nobody takes
    another server away meanwhile."""
    if shared and not writer.draining:
        return writer.disk_error
    if not listener.listening:
        return "the SMTP port is not open"
    if writer.draining:
        return "the server is draining"
    refusal = writer.refusal()
    return None if refusal is None else refusal.text


def follow_table(writer: JournalWriter, listener: SmtpListener) -> None:
    """Drain the listener, or let it serve again, and know of other servers, as the mirroring table says."""
    if writer.draining:
        listener.drain()
    else:
        listener.serve_again()
    listener.send_elsewhere(writer.mirrors.others_serve)


async def lock_writer(volume: Volume) -> int:
    """Become the volume's writer, as soon as its lock is free. Raises VolumeError after a while, OSError."""
    clock = asyncio.get_running_loop().time
    until = clock() + LOCK_PATIENCE
    told = False
    while (lock := volume.try_lock_writer()) is None:
        if clock() >= until:
            raise VolumeError(
                f"another writer uses the volume {volume.path}; stop it, or give this server another volume"
            )
        if not told:
            log.info("waits for the writer's lock", extra={"volume": volume.id.hex(), "seconds": LOCK_PATIENCE})
            told = True
        await asyncio.sleep(LOCK_AGAIN)
    return lock


async def share_port(writer: JournalWriter, listener: SmtpListener, look: float = PORT_LOOK) -> None:
    """Until cancelled: clients come here only while mail can be taken. For a port that other volumes listen on, too: a
    client that comes by chance to the one that is full, or whose disk fails, would be told that the whole server is."""
    clock = asyncio.get_running_loop().time
    tried = clock()
    while True:
        await asyncio.sleep(look)
        if writer.disk_error is None:
            tried = clock()
        elif clock() - tried >= DISK_AGAIN * look / PORT_LOOK:
            # No mail comes here any more that would show that the disk is well again.
            try:
                await asyncio.to_thread(writer.volume.try_write)
                writer.disk_error = None
            except OSError as error:
                log.warning("the disk still fails", extra={"reason": str(error)})
            tried = clock()
        try:
            # A server that is to be emptied says so to whoever comes: all its volumes are.
            can = writer.refusal() is None and writer.disk_error is None
            await listener.share_port(writer.draining or can)
        except OSError as error:
            log.error("the port cannot be had again", extra={"reason": str(error)})


async def run(settings: ServerSettings) -> None:
    """Run until SIGTERM or SIGINT. Raises VolumeError, OSError, ValueError with one sentence."""
    raise_file_limit()
    switch_threads_quickly()
    volume = open_volume(Path(settings.volume), Disk())
    check_directory(volume.path)
    await lock_writer(volume)  # held until this process ends
    token = Path(settings.token_file).read_text(encoding="ascii").strip()
    table = mirroring_table.load(settings.mirroring_table_file)
    directory = open_directory(settings.directory)
    await directory.start()
    writer = _writer(settings, volume, table, token)
    placing = _placing(settings, writer, token)
    sink = writer if placing is None else placing
    quotas = Quotas()
    listener = SmtpListener(settings.smtp, directory, sink, lambda: sink.pending_bytes, quotas)
    follow_table(writer, listener)
    meter = LoadMeter(settings, writer, listener)
    shared = settings.smtp.shared_port
    app = internal_app(
        token,
        lambda: status(settings, writer, listener, meter, placing),
        lambda: unready(writer, listener, shared=shared),
    )
    add_routes(app, writer, lambda: follow_table(writer, listener))
    meter.add_route(app)
    runner = await serve(app, settings.writer)
    committing = asyncio.create_task(writer.run())
    measuring = asyncio.create_task(meter.run())
    sharing = asyncio.create_task(share_port(writer, listener)) if shared else None
    asking = asyncio.create_task(QuotaKeeper(quotas, str(settings.sidecar), token).run())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    try:
        await listener.start()
        log.info("server receives mail", extra={"server": settings.server, "listen": str(settings.smtp.listen)})
        await asyncio.wait([committing, stopped], return_when=asyncio.FIRST_COMPLETED)
        if committing.done():
            committing.result()  # the writer failed: end, and let the launcher start a new incarnation
        writer.refuse_new_mail()
        await listener.stop(STOP_GRACE)
        if placing is not None:
            await placing.stop()
        await writer.stop()
        await committing
    finally:
        stopped.cancel()
        committing.cancel()
        measuring.cancel()
        asking.cancel()
        if sharing is not None:
            sharing.cancel()
            await asyncio.gather(sharing, return_exceptions=True)
        await asyncio.gather(stopped, committing, measuring, asking, return_exceptions=True)
        writer.mirrors.close()
        await runner.cleanup()
        await directory.stop()


def _writer(
    settings: ServerSettings, volume: Volume, table: mirroring_table.MirroringTable, token: str
) -> JournalWriter:
    storage = settings.storage
    return JournalWriter(
        volume,
        Mirrors(settings.server, table, token, storage.mirror_timeout),
        storage,
        Announcer(Path(settings.run_directory)),
        settings.smtp.limits.soft_pending_bytes,
    )


def _placing(settings: ServerSettings, writer: JournalWriter, token: str) -> PlacingSink | None:
    """None without rules: then nothing stands between the sessions and the writer."""
    if not settings.placement.rules:
        return None
    own = group_of(settings.server)
    keepers = Keepers(settings.server, token, lambda: writer.mirrors.table)
    return PlacingSink(settings.placement, own, writer, keepers, settings.smtp.limits.soft_pending_bytes)
