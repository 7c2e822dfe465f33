"""Measures the load of a server once a second, and keeps the answer to `GET /v1/load` ready.

Started by the process. Reads counters that writer and listener keep anyway, so a message costs nothing; a reader gets
bytes that were rendered before it asked. Definitions are in `load.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from mailarray.contract import paths
from mailarray.contract.settings import ServerSettings
from mailarray.mirroring.writer import JournalWriter
from mailarray.smtp.listener import SmtpListener
from mailarray.smtp.load import Figures, Smoothed, load, parts, smooth
from mailarray.smtp.metrics import LOAD, LOAD_PARTS, SHED_SHARE

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 1.0  # readers ask every few seconds
_DIGITS = 3
_NANO = 1e-9


def busy_seconds() -> float:
    """Seconds that this thread ran or waited for a processor, since it began; without procfs, that it ran.

    The wait counts since a thread that gets half a processor is as full at half a second of work as another at one.
    """
    waited = 0.0
    with contextlib.suppress(OSError, IndexError, ValueError):
        waited = int(Path("/proc/thread-self/schedstat").read_bytes().split()[1]) * _NANO
    return time.thread_time() + waited


class LoadMeter:
    """See the module. `sample` is called from the event loop's own thread."""

    def __init__(
        self,
        settings: ServerSettings,
        writer: JournalWriter,
        listener: SmtpListener,
        now: Callable[[], float] = time.monotonic,
        busy: Callable[[], float] = busy_seconds,
    ) -> None:
        self._settings = settings
        self._writer = writer
        self._listener = listener
        self._now = now
        self._busy = busy
        self._busy_before = busy()
        self._accepted_before = writer.accepted
        self._commits_before, self._commit_seconds_before = writer.commits, writer.commit_seconds
        self.report: dict[str, Any] = {}
        self.body = b""  # the report as JSON
        figures = self._figures(0.0)
        self._smoothed = Smoothed(now(), parts(figures))
        self._publish(figures)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            try:
                self.sample()
            except Exception:  # an old report is better than none; the next second may do better
                log.exception("load not measured")

    def sample(self) -> None:
        """End the interval: measure, smooth, publish."""
        writer, at = self._writer, self._now()
        passed = at - self._smoothed.at
        if passed <= 0.0:
            return
        busy = self._busy()
        figures = self._figures((busy - self._busy_before) / passed)
        rate = (writer.accepted - self._accepted_before) / passed
        self._smoothed = smooth(self._smoothed, figures, rate, at)
        self._busy_before, self._accepted_before = busy, writer.accepted
        self._commits_before, self._commit_seconds_before = writer.commits, writer.commit_seconds
        self._publish(figures)

    def _figures(self, loop_share: float) -> Figures:
        writer, limits, storage = self._writer, self._settings.smtp.limits, self._settings.storage
        commits = writer.commits - self._commits_before
        ended = (writer.commit_seconds - self._commit_seconds_before) / commits if commits else None
        age = writer.commit_age()  # one that hangs ends in no statistics
        return Figures(
            sessions=self._listener.sessions,
            max_connections=limits.max_connections,
            pending_bytes=writer.pending_bytes,
            pending_limit=limits.soft_pending_bytes,
            commit_seconds=ended if age is None else max(age, ended or 0.0),
            commit_limit=storage.mirror_timeout,
            loop_share=loop_share,
            disk_free=writer.volume.free_bytes(),
            disk_size=writer.volume.size_bytes(),
            reserve=storage.reserve,
        )

    def _publish(self, figures: Figures) -> None:
        writer, smoothed = self._writer, self._smoothed
        refusal = writer.refusal()
        refusing = "the server is draining" if writer.draining else refusal.text if refusal is not None else None
        number = load(smoothed.parts, refusing=refusing is not None)
        share = self._listener.shed_share()
        self.report = {
            "server": self._settings.server,
            "load": round(number, _DIGITS),
            "parts": {name: round(part, _DIGITS) for name, part in smoothed.parts._asdict().items()},
            "refusing": refusing,
            "shedding": round(share, _DIGITS),
            "accepted_per_second": round(smoothed.accepted_per_second, 1),
            "sessions": figures.sessions,
            "max_connections": figures.max_connections,
            "pending_bytes": figures.pending_bytes,
            "pending_limit": figures.pending_limit,
            "commit_seconds": None if figures.commit_seconds is None else round(figures.commit_seconds, 4),
            "disk_free": figures.disk_free,
        }
        self.body = json.dumps(self.report, separators=(",", ":")).encode()
        LOAD.set(number)
        for name, part in smoothed.parts._asdict().items():
            LOAD_PARTS.labels(name).set(part)
        SHED_SHARE.set(share)

    def add_route(self, app: web.Application) -> None:
        """Answer `GET /v1/load` on the process' internal port."""

        async def show(_: web.Request) -> web.Response:
            return web.Response(body=self.body, content_type="application/json")

        app.router.add_get(paths.LOAD, show)
