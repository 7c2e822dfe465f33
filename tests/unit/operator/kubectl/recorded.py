"""Resources as the Kubernetes API answers them: one MailCluster in several states."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]

VOLUMES = ["9f3c11aa22bb33cc44dd55ee66ff7788", "77ab11aa22bb33cc44dd55ee66ff7788", "0c5e11aa22bb33cc44dd55ee66ff7788"]
MESSAGE = "0196f0a1b2c3d4e5f60718293a4b5c6d"


def condition(type_: str, status: str, reason: str, message: str = "") -> Json:
    return {"type": type_, "status": status, "reason": reason, "message": message}


def cluster(name: str = "example", **changes: Any) -> Json:
    spec = {
        "domains": [{"name": "mail.example"}, {"name": "other.example"}],
        "accounts": {"database": {}},
        "storage": {"copies": 2, "spread": "Zone"},
        **changes.pop("spec", {}),
    }
    status = {
        "observedGeneration": 3,
        "conditions": [
            condition("Ready", "True", "Ready", "3 of 3 servers serve"),
            condition("Progressing", "False", "Stable"),
            condition("SpreadAsAsked", "True", "Spread"),
        ],
        "servers": {"desired": 3, "ready": 3},
        "mirroring": {"generation": 12, "servers": 3, "underReplicatedSegments": 0, "spread": "Zone"},
        "catalog": {"database": "example-catalog-database:5432"},
        **changes.pop("status", {}),
    }
    assert not changes
    return {
        "kind": "MailCluster",
        "metadata": {"name": name, "namespace": "mail", "generation": 3},
        "spec": spec,
        "status": status,
    }


def row(ordinal: int, group: str = "mail", **changes: Any) -> Json:
    mirrors = [f"{group}-{i}" for i in range(3) if i != ordinal]
    return {
        "name": f"{group}-{ordinal}",
        "volume": VOLUMES[ordinal % 3],
        "zone": f"eu-{ordinal + 1}",
        "node": f"node-{ordinal + 1}",
        "phase": "Serving",
        "mirrors": mirrors[:1],
        **changes,
    }


def group(
    name: str = "mail",
    replicas: int = 3,
    rows: list[Json] | None = None,
    conditions: list[Json] | None = None,
    cluster: str = "example",
    observed: int = 5,
) -> Json:
    return {
        "kind": "MailServer",
        "metadata": {"name": name, "namespace": "mail", "generation": 5},
        "spec": {"clusterRef": {"name": cluster}, "replicas": replicas},
        "status": {
            "observedGeneration": observed,
            "replicas": replicas,
            "conditions": [condition("Ready", "True", "Ready")] if conditions is None else conditions,
            "servers": [row(i, name) for i in range(replicas)] if rows is None else rows,
        },
    }


def items(*of: Json) -> str:
    return json.dumps({"kind": "List", "items": list(of)})


def pod(name: str, ready: bool = True, waiting: Json | None = None, **status: Any) -> Json:
    state = {"waiting": waiting} if waiting else {"running": {}}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "mail"},
        "spec": {"nodeName": "node-1"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{"name": "smtp", "state": state}, {"name": "catalog", "state": state}],
            **status,
        },
    }


def table() -> Json:
    servers = [
        {"name": f"mail-{i}", "sidecar": f"mail-{i}:2520", "writer": f"mail-{i}:2510", "zone": f"eu-{i + 1}",
         "node": f"node-{i + 1}", "state": "Draining" if i == 2 else "Serving"} for i in range(3)
    ]  # fmt: skip
    rows = {"mail-0": [[1], [2]], "mail-1": [["mail-0"]], "mail-2": []}
    content = json.dumps({"generation": 12, "servers": servers, "rows": rows})
    return {"kind": "ConfigMap", "data": {"mirroring-table.json": content}}


def server_status(ordinal: int, **changes: Any) -> str:
    """What `mailarray server-status` says in a pod."""
    name = f"mail-{ordinal}"
    writer = {
        "server": name,
        "mirrors": [
            {"server": f"mail-{1 - ordinal if ordinal < 2 else 0}", "state": "InSync", "in_use": True, "error": ""}
        ],
        "table_generation": 12,
        "refusing": None,
        **changes.pop("writer", {}),
    }
    sidecar = {
        "server": name,
        "catalog": {"state": "up", "epoch": 1, "open": True},
        "disk_free": (ordinal + 1) << 33,
        "lag_bytes": 0,
        **changes.pop("sidecar", {}),
    }
    return json.dumps({"server": name, "writer": writer, "sidecar": sidecar, "errors": {}, **changes})


def located(**changes: Any) -> str:
    holders = [
        {"server": "mail-0", "volume": VOLUMES[0], "role": "writer", "lost": False, "retired": False},
        {"server": "mail-1", "volume": VOLUMES[1], "role": "mirror", "lost": False, "retired": False},
    ]
    place = {"segment": "0196f0a1b2c3aaaabbbbccccddddeeee", "offset": 4096, "sealed": True, "copies": 2,
             "superseded": False, "holders": holders}  # fmt: skip
    return json.dumps(
        {
            "catalog_open": True,
            "message": MESSAGE,
            "received_at": "2026-05-21T08:09:10.123Z",
            "sender": "ann@far.example",
            "size": 4321,
            "mailboxes": [{"mailbox": "bob@mail.example", "uid": 17, "uidl": f"{MESSAGE}.0"}],
            "deleted_from": ["carol@mail.example"],
            "places": [place],
            **changes,
        }
    )
