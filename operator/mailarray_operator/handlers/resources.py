"""The custom resources: kopf watches them, and each event goes into the store as it comes.

Only `on.event` handlers: they leave no finalizer, no annotation and no status of kopf's on the users' resources, and
nothing here depends on an event being seen. No timers, daemons, peering, or events of kopf's own. Everything else that
is watched (hundreds of pods, StatefulSets, ConfigMaps) is followed by `cluster/watch.py`, see docs/adr/0008.
Built by `main`, run beside the loop.
"""

from __future__ import annotations

import asyncio
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


def registry(store: Store, reconnect: Reconnect) -> kopf.OperatorRegistry:
    """All handlers; `reconnect` answers address and credentials, fresh ones each time."""
    found = kopf.OperatorRegistry()
    for kind in CUSTOM:
        _follow(found, kind, store)

    @kopf.on.login(registry=found)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await connection_info(reconnect)

    return found


def _follow(found: kopf.OperatorRegistry, kind: Kind, store: Store) -> None:
    @kopf.on.event(names.GROUP, names.VERSION, kind.plural, registry=found, id=f"follow-{kind.plural}")
    async def follow(event: kopf.RawEvent, **_: Any) -> None:
        # A coroutine, though it awaits nothing: kopf runs plain functions in threads.
        store.take(kind, event["object"], event["type"] != "DELETED")


async def connection_info(reconnect: Reconnect) -> kopf.ConnectionInfo:
    """What kopf needs to know of a connection."""
    connection = await reconnect()
    bearer = (await connection.auth_settings()).get("BearerToken")
    token = str(bearer["value"] or "").removeprefix("Bearer ") if bearer else ""
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


async def run(
    found: kopf.OperatorRegistry, configuration: Configuration, ready: asyncio.Event, stop: asyncio.Event
) -> None:
    """Until `stop`; sets `ready` when kopf watches."""
    await kopf.operator(
        registry=found,
        settings=settings(),
        standalone=True,
        clusterwide=not configuration.namespaces,
        namespaces=configuration.namespaces,
        ready_flag=ready,
        stop_flag=stop,
    )
