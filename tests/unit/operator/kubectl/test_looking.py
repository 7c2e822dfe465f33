"""status, servers and mirrors: transcripts of what a person sees, against a pretended kubectl."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.unit.operator.kubectl import recorded
from tests.unit.operator.kubectl.conftest import Play, Theatre

Golden = Callable[[str], None]

RESOURCES, PODS = r"get mailclusters\S+,mailservers", r"get pods"


def asked(ordinal: int, **changes: Any) -> Play:
    return rf"exec mail-{ordinal} -c catalog -- mailarray server-status", recorded.server_status(ordinal, **changes)


def whole() -> list[Play]:
    return [
        (RESOURCES, recorded.items(recorded.cluster(), recorded.group())),
        (PODS, recorded.items(*(recorded.pod(f"mail-{i}") for i in range(3)))),
        ("get configmap example-mirroring-table", json.dumps(recorded.table())),
        *(asked(i) for i in range(3)),
    ]


def troubled() -> list[Play]:
    sick = recorded.cluster(
        status={
            "conditions": [
                recorded.condition("Ready", "False", "ServersNotReady", "2 of 3 servers serve; mail-1 is lost"),
                recorded.condition("Degraded", "True", "ServerLost", "mail-1 does not answer"),
                recorded.condition("SpreadAsAsked", "False", "SpreadNotPossible", "all nodes are in one zone"),
            ],
            "servers": {"desired": 3, "ready": 2},
            "mirroring": {"generation": 13, "servers": 3, "underReplicatedSegments": 4, "spread": "Node",
                          "timeLeft": "1h30m"},
        }
    )  # fmt: skip
    rows = [
        recorded.row(0),
        recorded.row(1, phase="Lost", mirrors=[], node="", message="no word from it for 3 minutes; see to node node-2"),
        recorded.row(2, phase="Draining", progress=42, timeLeft="25m", mirrors=[]),
    ]
    refused = recorded.condition(
        "Draining", "False", "WouldLoseCopies", "scaling mail to 1 would leave 1 server; nothing is stopped"
    )
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off 10s"}
    return [
        (RESOURCES, recorded.items(sick, recorded.group(rows=rows, conditions=[refused]))),
        (
            PODS,
            recorded.items(
                recorded.pod("mail-0"), recorded.pod("mail-1", ready=False, waiting=waiting), recorded.pod("mail-2")
            ),
        ),
        ("get configmap", json.dumps(recorded.table())),
        asked(0, sidecar={"catalog": {"state": "away", "open": False}, "lag_bytes": 5000}),
        asked(2, writer={"refusing": "Insufficient storage", "table_generation": 11,
                         "mirrors": [{"server": "mail-0", "state": "Failed", "in_use": False, "error": "timed out"}]}),
    ]  # fmt: skip


def test_status_when_all_is_well(theatre: Theatre, golden: Golden) -> None:
    theatre.record(*whole())
    golden(theatre.run("status"))
    assert sum("exec" in call["line"] for call in theatre.calls) == 1  # one server is enough


def test_status_in_trouble(theatre: Theatre, golden: Golden) -> None:
    theatre.record(*troubled())
    golden(theatre.run("status"))


def test_status_as_json(theatre: Theatre) -> None:
    theatre.record(*whole())
    transcript = theatre.run("status", "-o", "json").splitlines()
    answer = json.loads("\n".join(transcript[1:-1]))["clusters"][0]
    assert (answer["name"], answer["ready"], answer["first"]) == ("example", True, [])
    assert answer["catalog"] == {"state": "up", "epoch": 1, "open": True}


def test_status_of_all_namespaces(theatre: Theatre, golden: Golden) -> None:
    other = recorded.cluster("second", spec={"paused": True}, status={"conditions": [], "observedGeneration": 0})
    theatre.record((f"{RESOURCES}.*--all-namespaces", recorded.items(recorded.cluster(), recorded.group(), other)))
    golden(theatre.run("status", "-A"))


def test_status_of_several_clusters_and_an_orphan(theatre: Theatre, golden: Golden) -> None:
    second = recorded.cluster("second", spec={"accounts": {"secretRef": {"name": "accounts"}}})
    groups = recorded.group(), recorded.group("left", 1, cluster="gone")
    theatre.record((RESOURCES, recorded.items(recorded.cluster(), second, *groups)), *whole()[1:])
    golden(theatre.run("status"))


def test_status_without_the_right_to_execute(theatre: Theatre, golden: Golden) -> None:
    refused = (
        'Error from server (Forbidden): pods is forbidden: User "ann" cannot list resource "pods" in API group ""'
        ' in the namespace "mail"\n'
    )
    theatre.record(whole()[0], (PODS, "", refused, 1))
    golden(theatre.run("status"))


def test_servers_when_all_is_well(theatre: Theatre, golden: Golden) -> None:
    theatre.record(*whole())
    golden(theatre.run("servers"))


def test_servers_in_trouble(theatre: Theatre, golden: Golden) -> None:
    theatre.record(*troubled())
    golden(theatre.run("servers"))


def test_servers_that_no_status_names_yet(theatre: Theatre, golden: Golden) -> None:
    theatre.record((RESOURCES, recorded.items(recorded.cluster(), recorded.group(rows=[]))), *whole()[1:])
    golden(theatre.run("servers", "--no-ask"))
    assert not any("exec" in call["line"] for call in theatre.calls)


def test_servers_as_json_carry_what_they_say_themselves(theatre: Theatre) -> None:
    theatre.record(*troubled())
    rows = json.loads("\n".join(theatre.run("servers", "-o", "json").splitlines()[1:-1]))
    assert [row["name"] for row in rows] == ["mail-0", "mail-1", "mail-2"]
    assert rows[0]["sidecar"]["lag_bytes"] == 5000 and rows[0]["error"] == ""
    assert rows[1]["writer"] is None
    assert rows[1]["error"] == "container smtp is in CrashLoopBackOff: back-off 10s"


def test_mirrors(theatre: Theatre, golden: Golden) -> None:
    theatre.record(*troubled())
    golden(theatre.run("mirrors"))


def test_mirrors_as_json(theatre: Theatre) -> None:
    theatre.record(*whole())
    answer = json.loads("\n".join(theatre.run("mirrors", "-o", "json").splitlines()[1:-1]))
    assert answer["generation"] == 12
    first = answer["servers"][0]
    assert first["classes"] == [["mail-1"], ["mail-2"]] and first["mirrors"][0]["state"] == "InSync"


def test_mirrors_before_the_first_table(theatre: Theatre) -> None:
    missing = 'Error from server (NotFound): configmaps "example-mirroring-table" not found\n'
    theatre.record(*whole()[:2], ("get configmap", "", missing, 1))
    assert "stderr: kubectl mailarray: example has no mirroring table yet; the operator makes it" in theatre.run(
        "mirrors"
    )
