"""Each volume of a server is asked in its own container, and known by its own name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from mailarray_operator.kubectl.array import Pod, ServerRow, _pod
from mailarray_operator.kubectl.asking import ask
from mailarray_operator.kubectl.servers import notes
from tests.unit.operator.kubectl import recorded
from tests.unit.operator.kubectl.conftest import Play, Theatre

Golden = Callable[[str], None]


class FakeKubectl:
    def execute(self, pod: str, container: str, command: list[str]) -> str:
        if container == "catalog-2":
            raise click.ClickException("the container does not run")
        return json.dumps({"sidecar": {"by": container, "settings": command[-1]}, "writer": {"refusing": None}})


def test_volumes_are_asked_one_by_one() -> None:
    pod = Pod("mail-0", "node", True, True, "", 3)
    nobody: Any = FakeKubectl()
    answers = ask(nobody, [pod])
    assert list(answers) == ["mail-0", "mail-0.1", "mail-0.2"]
    assert answers["mail-0"].sidecar == {"by": "catalog", "settings": "/etc/mailarray/settings/server.json"}
    assert answers["mail-0.1"].sidecar == {"by": "catalog-1", "settings": "/etc/mailarray/settings/server-1.json"}
    row = ServerRow("mail", "mail-0", "Serving", None, "", "", "node", "", (), "")
    told = [text.plain for text in notes([row], {"mail-0": pod}, answers)]
    assert len(told) == 1 and "mail-0.2" in told[0] and "the container does not run" in told[0]


def test_volumes_are_counted_by_the_containers_of_a_pod() -> None:
    names = ["smtp", "catalog", "smtp-1", "catalog-1"]
    status = {"containerStatuses": [{"name": name, "state": {"running": {}}} for name in names]}
    assert _pod({"metadata": {"name": "mail-0"}, "status": status}).volumes == 2
    assert _pod({"metadata": {"name": "mail-0"}, "status": {}}).volumes == 1


def several() -> list[Play]:
    """mail-0 is whole, mail-1 has a broken second volume."""
    why = "the volume /var/lib/mailarray/volume-1 cannot be used: Input/output error"
    sentence = f"its volume mail-1.1 is broken ({why}), and its other volumes serve; mend its disk"
    broken = recorded.condition("VolumesBroken", "True", "VolumeBroken", f"mail-1: {sentence}")
    degraded = recorded.condition("Degraded", "True", "VolumeBroken", f"mail-1: {sentence}")
    ready = recorded.condition("Ready", "True", "Ready", "2 servers and 2 access servers are ready")
    rows = [
        recorded.row(0, volume=",".join(recorded.VOLUMES[:2])),
        recorded.row(1, volume=f"{recorded.VOLUMES[2]},0dead0", message=sentence,
                     brokenVolumes=[{"name": "mail-1.1", "reason": why}]),
    ]  # fmt: skip
    pods = []
    for name in ("mail-0", "mail-1"):
        pod = recorded.pod(name, ready=name == "mail-0")
        states = pod["status"]["containerStatuses"]
        pod["status"]["containerStatuses"] = [*states, *({**one, "name": f"{one['name']}-1"} for one in states)]
        pods.append(pod)
    gone = 'error: unable to upgrade connection: container not found ("catalog-1")\n'
    status = "mailarray server-status --settings /etc/mailarray/settings"
    return [
        (r"get mailclusters\S+,mailservers",
         recorded.items(recorded.cluster(status={"conditions": [ready, degraded]}),
                        recorded.group(replicas=2, rows=rows, conditions=[ready, broken]))),
        (r"get pods", recorded.items(*pods)),
        (f"exec mail-0 -c catalog -- {status}/server.json", recorded.server_status(0, sidecar={"lag_bytes": 1 << 20})),
        (f"exec mail-0 -c catalog-1 -- {status}/server-1.json",
         recorded.server_status(0, sidecar={"lag_bytes": 3 << 20})),
        (f"exec mail-1 -c catalog -- {status}/server.json", recorded.server_status(1)),
        (f"exec mail-1 -c catalog-1 -- {status}/server-1.json", "", gone, 1),
    ]  # fmt: skip


def test_servers_with_several_volumes(theatre: Theatre, golden: Golden) -> None:
    theatre.record(*several())
    golden(theatre.run("servers"))


def test_status_with_a_broken_volume(theatre: Theatre, golden: Golden) -> None:
    theatre.record(*several())
    golden(theatre.run("status"))


def test_sums_and_each_volume_as_json(theatre: Theatre) -> None:
    theatre.record(*several())
    rows = json.loads("\n".join(theatre.run("servers", "-o", "json").splitlines()[1:-1]))
    assert rows[0]["totals"] == {"disk_free": 2 << 33, "lag_bytes": 4 << 20}
    assert [volume["name"] for volume in rows[0]["volumes"]] == ["mail-0", "mail-0.1"]
    assert rows[0]["sidecar"]["lag_bytes"] == 1 << 20
    assert rows[1]["totals"] == {"disk_free": 2 << 33, "lag_bytes": 0}
    assert rows[1]["volumes"][1]["error"] and rows[1]["volumes"][1]["volume"] == "0dead0"
