"""From outside: the sender's own address is in Received, and processes listen on their own ports only."""

from __future__ import annotations

import json
import smtplib

from mailarray_operator.api import names
from tests.e2e.cluster import Cluster
from tests.e2e.installation import ALICE, GROUP, Installation

LISTENS = {
    names.SERVER: {names.PORT_SMTP, names.PORT_WRITER, names.PORT_SIDECAR},
    names.ACCESS: {names.PORT_POP3, names.PORT_ACCESS},
    names.DATABASE: {names.PORT_POSTGRESQL},
}


def test_the_senders_address_is_in_received(installation: Installation, cluster: Cluster) -> None:
    assert cluster.box
    array = installation.array

    def expose(kind: str) -> None:
        patch = json.dumps({"spec": {"expose": {"type": kind}}})
        array.kubectl("patch", "mailserver", GROUP, "--type=merge", "-p", patch)

    before = installation.pods()
    expose("NodePort")
    server = names.server(GROUP, 0)
    array.wait_for(lambda: array.get("service", server), "the Service of a server", 30)
    service = array.get("service", server)["spec"]
    assert service["externalTrafficPolicy"] == "Local"
    pod = array.get("pod", server)
    client = array.wait_for(lambda: _connect(pod["status"]["hostIP"], service["ports"][0]["nodePort"]), "the port", 20)
    with client:
        client.sendmail("bob@elsewhere.example", ALICE, "Subject: from outside\r\n\r\nHello.\r\n")
        own, _ = client.sock.getsockname()[:2] if client.sock else ("", 0)
    assert own
    text = installation.message_of_alice("from outside")
    assert f"([{own}])" in text, text
    assert installation.pods() == before, "exposing restarted servers"
    expose("ClusterIP")
    array.wait_for(lambda: f"service/{server}\n" not in array.kubectl("get", "services", "-o", "name"), "it goes", 30)


def _connect(host: str, port: int) -> smtplib.SMTP | None:
    try:
        return smtplib.SMTP(host, port, timeout=10)
    except ConnectionRefusedError:  # the Service is there before the node knows it
        return None


def test_each_process_listens_on_its_own_ports_only(installation: Installation) -> None:
    array = installation.array
    for component, expected in LISTENS.items():
        selector = f"{names.LABEL_CLUSTER}={array.name},{names.LABEL_COMPONENT}={component}"
        for pod in array.get("pods", "-l", selector)["items"]:
            name = pod["metadata"]["name"]
            table = array.kubectl("exec", name, "--", "sh", "-c", "cat /proc/net/tcp /proc/net/tcp6")
            assert listening(table) == expected, name


def listening(table: str) -> set[int]:
    """Ports of /proc/net/tcp in state LISTEN (0A), loopback left out."""
    found = set()
    for line in table.splitlines():
        words = line.split()
        if len(words) > 3 and words[3] == "0A" and not words[1].startswith("0100007F"):
            found.add(int(words[1].rpartition(":")[2], 16))
    return found
