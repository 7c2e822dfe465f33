"""Each volume of a server is asked in its own container, and known by its own name."""

from __future__ import annotations

import json
from typing import Any

import click

from mailarray_operator.kubectl.array import Pod, ServerRow, _pod
from mailarray_operator.kubectl.asking import ask
from mailarray_operator.kubectl.servers import notes


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
