"""Asks every server how it is: the status of its sidecar and of its writer, by the pod's address; of each volume.

Invariant: what a pod said is gone with the pod; when the server was last heard stays, so that a pod which is replaced
does not make its server silent since ever. Questions are spread,
so that 1500 servers are a steady trickle; those that decisions wait for (draining, rebuilding, restarting) are asked
more often.
Tells the loop only of what can change a decision: counters that move all the time do not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import aiohttp

from mailarray.contract import paths
from mailarray_operator.api import names
from mailarray_operator.cluster import metrics
from mailarray_operator.cluster.asking import ask
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.store import Store
from mailarray_operator.plan.observation import Pod, ServerReport, VolumeReport

HURRIED_SECONDS, CALM_SECONDS = 2.0, 10.0  # between two questions to one server
AT_ONCE = 64
TICK_SECONDS = 0.25
FORGET_SECONDS = 60.0  # without a pod; long after decisions take silence for Lost
LOOK_SECONDS = 1.0  # what many servers report within a second is looked at once
VOLATILE = frozenset(
    {"lag_bytes", "sessions", "accepted", "pending", "disk_free", "load", "scrub"}
)  # move all the time; nobody decides by them


@dataclass(slots=True)
class _Target:
    """One server."""

    cluster: Key
    uid: str
    ip: str
    hurried: bool
    due: float
    volumes: int = 1
    asking: bool = False


class Reporter:
    """See the module."""

    def __init__(
        self,
        store: Store,
        session: aiohttp.ClientSession,
        token: Callable[[Key], str],
        look: Callable[[Key, float], None],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._session = session
        self._token = token
        self._look = look
        self._clock = clock
        self._targets: dict[Key, _Target] = {}  # namespace, server
        self._seats = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(
        self, key: Key, pods: Mapping[str, Pod], hurried: frozenset[str], volumes: Mapping[str, int] | None = None
    ) -> None:
        """Ask these servers of a MailCluster, and no others of it; `volumes` says which have more than one."""
        several = volumes or {}
        namespace = key[0]
        for server, target in list(self._targets.items()):
            if target.cluster == key and server[1] not in pods:
                self._drop(server)
        now = self._clock()
        for name, pod in pods.items():
            server = (namespace, name)
            if not pod.ip:
                self._drop(server)
                continue
            known = self._targets.get(server)
            if known is None or (known.uid, known.ip) != (pod.uid, pod.ip):
                self._drop(server)
                first = 0.0 if len(pods) <= AT_ONCE else random.uniform(0, CALM_SECONDS / 2)
                self._targets[server] = _Target(
                    key, pod.uid, pod.ip, name in hurried, now + first, several.get(name, 1)
                )
            else:
                known.hurried, known.volumes = name in hurried, several.get(name, 1)
                if known.hurried:
                    known.due = min(known.due, now + HURRIED_SECONDS)

    def forget(self, key: Key) -> None:
        """The MailCluster is gone, with all its MailServers."""
        self.follow(key, {}, frozenset())

    def _drop(self, server: Key) -> None:
        self._targets.pop(server, None)
        if (report := self._store.reports.get(server)) is not None:
            self._store.reports[server] = replace(report, sidecar=None, writer=None, further=(), first_heard=None)

    def _forget_silent(self, now: float) -> None:
        reports = self._store.reports
        for server in [s for s, r in reports.items() if s not in self._targets and now - r.heard > FORGET_SECONDS]:
            del reports[server]

    async def run(self) -> None:
        """Until cancelled."""
        self._store.asked_since = self._clock()
        try:
            while True:
                now = self._clock()
                for server, target in self._targets.items():
                    if target.due <= now and not target.asking:
                        target.asking = True
                        task = asyncio.create_task(self._ask(server, target))
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)
                self._forget_silent(now)
                reports = self._store.reports
                metrics.SERVERS_SILENT.set(sum(_silent(report) for s, report in reports.items() if s in self._targets))
                await asyncio.sleep(TICK_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()

    async def _ask(self, server: Key, target: _Target) -> None:
        try:
            token = self._token(target.cluster)
            if token:
                ports = [(names.sidecar_port(n), names.writer_port(n)) for n in range(target.volumes)]
                async with self._seats:
                    said = await asyncio.gather(
                        *(ask(self._session, target.ip, port, paths.STATUS, token) for pair in ports for port in pair)
                    )
                if self._targets.get(server) is target:
                    self._take(server, target, tuple(map(VolumeReport, said[::2], said[1::2])))
        finally:
            target.asking = False
            pause = HURRIED_SECONDS if target.hurried else CALM_SECONDS * random.uniform(0.9, 1.1)
            target.due = self._clock() + pause

    def _take(self, server: Key, target: _Target, said: tuple[VolumeReport, ...]) -> None:
        now = self._clock()
        before = self._store.reports.get(server)
        heard = now if any(one.sidecar is not None for one in said) or before is None else before.heard
        known = before.volumes if before is not None and before.pod == target.uid else ()
        each = [
            replace(
                one, heard=now if one.sidecar is not None and one.writer is not None else old.heard if old else None
            )
            for one, old in zip_longest(said, known[: len(said)])
        ]
        report = ServerReport(heard, each[0].sidecar, each[0].writer, target.uid, tuple(each[1:]), each[0].heard)
        self._store.reports[server] = report
        if before is None or _all_decisive(report) != _all_decisive(before):
            self._look(target.cluster, LOOK_SECONDS)


def _silent(report: ServerReport) -> bool:
    return all(volume.sidecar is None for volume in report.volumes)


def _all_decisive(report: ServerReport) -> list[Mapping[str, Any] | None]:
    return [_decisive(status) for one in report.volumes for status in (one.sidecar, one.writer)]


def _decisive(status: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return None if status is None else {name: value for name, value in status.items() if name not in VOLATILE}
