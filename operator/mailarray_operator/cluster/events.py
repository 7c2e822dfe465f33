"""Events for people: `kubectl describe` shows them.

The same event of the same object is posted once an hour at most, also by another operator that takes over: its name is
made of what it says and of the hour. A failure to post one is logged and forgotten. Called by the applier.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from mailarray_operator.api import names
from mailarray_operator.cluster.client import ApiError
from mailarray_operator.cluster.kinds import EVENT
from mailarray_operator.cluster.trim import digest
from mailarray_operator.cluster.writer import Writer
from mailarray_operator.plan.decisions import Event

log = logging.getLogger(__name__)

REPEAT_SECONDS = 3600
MAX_NOTE = 1000  # characters; the API server takes 1024 bytes
_ACTIONS = {"Normal": "Reconciled", "Warning": "Refused"}


class Poster:
    """See the module."""

    def __init__(self, writer: Writer, instance: str) -> None:
        self._writer = writer
        self._instance = instance
        self._posted: set[str] = set()
        self._hour = 0

    async def post(self, namespace: str, uid: str, event: Event, now: float) -> None:
        """Post it, unless it was; `now` is seconds since 1970. Raises NotLeader."""
        hour = int(now // REPEAT_SECONDS)
        if hour != self._hour:
            self._hour = hour
            self._posted.clear()
        said = digest([namespace, uid, event.kind, event.name, event.reason, event.message, hour])
        if said in self._posted:
            return
        try:
            await self._writer.create(_render(namespace, uid, event, said, now, self._instance))
        except ApiError as error:
            log.info("event not posted", extra={"reason": error.message, "event": event.reason, "of": event.name})
            return
        self._posted.add(said)


def _render(namespace: str, uid: str, event: Event, said: str, now: float, instance: str) -> dict[str, object]:
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.name,
        "metadata": {"name": f"{event.name}.{said}", "namespace": namespace},
        "eventTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"{names.GROUP}/operator",
        "reportingInstance": instance[:128],
        "action": _ACTIONS[event.type],
        "reason": event.reason,
        "type": event.type,
        "note": event.message[:MAX_NOTE],
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": event.kind,
            "name": event.name,
            "namespace": namespace,
            "uid": uid,
        },
    }
