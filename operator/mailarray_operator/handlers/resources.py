"""The custom resources: kopf watches them, and each event goes into the store as it comes.

Only `on.event` handlers: they leave no finalizer, no annotation and no status of kopf's on the users' resources, and
nothing here depends on an event being seen. No timers, daemons, peering, or events of kopf's own. Everything else that
is watched (hundreds of pods, StatefulSets, ConfigMaps) is followed by `cluster/watch.py`, see docs/adr/0008.

kopf runs in a thread with an event loop of its own: at its end it cancels every task of its loop that it does not
know, and it takes the signals of the process; neither must happen to the task that gives the Lease back. What it sees
is handed over to the process' loop, in order. Started by `process.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import kopf

from mailarray_operator.api import names
from mailarray_operator.api.configuration import Configuration
from mailarray_operator.cluster.client import Connection
from mailarray_operator.cluster.kinds import CUSTOM, Kind
from mailarray_operator.cluster.store import Store
from mailarray_operator.cluster.watch import PAGE

Reconnect = Callable[[], Awaitable[Connection]]


Sink = Callable[[Kind, dict[str, Any], bool], None]


def registry(sink: Sink, reconnect: Reconnect) -> kopf.OperatorRegistry:
    """All handlers; `sink` is called in kopf's thread; `reconnect` answers address and credentials, fresh each time."""
    found = kopf.OperatorRegistry()
    for kind in CUSTOM:
        _follow(found, kind, sink)

    @kopf.on.login(registry=found)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await connection_info(reconnect)

    return found


def _follow(found: kopf.OperatorRegistry, kind: Kind, sink: Sink) -> None:
    @kopf.on.event(names.GROUP, names.VERSION, kind.plural, registry=found, id=f"follow-{kind.plural}")
    async def follow(event: kopf.RawEvent, **_: Any) -> None:
        # A coroutine, though it awaits nothing: kopf runs plain functions in threads, out of order.
        sink(kind, dict(event["object"]), event["type"] != "DELETED")


async def connection_info(reconnect: Reconnect) -> kopf.ConnectionInfo:
    """What kopf needs to know of a connection."""
    connection = await reconnect()
    bearer = (await connection.auth_settings()).get("BearerToken")
    token = str(bearer["value"] or "").rpartition(" ")[2] if bearer else ""  # "Bearer x", or "bearer x" in a pod
    return kopf.ConnectionInfo(
        server=connection.host,
        ca_path=connection.ssl_ca_cert or None,
        insecure=not connection.verify_ssl,
        certificate_path=connection.cert_file or None,
        private_key_path=connection.key_file or None,
        token=token or None,
    )


def settings() -> kopf.OperatorSettings:
    """kopf, told to watch and to do nothing else."""
    found = kopf.OperatorSettings()
    found.scanning.disabled = True  # the resources are known, and their CRDs are there before kopf starts
    found.posting.enabled = False  # our events say more
    found.peering.standalone = True  # the Lease decides who acts; all watch
    found.watching.chunk_size = PAGE  # objects in memory at once
    found.queueing.idle_timeout = 1.0  # seconds; a task for each resource seen is kept that long
    return found


class Follower:
    """kopf in its thread."""

    def __init__(self, configuration: Configuration, store: Store, reconnect: Reconnect) -> None:
        self._configuration = configuration
        self._store = store
        self._reconnect = reconnect
        self.ready = asyncio.Event()
        self._stop = threading.Event()

    async def run(self) -> None:
        """Until cancelled. Raises what kopf failed with."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def sink(kind: Kind, body: dict[str, Any], there: bool) -> None:
            loop.call_soon_threadsafe(self._store.take, kind, body, there)

        def end(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_exception(error or FollowerEnded("kopf has ended"))

        def work() -> None:
            error: BaseException | None = None
            try:
                asyncio.run(self._operate(sink, loop))
            except BaseException as problem:  # handed over, not swallowed
                error = problem
            if not loop.is_closed():
                loop.call_soon_threadsafe(end, error)

        threading.Thread(target=work, name="kopf", daemon=True).start()
        try:
            await ended
        finally:
            self._stop.set()

    async def _operate(self, sink: Sink, loop: asyncio.AbstractEventLoop) -> None:
        ready = threading.Event()
        told = asyncio.create_task(self._tell_ready(ready, loop))
        try:
            await kopf.operator(
                registry=registry(sink, self._reconnect),
                settings=settings(),
                standalone=True,
                clusterwide=not self._configuration.namespaces,
                namespaces=self._configuration.namespaces,
                ready_flag=ready,
                stop_flag=self._stop,
            )
        finally:
            told.cancel()
            ready.set()  # the thread that waits for it would keep the process, which then does nothing, for ever

    async def _tell_ready(self, ready: threading.Event, loop: asyncio.AbstractEventLoop) -> None:
        await asyncio.to_thread(ready.wait)
        loop.call_soon_threadsafe(self.ready.set)


class FollowerEnded(Exception):
    """kopf does not watch any more."""
