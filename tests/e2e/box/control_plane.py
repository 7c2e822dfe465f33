"""The control plane: etcd, kube-apiserver, kube-controller-manager, and with nodes kube-scheduler.

In a box it runs in the switch's namespace. `bare` runs the first three on loopback, without root or nodes, for tests
that fake pods ready: Node objects may be made up there, since nothing removes what no kubelet reports. etcd does not
sync its files: no power cut of a node reaches it, and a cluster that lost its etcd is made anew.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.e2e.box import binaries, network, processes
from tests.e2e.box.cgroups import Group
from tests.e2e.box.keys import Keys
from tests.e2e.box.machine import BoxError, why_no_control_plane
from tests.e2e.box.processes import Process

READY_SECONDS = 60
NODE_GRACE = "20s"  # after which a silent node is NotReady; Kubernetes' own is 50 s
# Without kubelets nothing reports a Node, and nothing may therefore be taken from it. Faked pods are at addresses of
# the loopback network, which no endpoint may have: controllers of endpoints would be refused again and again.
_BARE_CONTROLLERS = ",".join((
    "*", "-node-lifecycle-controller", "-pod-garbage-collector-controller", "-node-ipam-controller",
    "-endpoints-controller", "-endpointslice-controller",
))  # fmt: skip


class ControlPlane:
    """One control plane, on one address. `ports`: API server, etcd's clients, etcd's peers, controller manager."""

    def __init__(
        self,
        folder: Path,
        tools: binaries.Binaries,
        *,
        address: str,
        ports: tuple[int, int, int, int] = (6443, 2379, 2380, 10257),
        nodes: Sequence[str] = (),
        group: Group | None = None,
        api_group: Group | None = None,
        enter: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._tools = tools
        self._ports = ports
        self._group = group
        self._enter = enter
        self._bare = not nodes
        self._started: list[Process] = []
        url = f"https://{address}:{ports[0]}"
        self.keys = Keys(folder / "keys", url, [address, "127.0.0.1", network.API_SERVICE], list(nodes))
        log = folder / "logs" / "kube-apiserver.log"
        self.api = ApiServer(
            url, tools, self.keys, address=address, ports=ports, bare=self._bare, log=log, group=api_group, enter=enter
        )

    @property
    def kubeconfig(self) -> Path:
        """For whoever may do anything."""
        return self.keys.kubeconfig("admin")

    def environment(self) -> dict[str, str]:
        """KUBECONFIG, and a PATH with what was built beside the control plane: kubectl, perhaps helm."""
        return {"KUBECONFIG": str(self.kubeconfig), "PATH": f"{self._tools.path()}:{os.environ['PATH']}"}

    def up(self) -> None:
        """Start it, and return when the API server answers."""
        self.keys.make()
        self._start("etcd", *self._etcd())
        self.api.start()
        self._start("kube-controller-manager", *self._controller_manager())
        if not self._bare:
            self._start("kube-scheduler", *self._scheduler())

    def down(self) -> None:
        """End what this object started."""
        self.api.kill()
        for process in reversed(self._started):
            process.stop()

    def _start(self, name: str, *arguments: str) -> Process:
        log = self._folder / "logs" / f"{name}.log"
        command: list[str | Path] = [self._tools[name], *arguments]
        process = processes.start(name, command, log=log, group=self._group, enter=self._enter)
        self._started.append(process)
        return process

    def _etcd(self) -> list[str]:
        _, clients, peers, _ = self._ports
        return [
            "--name=box",
            f"--data-dir={self._folder / 'etcd'}",
            "--unsafe-no-fsync",
            "--log-level=warn",
            f"--listen-client-urls=http://127.0.0.1:{clients}",
            f"--advertise-client-urls=http://127.0.0.1:{clients}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-cluster=box=http://127.0.0.1:{peers}",
        ]

    def _controller_manager(self) -> list[str]:
        flags = [
            *self._as("controller-manager"),
            f"--secure-port={self._ports[3]}",
            "--bind-address=127.0.0.1",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self.keys.file('service-accounts.key')}",
            f"--root-ca-file={self.keys.ca}",
            f"--cluster-signing-cert-file={self.keys.ca}",
            f"--cluster-signing-key-file={self.keys.file('ca.key')}",
            f"--flex-volume-plugin-dir={self._folder / 'flex-volumes'}",  # it makes the folder
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            "--pvclaimbinder-sync-period=2s",
        ]
        if self._bare:
            return [*flags, f"--controllers={_BARE_CONTROLLERS}"]
        cidrs = ["--allocate-node-cidrs", f"--cluster-cidr={network.POD_NETWORK}", "--node-cidr-mask-size=24"]
        return [*flags, *cidrs, f"--node-monitor-grace-period={NODE_GRACE}"]

    def _scheduler(self) -> list[str]:
        return [*self._as("scheduler"), "--bind-address=127.0.0.1"]

    def _as(self, user: str) -> list[str]:
        file = self.keys.kubeconfig(user)
        names = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
        return [f"--{name}={file}" for name in names] + ["--leader-elect=false"]


class ApiServer:
    """kube-apiserver, in a control group of its own, so that a test can end it and start it again."""

    def __init__(
        self,
        url: str,
        tools: binaries.Binaries,
        keys: Keys,
        *,
        address: str,
        ports: tuple[int, int, int, int],
        bare: bool,
        log: Path,
        group: Group | None,
        enter: Sequence[str],
    ) -> None:
        self._url = url
        self._tools = tools
        self._keys = keys
        self._address = address
        self._ports = ports
        self._bare = bare
        self._log = log
        self._group = group
        self._enter = enter
        self._process: Process | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
        if self._group:
            self._group.make()
        command: list[str | Path] = [self._tools["kube-apiserver"], *self._flags()]
        self._process = processes.start("kube-apiserver", command, log=self._log, group=self._group, enter=self._enter)
        context = ssl.create_default_context(cafile=str(self._keys.ca))
        self._process.wait_for(lambda: answers(f"{self._url}/readyz", context), "ready", READY_SECONDS)

    def kill(self) -> None:
        """End it; etcd keeps what it knew."""
        if self._group:
            self._group.kill()
        elif self._process:
            self._process.stop()

    def _flags(self) -> list[str]:
        api, clients, *_ = self._ports
        file = self._keys.file
        flags = [
            f"--etcd-servers=http://127.0.0.1:{clients}",
            f"--bind-address={self._address}",
            f"--advertise-address={self._address}",
            f"--secure-port={api}",
            f"--tls-cert-file={file('apiserver.crt')}",
            f"--tls-private-key-file={file('apiserver.key')}",
            f"--client-ca-file={self._keys.ca}",
            f"--token-auth-file={self._keys.tokens}",
            "--authorization-mode=Node,RBAC",
            f"--service-account-key-file={file('service-accounts.key')}",
            f"--service-account-signing-key-file={file('service-accounts.key')}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-cluster-ip-range={network.SERVICE_NETWORK}",
            f"--kubelet-client-certificate={file('apiserver-kubelet.crt')}",
            f"--kubelet-client-key={file('apiserver-kubelet.key')}",
            "--kubelet-preferred-address-types=InternalIP",  # names of nodes are in no DNS
            "--allow-privileged=true",
            "--service-node-port-range=30000-32767",
        ]
        return [*flags, "--endpoint-reconciler-type=none"] if self._bare else flags


def answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    """Whether a GET is answered with 200."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2, context=context) as response:
        return bool(response.status == 200)
    return False


@contextlib.contextmanager
def bare() -> Iterator[ControlPlane]:
    """A control plane without nodes, on loopback, for as long as the context lasts.

    The processes die with the one that called, however it ends.
    """
    if reason := why_no_control_plane():
        raise BoxError(reason)
    tools = binaries.build(*binaries.CONTROL_PLANE)
    folder = Path(tempfile.mkdtemp(prefix="mailarray-control-plane-"))
    api, clients, peers, manager = _free_ports(4)
    plane = ControlPlane(folder, tools, address="127.0.0.1", ports=(api, clients, peers, manager))
    try:
        plane.up()  # when it fails, the error names a log, which therefore stays
        yield plane
    finally:
        plane.down()
    shutil.rmtree(folder)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
