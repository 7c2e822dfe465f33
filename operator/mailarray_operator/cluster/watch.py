"""Follows one kind at the API server: a paged list, then a watch, for ever; a list again when the watch is too old.

Invariant: after every list, the sink has been told of each object that is there, and of each that is not any more; so a
sink never believes in what was deleted while nobody watched. Objects are handed over one by one and not kept: memory
is a page, whatever the size of the cluster. Refuses to give up: it backs off, and says once what is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from mailarray_operator.cluster.client import ApiError, Client, Json
from mailarray_operator.cluster.kinds import Kind

log = logging.getLogger(__name__)

PAGE = 100  # objects of a list held at once: 1 MiB of pods
FIRST_BACKOFF, MAX_BACKOFF = 0.5, 30.0  # seconds
PAUSE = 0.1  # seconds between two watches; nothing is missed meanwhile
FORBIDDEN_BACKOFF = 300.0  # seconds; a role changes rarely
WATCH_SECONDS = 300  # asked of the server, so that load spreads after one of several API servers was away

Sink = Callable[[Kind, Json, bool], None]  # kind, object, whether it is there


@dataclass(slots=True)
class Watch:
    """One kind in one namespace ("" for all); see the module."""

    client: Client
    kind: Kind
    namespace: str
    sink: Sink
    labels: str = ""  # selector
    fields: str = ""  # selector
    metadata_only: bool = False
    optional: bool = False  # a role may forbid it, or the kind may not exist: that counts as listed
    listed: asyncio.Event = field(default_factory=asyncio.Event)  # set after the first list
    _known: dict[tuple[str, str], None] = field(default_factory=dict)
    _problem: str = ""

    async def run(self) -> None:
        """Until cancelled."""
        backoff = FIRST_BACKOFF
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list()
                    self.listed.set()
                    self._solved()
                async for type, thing in self.client.watch(
                    self._path, self._query(version), metadata_only=self.metadata_only
                ):
                    version = thing["metadata"]["resourceVersion"]
                    backoff = FIRST_BACKOFF
                    self._solved()
                    if type != "BOOKMARK":
                        self._tell(thing, type != "DELETED")
                await asyncio.sleep(PAUSE)
            except ApiError as error:
                if error.gone:
                    version = ""
                    continue
                if self.optional and (error.forbidden or error.not_found):
                    self.listed.set()
                    self._report(error)
                    await asyncio.sleep(FORBIDDEN_BACKOFF)
                    continue
                if error.status not in (0, 429):
                    version = ""  # an answer that no continuing explains: begin anew
                self._report(error)
                await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
                backoff = min(backoff * 2, MAX_BACKOFF)

    def holds(self, key: tuple[str, str]) -> bool:
        """Whether an object (namespace, name) is there."""
        return key in self._known

    @property
    def _path(self) -> str:
        return self.kind.path(self.namespace)

    def _selectors(self) -> dict[str, str]:
        wanted = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {name: value for name, value in wanted.items() if value}

    def _query(self, version: str) -> dict[str, str]:
        return {
            **self._selectors(),
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS + random.randrange(WATCH_SECONDS)),
        }

    async def _list(self) -> str:
        gone = dict(self._known)
        token = ""
        while True:
            query = {**self._selectors(), "limit": str(PAGE), **({"continue": token} if token else {})}
            page = await self.client.get(self._path, query, metadata_only=self.metadata_only)
            for thing in page.get("items") or ():
                gone.pop(_key(thing), None)
                self._tell(thing, True)
            token = page["metadata"].get("continue", "")
            if not token:
                break
            await asyncio.sleep(0)  # a large list does not keep the rest of the process waiting
        for namespace, name in gone:
            self._tell({"metadata": {"namespace": namespace, "name": name}}, False)
        return str(page["metadata"]["resourceVersion"])

    def _tell(self, thing: Json, there: bool) -> None:
        if there:
            self._known[_key(thing)] = None
        else:
            self._known.pop(_key(thing), None)
        self.sink(self.kind, thing, there)

    def _report(self, error: ApiError) -> None:
        if error.message != self._problem:
            self._problem = error.message
            level = logging.INFO if self.optional and error.forbidden else logging.WARNING
            log.log(
                level,
                "cannot watch",
                extra={"kind": self.kind.name, "namespace": self.namespace, "reason": error.message},
            )

    def _solved(self) -> None:
        if self._problem:
            self._problem = ""
            log.info("watching again", extra={"kind": self.kind.name, "namespace": self.namespace})


def _key(thing: Json) -> tuple[str, str]:
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]
