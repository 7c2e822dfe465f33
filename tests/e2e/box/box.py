"""The box as a whole: up, down, and what tests do to it.

`up` is idempotent: a box that runs is left as it is, one that half runs is taken down first. What runs is known from
the machine (control groups, namespaces), not from a file, so that `down` also ends a box whose `up` was killed. The
context file tells other commands where the kubeconfig and the nodes are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import yaml

from tests.e2e.box import addons, binaries, cache, cgroups, images, machine, network, node, processes, volumes
from tests.e2e.box.cgroups import Group
from tests.e2e.box.control_plane import ControlPlane, answers
from tests.e2e.box.machine import BoxError, run
from tests.e2e.box.node import Node
from tests.e2e.box.public_dns import ZONES, ExternalDns, PowerDns

NODES = 3
API_SERVER, POWERDNS, EXTERNAL_DNS = "kube-apiserver", "powerdns", "external-dns"
READY_SECONDS = 120
DEFAULT_ID = "main"


class Startable(Protocol):
    """What can be ended at once, and started again."""

    def start(self) -> None:
        """Return when it answers."""

    def kill(self) -> None:
        """Without notice."""


class Box:
    """A cluster of three nodes on this machine. MAILARRAY_BOX_ID names another than `main`; one runs at a time."""

    def __init__(self, box: str | None = None) -> None:
        self.id = box or os.environ.get("MAILARRAY_BOX_ID", DEFAULT_ID)
        if not re.fullmatch(r"[a-z0-9]{1,10}", self.id):  # it becomes part of a link's name
            raise BoxError(f"MAILARRAY_BOX_ID {self.id!r} is no name for a box: use up to 10 small letters and digits")
        self.folder = cache.folder(f"box-{self.id}")
        self.logs = self.folder / "logs"
        self._context = self.folder / "context.json"
        self._network = network.Network(self.id, NODES)
        self._switch = Group(self.id, "switch")
        self._tools = binaries.Binaries({})
        if self._context.exists():
            self._tools = binaries.Binaries(
                {name: Path(path) for name, path in json.loads(self._context.read_text())["tools"].items()}
            )
        self._assemble()

    def _assemble(self) -> None:
        names = [node.name(index) for index in range(1, NODES + 1)]
        self._plane = ControlPlane(
            self.folder,
            self._tools,
            address=network.SWITCH_ADDRESS,
            nodes=names,
            group=self._switch,
            api_group=Group(self.id, API_SERVER),
            enter=self.enter_switch(),
        )
        self._powerdns = PowerDns(
            self.folder / POWERDNS, self.logs / f"{POWERDNS}.log", Group(self.id, POWERDNS), self.enter_switch()
        )
        self._external_dns = ExternalDns(
            self._tools,
            self._plane.keys.kubeconfig(EXTERNAL_DNS),
            self.logs / f"{EXTERNAL_DNS}.log",
            Group(self.id, EXTERNAL_DNS),
            self.enter_switch(),
        )
        self._nodes = {
            name: Node(self.id, index, self.folder / name, self.logs, self._tools, self._network, self._plane.keys)
            for index, name in enumerate(names, 1)
        }

    # What others need ---------------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        """For kubectl, helm and clients."""
        return self._plane.kubeconfig

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes; the zone of `node-1` is `z1`."""
        return list(self._nodes)

    def environment(self) -> dict[str, str]:
        """KUBECONFIG, and a PATH with kubectl and helm."""
        return self._plane.environment()

    def enter_switch(self) -> list[str]:
        """Words before a command that runs it in the switch's network."""
        return self._network.enter(self._network.switch)

    def running(self) -> bool:
        """Whether it is up: its context was written last, and its API server answers."""
        return self._context.exists() and bool(self._switch.processes()) and self._api_answers()

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
        """Run kubectl and return what it prints."""
        return run(self._tools["kubectl"], "--kubeconfig", self.kubeconfig, *arguments, stdin=stdin, seconds=seconds)

    def apply(self, *manifests: addons.Manifest) -> None:
        """Apply manifests."""
        self.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def load(self, *roles: str) -> list[str]:
        """Build images and put them onto the nodes: the names for pods, in the order of the roles."""
        with cache.locked("images"):
            built = [images.build(role) for role in roles]
            for image in built:
                images.load(image, self._nodes.values())
        return built

    def cut(self, name: str) -> None:
        """Unplug a node from the network; it runs on."""
        self._network.cut(self._nodes[name].index)

    def heal(self, name: str) -> None:
        """Plug it in again."""
        self._network.heal(self._nodes[name].index)

    def kill(self, name: str) -> None:
        """Cut a node's power, or end API_SERVER, POWERDNS or EXTERNAL_DNS."""
        self._alive(name).kill()

    def start(self, name: str) -> None:
        """Have it again, with what it had on disk."""
        self._alive(name).start()

    def _alive(self, name: str) -> Startable:
        services: dict[str, Startable] = {
            API_SERVER: self._plane.api,
            POWERDNS: self._powerdns,
            EXTERNAL_DNS: self._external_dns,
        }
        return services.get(name) or self._nodes[name]

    def add_small_volume(self, name: str, mebibytes: int) -> str:
        """Offer a volume of that size on a node, which really is full when it is full: the name of its class."""
        folder = uuid.uuid4().hex[:8]
        self._nodes[name].mount_small(folder, mebibytes)
        volume = volumes.manifest(name, folder, storage_class=addons.SMALL_CLASS, capacity=f"{mebibytes}Mi")
        self.apply(addons.storage_class(addons.SMALL_CLASS), volume)
        return addons.SMALL_CLASS

    # Up and down --------------------------------------------------------------------------------------

    def up(self) -> None:
        """Have it running; minutes when the cache is cold."""
        if reason := machine.why_not():
            raise BoxError(reason)
        if self.running():
            return
        pause = self._prepare()
        with cache.locked(f"box-{self.id}"):
            if self.running():
                return
            self._down()
            started = time.monotonic()
            try:
                self._up(pause)
            except BaseException:
                self._down(keep_logs=True)
                raise
            cache.say(f"{NODES} nodes Ready in {time.monotonic() - started:.0f} s")

    def prepare(self) -> None:
        """Make all that is slow and kept: packages, binaries, base image."""
        if reason := machine.why_not():
            raise BoxError(reason)
        self._prepare()

    def down(self) -> None:
        """Remove everything but the cache."""
        with cache.locked(f"box-{self.id}"):
            self._down()

    def _prepare(self) -> str:
        machine.install_packages()
        self._tools = binaries.build()
        self._assemble()
        with cache.locked("images"):
            images.base()
            return images.build_pause()

    def _up(self, pause: str) -> None:
        shutil.rmtree(self.logs, ignore_errors=True)
        self._network.up()
        self._switch.make()
        self._plane.up()
        self.apply(*addons.nodes(list(self._nodes.values())), *addons.dns(), addons.storage_class())
        self.apply(*addons.external_dns(self._external_dns.crd))
        for one in self._nodes.values():
            one.start()
            images.load(pause, [one])
        self._start_switch()
        self.kubectl("wait", "--for=condition=Ready", "node", "--all", f"--timeout={READY_SECONDS}s", seconds=150)
        tools = {name: str(path) for name, path in self._tools.folders.items()}
        self._context.write_text(json.dumps({"kubeconfig": str(self.kubeconfig), "tools": tools}, indent=2))

    def _start_switch(self) -> None:
        """DNS inside and outside, Services for those who come through the switch, and the keeper of volumes."""
        corefile = self.folder / "Corefile"
        corefile.write_text(addons.corefile(self._plane.keys.kubeconfig("dns"), ZONES))
        dns = self._start("coredns", self._tools["coredns"], "-conf", corefile)
        # kube-proxy wants to be some node; which one matters to node ports only.
        proxy = self.folder / "proxy.yaml"
        kubeconfig = str(self._plane.keys.kubeconfig("proxy"))
        settings = node.proxy_settings(node.name(1), network.SWITCH_ADDRESS, kubeconfig)
        proxy.write_text(yaml.safe_dump(settings))
        self._start("kube-proxy", self._tools["kube-proxy"], f"--config={proxy}")
        folders = [f"{name}={one.folder}" for name, one in self._nodes.items()]
        self._start("volumes", sys.executable, "-m", "tests.e2e.box", "keep-volumes", self.kubeconfig, *folders)
        self._powerdns.start()
        self._external_dns.start()
        dns.wait_for(lambda: answers(f"http://{network.SWITCH_ADDRESS}:8181/ready"), "ready", READY_SECONDS)

    def _start(self, name: str, *command: str | Path) -> processes.Process:
        env = {"PYTHONPATH": str(machine.REPOSITORY), "PATH": os.environ["PATH"], "HOME": str(Path.home())}
        log = self.logs / f"{name}.log"
        return processes.start(name, command, log=log, group=self._switch, enter=self.enter_switch(), env=env)

    def _down(self, *, keep_logs: bool = False) -> None:
        self._context.unlink(missing_ok=True)
        for part in cgroups.parts(self.id) - set(self._nodes):
            Group(self.id, part).kill()
        for one in self._nodes.values():
            one.remove()
        for part in cgroups.parts(self.id):
            Group(self.id, part).remove()
        self._network.down()
        for leftover in ("etcd", "keys", POWERDNS):
            shutil.rmtree(self.folder / leftover, ignore_errors=True)
        if not keep_logs:
            shutil.rmtree(self.logs, ignore_errors=True)

    def _api_answers(self) -> bool:
        try:
            self.kubectl("get", "--raw", "/readyz", "--request-timeout=5s")
        except (BoxError, OSError):
            return False
        return True


def status(box: Box) -> Sequence[str]:
    """Lines for a person."""
    if not box.running():
        return [f"box {box.id}: not running"]
    lines = [f"box {box.id}: running; KUBECONFIG={box.kubeconfig}; logs in {box.logs}"]
    return [*lines, *box.kubectl("get", "nodes", "-o", "wide").splitlines()]
