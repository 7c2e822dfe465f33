"""Kubernetes and what it runs on, built from Go modules into the cache.

Each folder `go/<tool>` pins one tool with its go.mod and go.sum. Its binaries are built when no folder of the cache
carries the digest of those two files and of the flags. GOFLAGS, GOPROXY and the rest of Go's environment are used as
they are found.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

from tests.e2e.box import cache
from tests.e2e.box.machine import BoxError, run

MODULES = Path(__file__).parent / "go"
BUILD_SECONDS = 3600  # the slowest tool takes six minutes on two cores
_VERSION = "k8s.io/component-base/version"


@dataclasses.dataclass(frozen=True)
class Tool:
    """One go.mod, and the binaries that come out of it."""

    name: str
    packages: tuple[str, ...]
    tags: str = ""
    ldflags: str = "-s -w"
    cgo: bool = False
    binary: str = ""  # what to call the only binary, where Go would name it otherwise
    files: tuple[str, ...] = ()  # of the first package's module, kept beside the binaries


KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
CONTAINERD = ("containerd", "containerd-shim-runc-v2", "ctr")
CNI = ("main/ptp", "main/loopback", "ipam/host-local", "meta/portmap")

TOOLS = (
    Tool("etcd", ("go.etcd.io/etcd/server/v3",), binary="etcd"),
    Tool(
        "kubernetes",
        tuple(f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES),
        ldflags=f"-s -w -X {_VERSION}.gitVersion=v1.36.3 -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=36",
    ),
    Tool(
        "containerd",
        tuple(f"github.com/containerd/containerd/v2/cmd/{name}" for name in CONTAINERD),
        tags="no_btrfs,no_devmapper,no_zfs",
    ),
    Tool("runc", ("github.com/opencontainers/runc",), tags="seccomp", cgo=True),
    Tool("cni", tuple(f"github.com/containernetworking/plugins/plugins/{name}" for name in CNI)),
    Tool("coredns", ("github.com/coredns/coredns",)),
    Tool("helm", ("helm.sh/helm/v4/cmd/helm",)),
    Tool(
        "externaldns",
        ("sigs.k8s.io/external-dns",),
        files=("config/crd/standard/dnsendpoints.externaldns.k8s.io.yaml",),
    ),
)
CONTROL_PLANE = ("etcd", "kubernetes")  # all that tests without nodes need


@dataclasses.dataclass(frozen=True)
class Binaries:
    """Folders of binaries, by tool."""

    folders: dict[str, Path]

    def __getitem__(self, binary: str) -> Path:
        for folder in self.folders.values():
            if (folder / binary).exists():
                return folder / binary
        raise BoxError(f"{binary} is not built: no box is running, start one with `make box-up`")

    def path(self) -> str:
        """A value for PATH that has them all."""
        return ":".join(str(folder) for folder in self.folders.values())


def build(*names: str) -> Binaries:
    """Build what is missing of the named tools, or of all."""
    wanted = [tool for tool in TOOLS if not names or tool.name in names]
    if all(_final(tool).exists() for tool in wanted):
        return Binaries({tool.name: _final(tool) for tool in wanted})
    with cache.locked("binaries"):
        return Binaries({tool.name: _folder(tool) for tool in wanted})


def _final(tool: Tool) -> Path:
    module = MODULES / tool.name
    key = cache.digest((module / "go.mod").read_bytes(), (module / "go.sum").read_bytes(), repr(tool))
    return cache.folder("bin") / f"{tool.name}-{key}"


def _folder(tool: Tool) -> Path:
    final = _final(tool)
    if final.exists():
        return final
    log = cache.folder("build") / f"{tool.name}.log"
    log.unlink(missing_ok=True)
    cache.say(f"building {tool.name} (once; minutes on a cold cache; log {log})")
    started = time.monotonic()
    making = final.with_name(f".{final.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    command = ["go", "build", "-mod=readonly", "-trimpath", "-ldflags", tool.ldflags, "-o", f"{making}/"]
    if tool.tags:
        command += ["-tags", tool.tags]
    run(
        *command,
        *tool.packages,
        cwd=MODULES / tool.name,
        env={"CGO_ENABLED": "1" if tool.cgo else "0"},
        seconds=BUILD_SECONDS,
        log=log,
    )
    if tool.binary:
        (only,) = making.iterdir()
        only.rename(making / tool.binary)
    if tool.files:
        module = run("go", "list", "-m", "-f", "{{.Dir}}", tool.packages[0], cwd=MODULES / tool.name).strip()
        for name in tool.files:
            shutil.copy(Path(module, name), making)
    making.rename(final)
    cache.say(f"built {tool.name} in {time.monotonic() - started:.0f} s")
    return final
