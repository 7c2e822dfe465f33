"""The network of a box: a switch, nodes around it, and a leg into the machine's own network.

    machine 10.99.0.253 --leg--+
                               |
    [ switch: br0 10.99.0.254 ]+-- node-1 10.99.0.1, pods 10.244.1.0/24
      control plane, DNS       +-- node-2 10.99.0.2, pods 10.244.2.0/24
      public DNS 10.99.0.252   +-- node-3 10.99.0.3, pods 10.244.3.0/24

Each box is a network namespace for the switch and one for each node. The leg lets tests, kubectl and mail clients of
the machine reach the API server, pods and Services (10.96.0.0/16) by plain routes; nothing is forwarded out of the box
in the other direction, and the switch has no default route, so a box has no way to the outside. Routes between nodes
are direct, so replies take the way of the question and connection tracking sees both.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

from tests.e2e.box.machine import BoxError, run

SWITCH_ADDRESS = "10.99.0.254"
MACHINE_ADDRESS = "10.99.0.253"
NAME_SERVER_ADDRESS = "10.99.0.252"  # of the switch as well, since its port 53 has to be free
POD_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
_NAMESPACES = Path("/run/netns")
_FORWARDING = "net.ipv4.ip_forward=1"


def node_address(index: int) -> str:
    """Address of the node with that index; indexes count from 1."""
    return f"10.99.0.{index}"


def pod_network(index: int) -> str:
    """Addresses of the pods on that node."""
    return f"10.244.{index}.0/24"


class Network:
    """Namespaces and links of the box with that id."""

    def __init__(self, box: str, nodes: int) -> None:
        self._prefix = f"mailarray-box-{box}-"
        self._nodes = nodes
        self._leg = f"mbox-{box}"
        self.switch = self._prefix + "switch"

    def node(self, index: int) -> str:
        """Name of a node's namespace."""
        return f"{self._prefix}node-{index}"

    def enter(self, namespace: str) -> list[str]:
        """Words before a command that runs it in a namespace, with /sys left as it is (unlike `ip netns exec`)."""
        return ["nsenter", f"--net={_NAMESPACES / namespace}", "--"]

    def up(self) -> None:
        """Make everything; `down` first if anything was there."""
        if taken := [line for line in run("ip", "-4", "route").splitlines() if "10.99.0." in line]:
            raise BoxError(f"another box uses 10.99.0.0/24 ({taken[0].strip()}); take it down first (make box-down)")
        commands = [f"netns add {name}" for name in (self.switch, *map(self.node, self._indexes()))]
        self._ip(None, *commands)
        self._sysctl(self.switch)
        self._ip(
            self.switch,
            "link set lo up",
            "link add br0 type bridge",
            f"address add {SWITCH_ADDRESS}/24 dev br0",
            f"address add {NAME_SERVER_ADDRESS}/32 dev br0",
            "link set br0 up",
        )
        for index in self._indexes():
            name = self.node(index)
            self._sysctl(name)
            self._ip(None, f"link add node-{index} netns {self.switch} type veth peer name eth0 netns {name}")
            self._ip(self.switch, f"link set node-{index} master br0 up")
            self._ip(name, "link set lo up", f"address add {node_address(index)}/24 dev eth0", "link set eth0 up")
        self._ip(None, f"link add {self._leg} type veth peer name machine netns {self.switch}")
        self._ip(self.switch, "link set machine master br0 up")
        self._ip(None, f"address add {MACHINE_ADDRESS}/24 dev {self._leg}", f"link set {self._leg} up")
        self._routes()

    def down(self) -> None:
        """Remove everything, also what only half came up."""
        with contextlib.suppress(BoxError):
            run("ip", "link", "delete", self._leg)
        for path in sorted(_NAMESPACES.glob(self._prefix + "*")):
            run("ip", "netns", "delete", path.name)

    def cut(self, index: int) -> None:
        """Unplug a node: it runs on, and reaches nobody."""
        self._ip(self.switch, f"link set node-{index} down")

    def heal(self, index: int) -> None:
        """Plug a node in again."""
        self._ip(self.switch, f"link set node-{index} up")
        self._routes()

    def forget_pods(self, index: int) -> None:
        """Remove the links that a node's dead pods left, as its next boot does: their routes would be in the way of new
        pods with the same addresses, and go with the links later."""
        name = self.node(index)
        links = json.loads(run("ip", "-netns", name, "-json", "link", "show", "type", "veth"))
        if left := [link["ifname"] for link in links if link["ifname"] != "eth0"]:
            self._ip(name, *(f"link delete {link}" for link in left))

    def _routes(self) -> None:
        indexes = self._indexes()
        for here in (None, self.switch, *map(self.node, indexes)):
            routes = [
                f"route replace {pod_network(index)} via {node_address(index)}"
                for index in indexes
                if here != self.node(index)
            ]
            if here is None:
                routes.append(f"route replace {SERVICE_NETWORK} via {SWITCH_ADDRESS}")
            elif here != self.switch:
                routes.append(f"route replace default via {SWITCH_ADDRESS}")
            self._ip(here, *routes)

    def _indexes(self) -> range:
        return range(1, self._nodes + 1)

    def _sysctl(self, namespace: str) -> None:
        subprocess.run([*self.enter(namespace), "sysctl", "-qw", _FORWARDING], check=True, capture_output=True)

    def _ip(self, namespace: str | None, *commands: str) -> None:
        where = ["-netns", namespace] if namespace else []
        run("ip", *where, "-batch", "-", stdin="\n".join(commands) + "\n")


def names(box: str) -> list[str]:
    """Namespaces that the box with that id has."""
    return sorted(path.name for path in _NAMESPACES.glob(f"mailarray-box-{box}-*"))
