"""The DNSEndpoints of one MailCluster at the API server: applied when they differ, looked at now and then.

Invariants
- When the kind DNSEndpoint is not installed, that is a word for a condition and no error: it is tried again at leisure.
- Nothing is deleted but what this operator made for this very MailCluster, what the MailCluster does not ask for any
  more, and that only when the caller has a fresh plan to publish.
Called by the steering. DNSEndpoints are not watched: a watch of a kind that may not exist tells nothing for minutes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mailarray_operator.api import names
from mailarray_operator.cluster import metrics
from mailarray_operator.cluster.client import ApiError, Json
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.kinds import DNS_ENDPOINT
from mailarray_operator.cluster.trim import digest
from mailarray_operator.cluster.writer import Writer

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0  # after the API server refused


class Reads(Protocol):
    """What is read of the API server."""

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """An object or a list. Raises ApiError."""


@dataclass(frozen=True, slots=True)
class _There:
    uid: str
    generation: int
    read: int  # generation that ExternalDNS has read, by its own word


class Endpoints:
    """See the module."""

    def __init__(self, key: Key, reads: Reads, writer: Writer, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = key
        self._reads = reads
        self._writer = writer
        self._clock = clock
        self._applied: dict[str, tuple[str, int]] = {}  # name -> digest, generation
        self._not_before = 0.0
        self.there: dict[str, _There] = {}
        self.missing = False  # the kind is not installed
        self.refused = ""  # why one cannot be written

    @property
    def behind(self) -> tuple[str, ...]:
        """Those of ours whose latest generation ExternalDNS has not read."""
        late = [n for n, found in self.there.items() if n in self._applied and found.read < found.generation]
        return tuple(sorted(name for name in late if not name.endswith("-access-services")))  # it refuses that one

    async def apply(self, manifests: Sequence[Mapping[str, Any]]) -> bool:
        """Whether all of them stand as they are. Raises NotLeader."""
        due = [m for m in manifests if self._applied.get(m["metadata"]["name"], ("", 0))[0] != digest(m)]
        if not due:
            return True
        if self._clock() < self._not_before:
            return False
        first = await self._apply(due[0])  # when the kind is missing, one refusal says it for all
        rest = await asyncio.gather(*(self._apply(m) for m in due[1:])) if first is None else []
        problems = [error for error in (first, *rest) if error is not None]
        if not problems:
            self.missing, self.refused = False, ""
            return True
        self._judge(problems)
        return False

    async def _apply(self, manifest: Mapping[str, Any]) -> ApiError | None:
        name = manifest["metadata"]["name"]
        try:
            answer = await self._writer.apply(dict(manifest))
        except ApiError as error:
            return error
        metrics.WRITES.labels(DNS_ENDPOINT.name).inc()
        found = answer.get("metadata") or {}
        generation = int(found.get("generation") or 0)
        self._applied[name] = (digest(manifest), generation)
        before = self.there.get(name)
        self.there[name] = _There(found.get("uid", ""), generation, before.read if before is not None else 0)
        return None

    def _judge(self, problems: Iterable[ApiError]) -> None:
        """An API server that does not answer says nothing of DNSEndpoints."""
        answered = [error for error in problems if error.status]
        if not answered:
            return
        self._not_before = self._clock() + RETRY_SECONDS
        missing, refused = all(error.not_found for error in answered), answered[0].message
        if (missing, refused) != (self.missing, self.refused):
            log.info(
                "DNSEndpoints cannot be written",
                extra={"namespace": self._key[0], "cluster": self._key[1], "reason": refused},
            )
        self.missing, self.refused = missing, "" if missing else refused

    async def look(self) -> bool:
        """See what is there, so that what somebody changed is applied again; whether the API server answered."""
        selector = f"{names.LABEL_CLUSTER}={self._key[1]},{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"
        try:
            page = await self._reads.get(DNS_ENDPOINT.path(self._key[0]), {"labelSelector": selector})
        except ApiError as error:
            if error.not_found:
                self.missing, self.refused = True, ""
                self.there.clear()
                self._applied.clear()
            return False
        self.there = {
            item["metadata"]["name"]: _There(
                item["metadata"].get("uid", ""),
                int(item["metadata"].get("generation") or 0),
                int((item.get("status") or {}).get("observedGeneration") or 0),
            )
            for item in page.get("items") or ()
        }
        for name, (_, generation) in list(self._applied.items()):
            if name not in self.there or self.there[name].generation != generation:
                del self._applied[name]
        if self.missing:
            self.missing, self._not_before = False, 0.0
        return True

    async def prune(self, keep: Iterable[str]) -> None:
        """Delete those that the MailCluster does not ask for any more. Raises ApiError, NotLeader."""
        for name in sorted(self.there.keys() - set(keep)):
            log.info("a DNSEndpoint is not asked for any more", extra={"namespace": self._key[0], "object": name})
            await self._writer.delete(DNS_ENDPOINT, self._key[0], name, self.there[name].uid)
            del self.there[name]
            self._applied.pop(name, None)
