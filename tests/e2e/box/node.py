"""One node: containerd, kubelet and kube-proxy in a network and a mount namespace of their own.

    /run                  tmpfs of the node: sockets, states of containers, addresses of pods; a power cut empties it
    /run/node             the node's folder in the cache: images and containers, kubelet's pods, volumes
    /var                  an overlay, whatever is written to it goes with the node
    /proc/sys/...         what kubelet wants to set for the whole machine is shown to it as set, and stays as it is

A first process holds the mount namespace and the others enter it. `kill` is a power cut: all of the node's processes
die in one moment, its mounts with them, and its disk stays. `start` then is its boot.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import yaml

from tests.e2e.box import binaries, network, processes
from tests.e2e.box.cgroups import Group
from tests.e2e.box.keys import Keys
from tests.e2e.box.machine import BoxError, run
from tests.e2e.box.network import Network
from tests.e2e.box.processes import Process

SOCKET = "/run/containerd/containerd.sock"
HOME = "/run/node"
PAUSE = "mailarray.io/box/pause:1"
READY_SECONDS = 60

# kubelet insists on these for the whole machine (k8s.io/kubernetes/pkg/util/sysctl); it gets files that say so.
_KERNEL = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_DIRECTORIES = ("containerd", "kubelet", "pods", "volumes", "cni", "etc")


def name(index: int) -> str:
    """Name of the node with that index, which counts from 1."""
    return f"node-{index}"


class Node:
    """A node of a box."""

    def __init__(
        self, box: str, index: int, folder: Path, logs: Path, tools: binaries.Binaries, net: Network, keys: Keys
    ) -> None:
        self.index = index
        self.name = name(index)
        self.zone = f"z{index}"
        self.folder = folder
        self.group = Group(box, self.name)
        self._logs = logs
        self._tools = tools
        self._network = net
        self._keys = keys
        self._holder_file = folder / "holder.pid"

    def start(self) -> None:
        """Boot; kubelet reports the node as Ready some seconds later."""
        self.group.remove()
        self.group.make()
        self._network.forget_pods(self.index)
        self._write_settings()
        self._hold()
        containerd = self._run("containerd", "--config", f"{HOME}/etc/containerd.toml")
        containerd.wait_for(self._containerd_answers, "answering", READY_SECONDS)
        self._clear_containers()
        self._run(
            "kubelet",
            f"--config={HOME}/etc/kubelet.yaml",
            f"--kubeconfig={HOME}/etc/kubeconfig",
            f"--root-dir={HOME}/kubelet",
            f"--cert-dir={HOME}/kubelet/pki",
            f"--hostname-override={self.name}",
            f"--node-ip={network.node_address(self.index)}",
            f"--node-labels=topology.kubernetes.io/zone={self.zone}",
            f"--container-runtime-endpoint=unix://{SOCKET}",
        )
        self._run("kube-proxy", f"--config={HOME}/etc/proxy.yaml")

    def kill(self) -> None:
        """Cut its power: every process of the node and of its containers dies at once."""
        self.group.kill()

    def remove(self) -> None:
        """Kill it and remove its groups; its disk stays for the next box, without containers and volumes."""
        self.group.kill()
        self.group.remove()
        for directory in ("kubelet", "pods", "volumes"):
            shutil.rmtree(self.folder / directory, ignore_errors=True)

    def enter(self) -> list[str]:
        """Words before a command that runs it on the node."""
        holder = self._holder_file.read_text().strip()
        return ["nsenter", f"--target={holder}", "--net", "--mount", "--cgroup", "--"]

    def ctr(self, *arguments: str | Path) -> str:
        """Run containerd's command line on the node."""
        command = [*self.enter(), self._tools["ctr"], "--address", SOCKET, "--namespace", "k8s.io", *arguments]
        return run(*command, seconds=300)

    def mount_small(self, folder: str, mebibytes: int) -> None:
        """Mount a file system of that size, in memory, as a volume's folder; a power cut empties it."""
        path = f"{HOME}/volumes/{folder}"
        run(*self.enter(), "mkdir", "-p", path)
        run(*self.enter(), "mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=777", "tmpfs", path)

    def _hold(self) -> None:
        """Start the process that holds the mount namespace."""
        self._holder_file.unlink(missing_ok=True)
        kernel = [
            f"mkdir -p /run/kernel/{Path(key).parent}; echo {value} > /run/kernel/{key}; "
            f"mount --bind /run/kernel/{key} /proc/sys/{key}"
            for key, value in _KERNEL.items()
            if Path("/proc/sys", key).exists()
        ]
        script = [
            "set -e",
            f"exec 3> {shlex.quote(str(self._holder_file))}",
            f"cd {shlex.quote(str(self.folder))}",
            "mount -t tmpfs -o mode=755 tmpfs /run",
            f"mkdir -p {HOME} /run/lock /run/var/upper /run/var/work",
            f"mount --bind . {HOME}",
            "mount -t overlay -o lowerdir=/var,upperdir=/run/var/upper,workdir=/run/var/work overlay /var",
            "mkdir -p /var/lib /var/log",
            *kernel,
            *Group.remounting(),
            "echo $$ >&3; exec 3>&-; cd /",
            "exec sleep infinity",
        ]
        enter = [*self._network.enter(self._network.node(self.index)), "unshare", "--mount", "--cgroup"]
        enter += ["--propagation", "slave"]
        holder = processes.start(
            f"{self.name}'s holder",
            ["sh", "-c", "\n".join(script)],
            log=self._logs / self.name / "holder.log",
            group=self.group,
            joining=self.group.joining(top=True),
            enter=enter,
        )
        holder.wait_for(lambda: self._holder_file.exists() and bool(self._holder_file.read_text()), "up", 10)

    def _run(self, binary: str, *arguments: str) -> Process:
        log = self._logs / self.name / f"{binary}.log"
        env = {
            "PATH": f"{self._tools.path()}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
        }
        command: list[str | Path] = [self._tools[binary], *arguments]
        return processes.start(
            f"{self.name}'s {binary}", command, log=log, group=self.group, enter=self.enter(), env=env
        )

    def _containerd_answers(self) -> bool:
        try:
            self.ctr("version")
        except BoxError:
            return False
        return True

    def _clear_containers(self) -> None:
        """Forget containers of an earlier box, whose pods nobody knows any more; kubelet's own are kept at a boot."""
        if (self.folder / "kubelet" / "pods").exists():
            return
        if containers := self.ctr("containers", "list", "--quiet").split():
            self.ctr("containers", "delete", *containers)
        if sandboxes := [line.split()[0] for line in self.ctr("sandboxes", "list").splitlines()[1:]]:
            self.ctr("sandboxes", "rm", "--force", *sandboxes)

    def _write_settings(self) -> None:
        for directory in _DIRECTORIES:
            (self.folder / directory).mkdir(parents=True, exist_ok=True)
        etc = self.folder / "etc"
        (etc / "resolv.conf").write_text("# nothing outside of the box is asked\n")
        shutil.copy(self._keys.kubeconfig(self.name), etc / "kubeconfig")
        shutil.copy(self._keys.kubeconfig("proxy"), etc / "proxy.kubeconfig")
        shutil.copy(self._keys.ca, etc / "ca.crt")
        (etc / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet()))
        proxy = proxy_settings(self.name, network.node_address(self.index), f"{HOME}/etc/proxy.kubeconfig")
        (etc / "proxy.yaml").write_text(yaml.safe_dump(proxy))
        (etc / "containerd.toml").write_text(_containerd(self._tools))
        (self.folder / "cni" / "10-box.conflist").write_text(json.dumps(_cni(self.index)))


def proxy_settings(host: str, address: str, kubeconfig: str) -> dict[str, object]:
    """kube-proxy's settings, for a node or for the switch."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": network.POD_NETWORK,
        "hostnameOverride": host,
        "bindAddress": address,
        "healthzBindAddress": f"{address}:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clientConnection": {"kubeconfig": kubeconfig},
        # The limits are the machine's, not a namespace's.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
    }


def _kubelet() -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": f"{HOME}/etc/ca.crt"},
        },
        "authorization": {"mode": "AlwaysAllow"},  # of those whose certificate the box signed: the API server
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "failSwapOn": False,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,  # no registry could bring an image back
        "clusterDNS": [network.DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{HOME}/etc/resolv.conf",
        "podLogsDir": f"{HOME}/pods",
        "volumePluginDir": f"{HOME}/kubelet/volume-plugins",
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "10s",  # how late a changed ConfigMap may reach a pod
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        "maxPods": 110,
        "registryPullQPS": 0,
    }


def _containerd(tools: binaries.Binaries) -> str:
    runtime = "plugins.'io.containerd.cri.v1.runtime'"
    return f"""version = 3
root = '{HOME}/containerd'
state = '/run/containerd'
disabled_plugins = ['io.containerd.nri.v1.nri']

[grpc]
address = '{SOCKET}'

[plugins.'io.containerd.internal.v1.opt']
path = '{HOME}/containerd/opt'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{PAUSE}'

[{runtime}]
restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE every sandbox would die
disable_apparmor = true

[{runtime}.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'

[{runtime}.containerd.runtimes.runc.options]
BinaryName = '{tools["runc"]}'
SystemdCgroup = false

[{runtime}.cni]
bin_dirs = ['{tools["ptp"].parent}']
conf_dir = '{HOME}/cni'
"""


def _cni(index: int) -> dict[str, object]:
    """Pods hang on routes, not on a bridge: so a pod reaches a pod of its own node through a Service as well."""
    ipam = {
        "type": "host-local",
        "dataDir": "/run/addresses",
        "ranges": [[{"subnet": network.pod_network(index)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {
        "cniVersion": "1.0.0",
        "name": "box",
        "plugins": [
            {"type": "ptp", "ipMasq": False, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables"},
        ],
    }
