"""The operator as a process: puts all parts together, and takes them down again.

Watching goes on from start to end; planning and writing only while the Lease is held. Called by `main`, and by tests
that wrap the writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp

from mailarray_operator.api import names
from mailarray_operator.api.configuration import Configuration
from mailarray_operator.cluster import kinds, metrics, port, sweeper
from mailarray_operator.cluster.applier import Applier
from mailarray_operator.cluster.client import Client, read_connection
from mailarray_operator.cluster.events import Poster
from mailarray_operator.cluster.lease import Lease
from mailarray_operator.cluster.loads import Loads
from mailarray_operator.cluster.loop import Loop
from mailarray_operator.cluster.pusher import Pusher
from mailarray_operator.cluster.reconcile import Decide, Reconciler
from mailarray_operator.cluster.reporter import Reporter
from mailarray_operator.cluster.resolver import Resolver
from mailarray_operator.cluster.secrets import Secrets
from mailarray_operator.cluster.statuses import Statuses
from mailarray_operator.cluster.steering import Steering
from mailarray_operator.cluster.store import Store
from mailarray_operator.cluster.watch import Watch
from mailarray_operator.cluster.writer import ApiWriter, Guarded, Writer
from mailarray_operator.handlers import census, resources

log = logging.getLogger(__name__)

Wrap = Callable[[Writer], Writer]

OURS = names.LABEL_CLUSTER  # selector: whatever belongs to a MailCluster carries it
WATCHED = (
    (kinds.STATEFUL_SET, OURS, False),
    (kinds.DEPLOYMENT, OURS, False),
    (kinds.POD, OURS, False),
    (kinds.CLAIM, OURS, False),
    (kinds.CONFIG_MAP, OURS, False),
    (kinds.SERVICE, OURS, False),
    (kinds.DISRUPTION_BUDGET, OURS, True),
    (kinds.NETWORK_POLICY, OURS, True),
)  # kind, label selector, whether its metadata is enough
WATCHED_IF_ALLOWED = ((kinds.NODE, False), (kinds.STORAGE_CLASS, False))  # of the whole cluster


class OperatorProcess:
    """All parts of one operator."""

    def __init__(
        self,
        configuration: Configuration,
        kubeconfig: Path | None,
        client: Client,
        session: aiohttp.ClientSession,
        decide: Decide,
        wrap: Wrap = lambda writer: writer,
    ) -> None:
        self.configuration = configuration
        self._client = client
        identity = f"{socket.gethostname()}_{os.getpid()}"
        namespace = configuration.operator_namespace
        self.lease = Lease(client, namespace, configuration.lease_name, identity, self._lead)
        leading = self.lease.leading if configuration.leader_elect else lambda: True
        writer = Guarded(wrap(ApiWriter(client, session)), leading)
        self.store = Store(lambda key: self.loop.look(key))
        self._secrets = Secrets(client, self.store)
        self._pusher = Pusher(writer)
        self._reporter = Reporter(
            self.store, session, self._secrets.token, lambda k, a: self.loop.look(k, a), time.monotonic
        )
        poster = Poster(writer, identity)
        self._loads = Loads(self._secrets.token)
        self._steering = Steering(
            self.store,
            client,
            writer,
            self._loads,
            Resolver(configuration.dns_servers),
            poster,
            lambda key: self.loop.look(key),
        )
        self._reconciler = Reconciler(
            configuration=configuration,
            decide=decide,
            store=self.store,
            writer=writer,
            applier=Applier(self.store, writer),
            statuses=Statuses(self.store, writer),
            secrets=self._secrets,
            pusher=self._pusher,
            reporter=self._reporter,
            steering=self._steering,
            poster=poster,
        )
        self.loop = Loop(self._reconciler.run)
        self._watches = self._make_watches()
        self._stop = asyncio.Event()
        self._follower = resources.Follower(configuration, self.store, lambda: read_connection(kubeconfig))
        self._leading = asyncio.Event()
        self._changed = asyncio.Event()

    def _make_watches(self) -> list[Watch]:
        spaces = self.configuration.namespaces or ("",)
        found = [
            Watch(self._client, kind, space, self.store.take, labels, metadata_only=metadata_only)
            for kind, labels, metadata_only in WATCHED
            for space in spaces
        ]
        found += [
            Watch(self._client, kind, "", self.store.take, metadata_only=metadata_only, optional=True)
            for kind, metadata_only in WATCHED_IF_ALLOWED
        ]
        return found

    def _lead(self, leading: bool) -> None:
        metrics.LEADER.set(leading)
        (self._leading.set if leading else self._leading.clear)()
        self._changed.set()

    def stop(self) -> None:
        """End cleanly."""
        self._stop.set()

    async def run(self) -> None:
        """Until SIGTERM, SIGINT or `stop`. Raises PortProblem, or what a part failed with."""
        self._handle_signals()
        runner = await port.serve(port.application(self._not_ready, self._measure), self.configuration.listen)
        try:
            async with _Tasks(self._stop) as tasks:
                for watch in self._watches:
                    tasks.start(watch.run(), f"watch {watch.kind.plural}")
                tasks.start(self._custom_resources(), "custom resources")
                await tasks.until(self._listed())
                # Only who knows the whole world may lead: a follower that takes over acts at once.
                tasks.start(self.lease.run() if self.configuration.leader_elect else self._always(), "lease")
                tasks.start(self._act(), "act")
                tasks.start(sweeper.run(lambda: self.loop.depth() > 0), "sweeper")
                await tasks.until(self._stop.wait())
        finally:
            await self.loop.stop()
            await self._secrets.close()
            await runner.cleanup()

    async def _always(self) -> None:
        self._lead(True)
        await asyncio.Event().wait()

    async def _custom_resources(self) -> None:
        await census.wait_for_crds(self._client)
        counting = asyncio.create_task(census.run(self._client, self.store, self.configuration.namespaces or ("",)))
        try:
            await self._follower.run()
        finally:
            counting.cancel()

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # not in the main thread
                asyncio.get_running_loop().add_signal_handler(number, self._stop.set)

    async def _listed(self) -> None:
        for watch in self._watches:
            await watch.listed.wait()
        await self._follower.ready.wait()
        # kopf is ready before it has listed. A MailServer that is not known yet is not looked at, so that harms nobody;
        # but a first count spares deciding with half of the groups.
        await self._first_count()

    async def _first_count(self) -> None:
        spaces = self.configuration.namespaces or ("",)
        for kind in kinds.CUSTOM:
            for space in spaces:
                listed = asyncio.Event()
                watch = Watch(self._client, kind, space, self.store.take, listed=listed)
                task = asyncio.create_task(watch.run())
                await listed.wait()
                task.cancel()

    async def _act(self) -> None:
        """Plan and write while leading."""
        while True:
            await self._leading.wait()
            self._changed.clear()
            if not self._leading.is_set():
                continue
            parts = (self._pusher, self._reporter, self._loads, self._steering)
            acting = [asyncio.create_task(part.run()) for part in parts]
            self.loop.start(self.store.keys())
            try:
                while self._leading.is_set():
                    await self._changed.wait()
                    self._changed.clear()
            finally:
                for task in acting:
                    task.cancel()
                await self.loop.stop()
                metrics.forget_all_servers()
                await asyncio.gather(*acting, return_exceptions=True)

    def _not_ready(self) -> str:
        waiting = sorted({watch.kind.plural for watch in self._watches if not watch.listed.is_set()})
        if waiting:
            return f"waiting for the first list of {', '.join(waiting)}"
        return "" if self._follower.ready.is_set() else "waiting for the custom resources"

    def _measure(self) -> None:
        metrics.QUEUE.set(self.loop.depth())
        for what, count in self.store.sizes().items():
            metrics.HELD.labels(what).set(count)


class _Tasks:
    """Tasks that run until the end, or until one of them fails, which ends all and raises its error."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> _Tasks:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run beside the others."""
        self._tasks.append(asyncio.create_task(work, name=name))

    async def until(self, what: Coroutine[Any, Any, Any]) -> None:
        """Until that, or the stop, or a failure of a task, which is raised."""
        ends = [asyncio.create_task(what), asyncio.create_task(self._stop.wait())]
        try:
            done, _ = await asyncio.wait([*ends, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in ends:
                task.cancel()
