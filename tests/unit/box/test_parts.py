"""The parts of the cluster-in-a-box that need neither root nor a cluster."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.e2e.box import addons, binaries, cache, cgroups, network, node, processes, volumes
from tests.e2e.box.keys import Keys
from tests.e2e.box.machine import BoxError, run


def test_a_digest_keeps_parts_apart() -> None:
    assert cache.digest("a", "b") == cache.digest(b"a", "b")
    assert cache.digest("ab", "") != cache.digest("a", "b")


@pytest.mark.parametrize("tool", binaries.TOOLS, ids=lambda tool: tool.name)
def test_what_a_tool_builds_is_imported_and_summed(tool: binaries.Tool) -> None:
    folder = binaries.MODULES / tool.name
    imported = set(re.findall(r'_ "(.+)"', (folder / "tools.go").read_text()))
    assert imported == set(tool.packages)
    assert (folder / "go.sum").stat().st_size


@pytest.mark.skipif(not shutil.which("go"), reason="needs Go")
def test_a_failed_build_names_its_log_and_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILARRAY_BOX_CACHE", str(tmp_path))
    monkeypatch.setattr(binaries, "MODULES", tmp_path / "go")
    (tmp_path / "go" / "etcd").mkdir(parents=True)
    for name in ("go.mod", "go.sum"):
        (tmp_path / "go" / "etcd" / name).write_text("nonsense\n")
    with pytest.raises(BoxError, match=r"etcd\.log, which ends with\n"):
        binaries.build("etcd")
    assert not list((tmp_path / "bin").glob("etcd-*"))


def test_a_process_that_ends_early_names_its_log(tmp_path: Path) -> None:
    process = processes.start("thing", ["sh", "-c", "echo no such port; exit 3"], log=tmp_path / "thing.log")
    with pytest.raises(BoxError, match=r"(?s)thing ended with status 3 before ready; .*thing\.log.*no such port"):
        process.wait_for(lambda: False, "ready", 10)


def test_a_command_that_fails_says_what_it_said() -> None:
    with pytest.raises(BoxError, match=r"(?s)`sh -c .*` failed:\nno good"):
        run("sh", "-c", "echo no good >&2; exit 1")


def test_keys_are_private_and_signed(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys", "https://127.0.0.1:1", ["127.0.0.1"], ["node-1"])
    keys.make()
    run("openssl", "verify", "-CAfile", keys.ca, keys.file("apiserver.crt"), keys.file("apiserver-kubelet.crt"))
    assert "system:node:node-1" in keys.tokens.read_text()
    secret = [keys.tokens, *keys.folder.glob("*.key"), *keys.folder.glob("*.kubeconfig")]
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}


def test_pods_of_a_node_have_the_addresses_that_routes_lead_to() -> None:
    settings = node._cni(2)
    assert network.pod_network(2) == "10.244.2.0/24"
    assert '"subnet": "10.244.2.0/24"' in json.dumps(settings)


def test_a_volume_is_bound_to_its_node() -> None:
    volume = volumes.manifest("node-3", "abc")
    (term,) = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["node-3"]
    assert volume["spec"]["local"]["path"] == "/run/node/volumes/abc"
    assert volume["spec"]["storageClassName"] == addons.storage_class()["metadata"]["name"]


def test_groups_are_the_boxs_own() -> None:
    words = cgroups.Group("some-id", "node-1").joining()
    targets = re.findall(r"> ([^\s;]+)", words)
    assert targets
    assert all(target.endswith("/mailarray-box-some-id/node-1/system/cgroup.procs") for target in targets)
