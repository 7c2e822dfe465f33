"""One MailCluster in a real cluster: what tests ask of it, and where its clients find it."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pykube  # type: ignore[import-untyped,import-not-found,unused-ignore]

from mailarray_operator.api import names
from tests.e2e.box import BoxError
from tests.e2e.cluster import Cluster
from tests.faults.where import Where

DOMAIN = "mail.example"
Manifest = dict[str, Any]
LOOK_SECONDS = 0.5  # between two looks at the pods


@dataclass(slots=True)
class _Pod:
    name: str
    ip: str
    node: str
    ready: bool


@dataclass
class MailArray:
    """A MailCluster and its MailServers. Use as a context: a thread looks where the pods are."""

    cluster: Cluster
    name: str = "example"
    namespace: str = "mail"
    _pods: dict[str, list[_Pod]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        # A client that costs no process for each look.
        self._api = pykube.HTTPClient(pykube.KubeConfig.from_file(self.cluster.environment()["KUBECONFIG"]), timeout=15)

    def __enter__(self) -> MailArray:
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    # -- resources -------------------------------------------------------------------------------------

    def resource(self) -> Manifest:
        """The MailCluster."""
        return self.get("mailcluster", self.name)

    def servers(self, group: str) -> dict[str, Manifest]:
        """status.servers of a MailServer, by name."""
        status = self.get("mailserver", group).get("status", {})
        return {server["name"]: server for server in status.get("servers", [])}

    def condition(self, kind: str, group: str | None = None) -> Manifest:
        """A condition of the MailCluster, or of one of its MailServers."""
        resource = self.get("mailserver", group) if group else self.resource()
        found = resource.get("status", {}).get("conditions", [])
        return next((dict(c) for c in found if c["type"] == kind), {})

    def wait_ready(self, seconds: float = 180) -> None:
        """`kubectl wait`, as a person would."""
        self.kubectl(
            "wait",
            "--for=condition=Ready",
            f"mailcluster/{self.name}",
            f"--timeout={seconds:.0f}s",
            seconds=seconds + 10,
        )

    def wait_serving(self, group: str, count: int, seconds: float = 180) -> None:
        """Until a group has so many servers, and all of them serve."""

        def there() -> bool:
            phases = [server["phase"] for server in self.servers(group).values()]
            return phases == ["Serving"] * count

        self.wait_for(there, f"{count} servers of {group} serve", seconds)

    def wait_settled(self, group: str, seconds: float = 120) -> None:
        """Until every server has registered and sealed what it holds, so that readers see all that was acknowledged."""

        def settled() -> bool:
            return all(self._at_rest(server) for server in self.servers(group))

        self.wait_for(settled, f"the servers of {group} have registered everything", seconds)

    def _at_rest(self, server: str) -> bool:
        words = ("mailarray", "server-status", "--settings", f"{names.PATH_SETTINGS}/{names.FILE_SERVER}")
        said = json.loads(self.kubectl("exec", server, "-c", names.CONTAINER_CATALOG, "--", *words))["sidecar"]
        at_rest = said["lag_bytes"] == 0 and said["segments"]["unsettled"] == 0
        return bool(at_rest and said["catalog"]["state"] == "up" and said["catalog"]["open"])

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
        """kubectl in the array's namespace."""
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin, seconds=seconds)

    def get(self, *arguments: str) -> Manifest:
        """`kubectl get` in the array's namespace."""
        found: Manifest = self.cluster.get("-n", self.namespace, *arguments)
        return found

    def wait_for(self, look: Callable[[], Any], what: str, seconds: float) -> Any:
        """Until `look` answers something true; a command that fails counts as not yet."""

        def forgiving() -> Any:
            try:
                return look()
            except BoxError:
                return None

        return self.cluster.wait_for(forgiving, what, seconds)

    # -- where clients find it -------------------------------------------------------------------------

    def pods(self, component: str = names.SERVER) -> list[_Pod]:
        """As they were half a second ago."""
        return list(self._pods.get(component, ()))

    def smtp(self, server: str) -> Where:
        """One server's SMTP port, wherever its pod runs now."""

        def where() -> tuple[str, int]:
            for pod in self.pods():
                if pod.name == server and pod.ip:
                    return pod.ip, names.PORT_SMTP
            raise OSError(f"{server} has no address")

        return where

    def any_smtp(self, chance: random.Random, avoid: frozenset[str] = frozenset()) -> Where:
        """Any server that is ready, another each time, as a sender chooses among MX records of one preference."""
        return self._any(names.SERVER, names.PORT_SMTP, chance, avoid)

    def any_pop3(self, chance: random.Random, avoid: frozenset[str] = frozenset()) -> Where:
        """Any access server that is ready; `avoid` names nodes."""
        return self._any(names.ACCESS, names.PORT_POP3, chance, avoid)

    def _any(self, component: str, port: int, chance: random.Random, avoid: frozenset[str]) -> Where:
        def where() -> tuple[str, int]:
            ready = [pod for pod in self.pods(component) if pod.ready and pod.ip and pod.node not in avoid]
            if not ready:
                raise OSError(f"no pod of {component} is ready")
            return chance.choice(ready).ip, port

        return where

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self._look()
            except Exception:  # the API server is away for a moment; what was seen last still counts
                continue

    def _list(self, selector: str) -> list[Manifest]:
        return [pod.obj for pod in pykube.Pod.objects(self._api, namespace=self.namespace).filter(selector=selector)]

    def _look(self) -> None:
        for component in (names.SERVER, names.ACCESS, names.DATABASE):
            selector = f"{names.LABEL_CLUSTER}={self.name},{names.LABEL_COMPONENT}={component}"
            self._pods[component] = [_pod(raw) for raw in self._list(selector)]


def _pod(raw: Manifest) -> _Pod:
    status = raw.get("status", {})
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
    going = "deletionTimestamp" in raw["metadata"]
    return _Pod(raw["metadata"]["name"], status.get("podIP", ""), raw["spec"].get("nodeName", ""), ready and not going)
