"""Every write of the operator: one small interface, so that a leader's word guards all, and a test can die at each.

Invariant: nothing is written but through a `Writer`, and never by a process that does not hold the Lease (`Guarded`).
Every write is idempotent, or names what it expects (uid, resource version); so a process may die before or after any of
them, and the next one goes on. Called by the applier, the pusher and the poster of events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import aiohttp

from mailarray.contract import paths
from mailarray_operator.api import names
from mailarray_operator.cluster.client import APPLY_PATCH, MERGE_PATCH, ApiError, Client, Json
from mailarray_operator.cluster.kinds import POD, Kind, kind_of

WRITES_AT_ONCE = 16  # the API server's fair queueing gives one client about that many seats
PUSH_SECONDS = 2.0  # a server that does not take a table in this time is asked again later


class NotLeader(Exception):
    """This process does not hold the Lease any more; it writes nothing."""


class Writer(Protocol):
    """All that the operator changes in the world. Methods raise ApiError or NotLeader."""

    async def apply(self, manifest: Json) -> Json:
        """Server-side apply, with force: what the operator renders is its own; answers the object."""

    async def apply_status(self, manifest: Json) -> Json:
        """The same for the status subresource."""

    async def create(self, manifest: Json) -> bool:
        """Create; False when it exists, which is left as it is."""

    async def change(self, kind: Kind, namespace: str, name: str, patch: Json) -> Json:
        """Merge patch of an object that somebody else owns; a resource version in it is a precondition."""

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete that very object; nothing when it is gone already."""

    async def evict(self, namespace: str, pod: str, uid: str, *, only_ask: bool = False) -> None:
        """Delete that very pod as its disruption budget allows, or only ask; ApiError 429 when it does not now."""

    async def push(self, address: str, token: str, table: bytes) -> None:
        """Hand a mirroring table (JSON, gzip) to one process of the data plane. Raises PushFailed."""


class PushFailed(Exception):
    """One sentence."""


class ApiWriter:
    """Writes for real."""

    def __init__(self, client: Client, session: aiohttp.ClientSession) -> None:
        self._client = client
        self._session = session
        self._seats = asyncio.Semaphore(WRITES_AT_ONCE)

    async def apply(self, manifest: Json) -> Json:
        """See Writer."""
        return await self._apply(manifest, "")

    async def apply_status(self, manifest: Json) -> Json:
        """See Writer."""
        return await self._apply(manifest, "status")

    async def _apply(self, manifest: Json, subresource: str) -> Json:
        metadata = manifest["metadata"]
        path = kind_of(manifest).path(metadata.get("namespace", ""), metadata["name"], subresource)
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        async with self._seats:
            return await self._client.patch(path, manifest, APPLY_PATCH, query)

    async def create(self, manifest: Json) -> bool:
        """See Writer."""
        path = kind_of(manifest).path(manifest["metadata"]["namespace"])
        async with self._seats:
            try:
                await self._client.post(path, manifest, {"fieldManager": names.FIELD_MANAGER})
            except ApiError as error:
                if error.conflict:
                    return False
                raise
        return True

    async def change(self, kind: Kind, namespace: str, name: str, patch: Json) -> Json:
        """See Writer."""
        query = {"fieldManager": names.FIELD_MANAGER}
        async with self._seats:
            return await self._client.patch(kind.path(namespace, name), patch, MERGE_PATCH, query)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """See Writer."""
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        async with self._seats:
            await _unless_gone(self._client.delete(kind.path(namespace, name), options))

    async def evict(self, namespace: str, pod: str, uid: str, *, only_ask: bool = False) -> None:
        """See Writer."""
        options: Json = {"preconditions": {"uid": uid}}
        if only_ask:
            options["dryRun"] = ["All"]
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
            "deleteOptions": options,
        }
        async with self._seats:
            await _unless_gone(self._client.post(POD.path(namespace, pod, "eviction"), eviction))

    async def push(self, address: str, token: str, table: bytes) -> None:
        """See Writer."""
        headers = {
            "Authorization": f"{paths.TOKEN_SCHEME} {token}",
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
        }
        timeout = aiohttp.ClientTimeout(total=PUSH_SECONDS)
        url = f"http://{address}{paths.MIRRORING_TABLE}"
        try:
            async with self._session.put(url, data=table, headers=headers, timeout=timeout) as answer:
                if answer.status != 200:
                    raise PushFailed(f"{address} answered {answer.status} to the mirroring table")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PushFailed(f"{address} does not take the mirroring table: {error or 'no answer'}") from error


class Guarded:
    """Refuses every write while `leading` says no: a lost Lease stops a run in the middle."""

    def __init__(self, writer: Writer, leading: Callable[[], bool]) -> None:
        self._writer = writer
        self._leading = leading

    def _ask(self) -> Writer:
        if not self._leading():
            raise NotLeader("this operator does not hold the Lease")
        return self._writer

    async def apply(self, manifest: Json) -> Json:
        """See Writer."""
        return await self._ask().apply(manifest)

    async def apply_status(self, manifest: Json) -> Json:
        """See Writer."""
        return await self._ask().apply_status(manifest)

    async def create(self, manifest: Json) -> bool:
        """See Writer."""
        return await self._ask().create(manifest)

    async def change(self, kind: Kind, namespace: str, name: str, patch: Json) -> Json:
        """See Writer."""
        return await self._ask().change(kind, namespace, name, patch)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """See Writer."""
        await self._ask().delete(kind, namespace, name, uid)

    async def evict(self, namespace: str, pod: str, uid: str, *, only_ask: bool = False) -> None:
        """See Writer."""
        await self._ask().evict(namespace, pod, uid, only_ask=only_ask)

    async def push(self, address: str, token: str, table: bytes) -> None:
        """See Writer."""
        await self._ask().push(address, token, table)


async def _unless_gone(request: object) -> None:
    try:
        await request  # type: ignore[misc]  # a coroutine of Client
    except ApiError as error:
        # 409: the uid is another object's by now, so the one that was meant is gone.
        if not error.not_found and not error.conflict:
            raise
