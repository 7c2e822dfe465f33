"""DNS as the world outside sees it: PowerDNS answers for the tests' zones, and ExternalDNS fills them.

    DNSEndpoint --> ExternalDNS --HTTP--> PowerDNS <-- forward -- CoreDNS <-- pods
                                          10.99.0.252:53 <-- tests

Each is a process in the switch, in a control group of its own, so that a test can end one and start it again. What
PowerDNS holds survives that: its database is a file, which goes with the box. Nothing is cached on the way, so an
answer is what is published now. ExternalDNS removes what is no longer asked for (policy `sync`).
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sqlite3
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.box import network, processes
from tests.e2e.box.binaries import Binaries
from tests.e2e.box.cgroups import Group
from tests.e2e.box.control_plane import answers
from tests.e2e.box.machine import BoxError

ZONES = ("mail.example", "other.example", "by-hand.example")
READY_SECONDS = 30
BINARY = "external-dns"
INTERVAL = "5s"  # of ExternalDNS; a changed DNSEndpoint is looked at within as much
_SCHEMA = Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql")
_API = f"http://{network.NAME_SERVER_ADDRESS}:8081"
_KEY = "box"  # the API is reached from the box and this machine only
_METRICS = f"{network.SWITCH_ADDRESS}:7979"
_FLAGS = (
    "--source=crd",
    "--provider=pdns",
    f"--pdns-server={_API}",
    f"--pdns-api-key={_KEY}",
    *(f"--managed-record-types={kind}" for kind in ("MX", "A", "AAAA")),
    "--policy=sync",
    "--registry=txt",
    "--txt-owner-id=box",
    "--txt-prefix=extdns-%{record_type}.",  # a TXT record of the domain's own name would stand beside SPF
    f"--interval={INTERVAL}",
    "--events",
    f"--metrics-address={_METRICS}",
)


class PowerDns:
    """The name server of ZONES, `ns.<zone>`."""

    def __init__(self, folder: Path, log: Path, group: Group, enter: Sequence[str]) -> None:
        self._folder = folder
        self._log = log
        self._group = group
        self._enter = enter

    def start(self) -> None:
        """Start it, with the records that it had."""
        if not (server := shutil.which("pdns_server", path="/usr/sbin:/usr/bin")):
            raise BoxError("pdns_server is not installed: install Debian's package pdns-server")
        self._group.make()
        self._settle()
        command = (server, f"--config-dir={self._folder}")
        process = processes.start("PowerDNS", command, log=self._log, group=self._group, enter=self._enter)
        process.wait_for(self._answers, "answering", READY_SECONDS)
        there = {zone["name"] for zone in self._call("GET", "zones")}
        for zone in ZONES:
            if f"{zone}." not in there:
                self._call("POST", "zones", _zone(zone))

    def kill(self) -> None:
        """End it; its records stay."""
        self._group.kill()

    def remove(self) -> None:
        """Forget the records."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            self._call("GET", "zones")
            return True
        return False

    def _settle(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        database = self._folder / "records.sqlite3"
        if not database.exists():
            connection = sqlite3.connect(database)
            connection.executescript(_SCHEMA.read_text())
            connection.close()
        settings = {
            "launch": "gsqlite3",
            "gsqlite3-database": database,
            "gsqlite3-pragma-synchronous": 0,
            "local-address": network.NAME_SERVER_ADDRESS,
            "api": "yes",
            "api-key": _KEY,
            "webserver-address": network.NAME_SERVER_ADDRESS,
            "webserver-allow-from": "10.99.0.0/24",
            "socket-dir": self._folder,
            "cache-ttl": 0,
            "query-cache-ttl": 0,
            "negquery-cache-ttl": 0,
            "zone-cache-refresh-interval": 0,
            "security-poll-suffix": "",  # or it asks its makers for news
            "disable-syslog": "yes",
            "write-pid": "no",
        }
        (self._folder / "pdns.conf").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    def _call(self, method: str, path: str, body: object = None) -> list[dict[str, str]]:
        data = json.dumps(body).encode() if body else None
        headers = {"X-API-Key": _KEY, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{_API}/api/v1/servers/localhost/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            found = json.load(response)
        return found if isinstance(found, list) else [found]


class ExternalDns:
    """The controller that makes records of DNSEndpoints."""

    def __init__(self, tools: Binaries, kubeconfig: Path, log: Path, group: Group, enter: Sequence[str]) -> None:
        self._tools = tools
        self._kubeconfig = kubeconfig
        self._log = log
        self._group = group
        self._enter = enter

    @property
    def crd(self) -> str:
        """The DNSEndpoint's definition, of the same version."""
        return (self._tools[BINARY].parent / "dnsendpoints.externaldns.k8s.io.yaml").read_text()

    def start(self) -> None:
        """Start it; the CRD must be there."""
        self._group.make()
        command = shlex.join([str(self._tools[BINARY]), *_FLAGS, f"--kubeconfig={self._kubeconfig}"])
        # It ends at errors that it takes for lasting; a kubelet would start it again.
        loop = ("sh", "-c", f"while :; do {command}; sleep 1; done")
        process = processes.start("ExternalDNS", loop, log=self._log, group=self._group, enter=self._enter)
        process.wait_for(lambda: answers(f"http://{_METRICS}/healthz"), "answering", READY_SECONDS)

    def kill(self) -> None:
        """End it; what it made stays in PowerDNS."""
        self._group.kill()


def _zone(name: str) -> dict[str, object]:
    """A zone with nothing but its name server; answers that there is no record live for a second."""
    own = f"ns.{name}."

    def records(owner: str, kind: str, content: str) -> dict[str, object]:
        return {"name": owner, "type": kind, "ttl": 60, "records": [{"content": content, "disabled": False}]}

    return {
        "name": f"{name}.",
        "kind": "Native",
        "rrsets": [
            records(f"{name}.", "SOA", f"{own} hostmaster.{name}. 1 3600 600 86400 1"),
            records(f"{name}.", "NS", own),
            records(own, "A", network.NAME_SERVER_ADDRESS),
        ],
    }
