"""Flags are handed on to kubectl, and everything that goes wrong with it is one sentence."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from mailarray_operator.kubectl.kubectl import explain, remote_sentence
from tests.unit.operator.kubectl import recorded
from tests.unit.operator.kubectl.conftest import Theatre
from tests.unit.operator.kubectl.test_looking import PODS, RESOURCES, whole


@pytest.mark.parametrize(
    "arguments",
    [
        ("servers", "--no-ask", "-n", "mail", "--context=far", "--as", "ann"),
        ("-n", "mail", "--context", "far", "--as=ann", "servers", "--no-ask"),
        ("-n", "wrong", "--context", "far", "servers", "--no-ask", "--namespace", "mail", "--as=ann"),
    ],
)
def test_flags_count_before_and_after_the_command(theatre: Theatre, arguments: tuple[str, ...]) -> None:
    theatre.record(*whole())
    theatre.run(*arguments)
    assert theatre.calls
    assert all(call["line"].startswith("--namespace=mail --context=far --as=ann get ") for call in theatre.calls)


def test_cluster_is_ours_and_not_kubectls(theatre: Theatre) -> None:
    both = recorded.items(recorded.cluster(), recorded.cluster("second"), recorded.group(cluster="second"))
    theatre.record((RESOURCES, both), (PODS, recorded.items(recorded.pod("mail-0"))))
    assert "several MailClusters are here (example and second); name one with --cluster" in theatre.run("servers")
    said = theatre.run("servers", "--no-ask", "--cluster", "second")
    assert "mail-2" in said and not any("--cluster" in call["line"] for call in theatre.calls)
    said = theatre.run("servers", "--cluster=third")
    assert "no MailCluster third in this namespace; there is example and second; name another with -n" in said


def test_no_cluster(theatre: Theatre) -> None:
    theatre.record((RESOURCES, recorded.items()))
    for command in ("status", "servers", "mirrors"):
        said = theatre.run(command)
        assert "stderr: kubectl mailarray: no MailCluster in this namespace; name another with -n" in said
        assert said.endswith("exit code 1\n")


def test_no_kubectl(theatre: Theatre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert theatre.run("status").splitlines()[1:] == [
        "stderr: kubectl mailarray: kubectl was not found; install it, or put its folder into PATH",
        "exit code 1",
    ]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            'error: the server doesn\'t have a resource type "mailclusters"',
            "this Kubernetes cluster does not know Mailarray's resources; install its Helm chart first, "
            "or choose another --context",
        ),
        (
            'Error from server (Forbidden): pods "mail-0" is forbidden: User "ann" cannot create resource "pods/exec"',
            'no permission: pods "mail-0" is forbidden: User "ann" cannot create resource "pods/exec"; '
            "ask whoever runs the Kubernetes cluster, or choose another --context",
        ),
        (
            'error: context "far" does not exist',
            'context "far" does not exist; `kubectl config get-contexts` lists them',
        ),
        (
            "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?",
            "the Kubernetes API does not answer (The connection to the server 10.0.0.1:6443 was refused); "
            "check the network and --context; mail does not need it",
        ),
        (
            "Unable to connect to the server: dial tcp 10.0.0.1: i/o timeout",
            "the Kubernetes API does not answer (Unable to connect to the server: dial tcp 10.0.0.1: i/o timeout); "
            "check the network and --context; mail does not need it",
        ),
        (
            "error: You must be logged in to the server (Unauthorized)",
            "the Kubernetes API does not know you; log in again, or choose another --context",
        ),
        (
            'Error from server (NotFound): mailservers.mailarray.io "mail" not found',
            'mailservers.mailarray.io "mail" not found; check the name, and the namespace with -n',
        ),
        (
            'error: unable to upgrade connection: container not found ("catalog")',
            "the pod cannot be asked now; it is starting, or its node is away",
        ),
        ("Error from server (InternalError): etcd is away.", "kubectl failed: etcd is away"),
        ("warning: x\nerror: odd", "kubectl failed: odd"),
        ("", "kubectl failed: it did not say why"),
    ],
)
def test_kubectls_errors(error: str, sentence: str) -> None:
    assert explain(error).message == sentence


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("mailarray: no\ncommand terminated with exit code 1\n", "no"),
        (
            "Usage: mailarray [OPTIONS]\nTry 'mailarray -h'\n\nError: No such command 'locate'.\ncommand terminated "
            "with exit code 2\n",
            "mail-0 runs a version of Mailarray that is older than this plugin (No such command 'locate'.); "
            "upgrade the operator first",
        ),
        (
            "command terminated with exit code 137\n",
            "`mailarray account add` failed in mail-0 and did not say why; look at `kubectl logs mail-0`",
        ),
    ],
)
def test_errors_of_commands_in_pods(error: str, sentence: str) -> None:
    assert remote_sentence(error, "mail-0", ["mailarray", "account", "add", "x"]) == sentence


def test_colours_on_a_terminal_only(theatre: Theatre) -> None:
    theatre.record(*whole())
    assert "\x1b[" not in theatre.run("servers")
    parent, child = pty.openpty()
    program = "from mailarray_operator.kubectl.main import main; main(['servers', '--no-ask'])"
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("NO_COLOR", None)
    try:
        subprocess.run([sys.executable, "-c", program], stdout=child, env=environment, check=True, timeout=30)
        assert b"\x1b[32mServing" in os.read(parent, 65536)
    finally:
        os.close(child)
        os.close(parent)


def test_several_servers_are_asked_at_once_and_none_stops_the_others(theatre: Theatre) -> None:
    theatre.record(*whole()[:3], whole()[3], (r"exec mail-1", "", "error: unable to upgrade connection: x\n", 1))
    said = theatre.run("servers")
    assert "! mail-1: could not be asked: the pod cannot be asked now; it is starting, or its node is away" in said
    assert "8 GiB" in said
