"""Leader election by a Lease: of several operators one writes.

Invariant: two processes never believe to lead at once, as long as their clocks run at about the same speed: a holder
stops believing `RENEW_SECONDS` after the request that last renewed was *sent*, others wait `LEASE_SECONDS` from when
they *saw* the last renewal; clocks of different machines are never compared. Every take-over names the resource version
it saw. At a clean end the Lease is given back, and the next one leads within a second. The chart brings a Lease with
nothing in it, so that it goes with the release; one that nobody holds is taken, and one that is not there is made.

`kubernetes.aio.leaderelection` was looked at and not taken: it never gives a Lease back, a renewal that hangs keeps the
old leader believing, and it writes local times. Called by `main`; asked by `writer.Guarded` before every write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from mailarray_operator.cluster.client import ApiError, Client, Json
from mailarray_operator.cluster.kinds import LEASE

log = logging.getLogger(__name__)

LEASE_SECONDS = 15.0  # the defaults of Kubernetes' own controllers
RENEW_SECONDS = 10.0
RETRY_SECONDS = 2.0
ASK_SECONDS = 1.0  # how often a follower looks; a Lease that was given back is taken within it
REQUEST_SECONDS = 4.0


class Lease:
    """See the module. `changed` is called with True and False as leading begins and ends."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        changed: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace, self._name, self._identity = namespace, name, identity
        self._changed = changed
        self._clock = clock
        self._until = 0.0  # we lead until then
        self._told = False
        self._seen: tuple[Any, float] = (None, 0.0)  # the last renewal seen of another, and when
        self._problem = ""

    def leading(self) -> bool:
        """Whether this process may write now."""
        return self._clock() < self._until

    async def run(self) -> None:
        """Until cancelled; then gives the Lease back."""
        try:
            while True:
                sent = self._clock()
                try:
                    async with asyncio.timeout(REQUEST_SECONDS):
                        if await self._acquire_or_renew():
                            self._until = sent + RENEW_SECONDS
                    self._problem = ""
                except (ApiError, TimeoutError) as error:
                    self._report(str(error) or "the API server does not answer")
                self._tell()
                await self._pause()
        finally:
            await asyncio.shield(self._release())

    async def _pause(self) -> None:
        """Until the next look; a Lease that runs out meanwhile is told at that moment."""
        pause = RETRY_SECONDS if self.leading() else ASK_SECONDS
        left = self._until - self._clock()
        if 0 < left < pause:
            await asyncio.sleep(left)
            self._tell()
            pause -= left
        await asyncio.sleep(pause)

    def _tell(self) -> None:
        leading = self.leading()
        if leading != self._told:
            self._told = leading
            log.info(
                "leading" if leading else "not leading any more",
                extra={"lease": self._name, "identity": self._identity},
            )
            self._changed(leading)

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.warning("the Lease cannot be had or renewed", extra={"lease": self._name, "reason": problem})

    async def _acquire_or_renew(self) -> bool:
        try:
            lease = await self._client.get(LEASE.path(self._namespace, self._name))
        except ApiError as error:
            if not error.not_found:
                raise
            return await self._create()
        spec: Json = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder and holder != self._identity:
            renewal = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
            if renewal != self._seen[0]:
                self._seen = (renewal, self._clock())
            if self._clock() < self._seen[1] + float(spec.get("leaseDurationSeconds") or LEASE_SECONDS):
                return False
        ours = holder == self._identity
        now = _now()
        wanted = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(LEASE_SECONDS),
            "acquireTime": (spec.get("acquireTime") if ours else None) or now,
            "renewTime": now,
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (not ours),
        }
        return await self._replace({**lease, "spec": wanted})

    async def _create(self) -> bool:
        now = _now()
        lease = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(LEASE_SECONDS),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }
        try:
            await self._client.post(LEASE.path(self._namespace), lease)
        except ApiError as error:
            if error.conflict:
                return False
            raise
        return True

    async def _replace(self, lease: Json) -> bool:
        try:
            await self._client.put(LEASE.path(self._namespace, self._name), lease)
        except ApiError as error:
            if error.conflict:  # somebody was faster; the next look tells who
                return False
            raise
        return True

    async def _release(self) -> None:
        """First stop, then say so."""
        held = self.leading()
        self._until = 0.0
        self._tell()
        if not held:
            return
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                lease = await self._client.get(LEASE.path(self._namespace, self._name))
                spec = lease.get("spec") or {}
                if spec.get("holderIdentity") == self._identity:
                    await self._replace({**lease, "spec": {**spec, "holderIdentity": "", "renewTime": _now()}})
        except (ApiError, TimeoutError) as error:
            log.info("the Lease runs out by itself", extra={"lease": self._name, "reason": str(error)})


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
