"""The plan of the MX records in its ConfigMap, for an operator that starts or takes over. Called by the steering.

Read from the API server itself and not from what is watched: whoever led before may have written a moment ago. What
cannot be read counts as not there; then all servers start alike, which is safe.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from mailarray_operator.api import names
from mailarray_operator.cluster import metrics
from mailarray_operator.cluster.client import ApiError
from mailarray_operator.cluster.endpoints import Reads
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.kinds import CONFIG_MAP
from mailarray_operator.cluster.writer import Writer
from mailarray_operator.mx import MxPlan, dump, load


@dataclass(frozen=True, slots=True)
class Kept:
    """What the next operator goes on from."""

    servers: MxPlan | None
    access: MxPlan | None
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by server

    def worth_keeping(self) -> object:
        """What must not be lost: where everybody stands. What moves with every report is not worth a write."""
        both = [(made.ttl, made.targets) if made is not None else None for made in (self.servers, self.access)]
        return (*both, dict(self.addresses))


async def read(reads: Reads, key: Key) -> Kept | None:
    """None: there was no operator before. Raises ApiError."""
    try:
        found = await reads.get(CONFIG_MAP.path(key[0], names.mx_plan(key[1])))
    except ApiError as error:
        if error.not_found:
            return None
        raise
    data = found.get("data") or {}
    addresses: dict[str, tuple[str, ...]] = {}
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        kept = json.loads(data.get(names.FILE_MX_ADDRESSES, "{}"))
        addresses = {str(server): tuple(map(str, there)) for server, there in kept.items()}
    return Kept(load(data.get(names.FILE_MX_SERVERS, "")), load(data.get(names.FILE_MX_ACCESS, "")), addresses)


async def write(writer: Writer, key: Key, kept: Kept) -> None:
    """Raises ApiError, NotLeader."""
    data = {names.FILE_MX_ADDRESSES: json.dumps(dict(kept.addresses), sort_keys=True)}
    for file, made in ((names.FILE_MX_SERVERS, kept.servers), (names.FILE_MX_ACCESS, kept.access)):
        if made is not None:
            data[file] = dump(made)
    labels = {names.LABEL_CLUSTER: key[1], names.LABEL_MANAGED_BY: names.FIELD_MANAGER}
    metadata = {"name": names.mx_plan(key[1]), "namespace": key[0], "labels": labels}
    await writer.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    metrics.WRITES.labels(CONFIG_MAP.name).inc()
