"""The `kubectl` binary: the one way to the Kubernetes API, and its errors as one sentence each.

Refuses to hold state or to interpret resources; who calls it are the commands. Passwords go through standard input,
never through arguments, since everybody on a machine sees the arguments of its processes.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, BinaryIO

import click

REQUEST_SECONDS = 30  # of one request to the Kubernetes API
_TERMINATED = "command terminated with exit code"  # kubectl says so when the command ran, and failed
_FRAMING = (_TERMINATED, "Defaulted container")
EXEC_SECONDS = 20.0  # of a short command in a pod; a server that does not answer by then is shown so


Stdin = bytes | BinaryIO | None


class NotFound(click.ClickException):
    """The object is not there."""


class Forbidden(click.ClickException):
    """The person may not do this."""


class RemoteFailure(click.ClickException):
    """A command in a pod failed, with a sentence of its own."""


class PodUnreachable(RemoteFailure):
    """Nothing was run in the pod; another one may be asked."""


@dataclass(slots=True)
class Target:
    """Where to look: kubectl's own flags, as a person gave them, and which MailCluster."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None
    user: str | None = None
    as_user: str | None = None
    cluster: str | None = None  # a MailCluster; kubectl's flag of that name is not passed on

    def flags(self) -> list[str]:
        """For kubectl."""
        given = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name != "cluster":
                given.append(f"--{'as' if field.name == 'as_user' else field.name}={value}")
        return given


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ran in a pod."""

    code: int
    said: str
    error: str

    @property
    def remarks(self) -> list[str]:
        """Its standard error, without kubectl's own words."""
        return [line for line in self.error.splitlines() if line.strip() and not line.startswith(_FRAMING)]


class Kubectl:
    """kubectl with a person's flags."""

    def __init__(self, target: Target) -> None:
        self.target = target
        found = shutil.which("kubectl")
        if found is None:
            raise click.ClickException("kubectl was not found; install it, or put its folder into PATH")
        self._base = [found, *target.flags()]

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get … -o json`."""
        said = self._run(["get", *arguments, "-o", "json", f"--request-timeout={REQUEST_SECONDS}s"])
        try:
            answer = json.loads(said)
        except ValueError:
            raise click.ClickException("kubectl answered with something that is not JSON; try the same again") from None
        if not isinstance(answer, dict):
            raise click.ClickException("kubectl answered with something that is no object; try the same again")
        return answer

    def scale(self, group: str, *, current: int, replicas: int) -> None:
        """Lower or raise a MailServer, unless somebody else has changed it meanwhile."""
        self._run(
            [
                "scale",
                f"mailservers.mailarray.io/{group}",
                f"--current-replicas={current}",
                f"--replicas={replicas}",
                f"--request-timeout={REQUEST_SECONDS}s",
            ]
        )

    def execute(
        self,
        pod: str,
        container: str,
        command: Sequence[str],
        *,
        stdin: Stdin = None,
        seconds: float | None = EXEC_SECONDS,
    ) -> str:
        """Run a command in a pod; answers its standard output. Raises RemoteFailure with what it said."""
        done = self.execute_whole(pod, container, command, stdin=stdin, seconds=seconds)
        if done.code != 0:
            raise RemoteFailure(remote_sentence(done.error, pod, command))
        return done.said

    def execute_whole(
        self,
        pod: str,
        container: str,
        command: Sequence[str],
        *,
        stdin: Stdin = None,
        seconds: float | None = EXEC_SECONDS,
    ) -> Done:
        """The same, for a command whose failure comes with an answer. Raises when it could not be run at all."""
        interactive = [] if stdin is None else ["-i"]
        line = [*self._base, "exec", *interactive, pod, "-c", container, "--", *command]
        try:
            if stdin is None or isinstance(stdin, bytes):
                done = subprocess.run(line, input=stdin or b"", capture_output=True, timeout=seconds, check=False)
            else:
                done = subprocess.run(line, stdin=stdin, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise RemoteFailure(f"{pod} gave no answer within {seconds:.0f} s") from None
        said, error = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        if done.returncode != 0 and _TERMINATED not in error:
            raise explain(error)
        return Done(done.returncode, said, error)

    def _run(self, arguments: Sequence[str]) -> str:
        done = subprocess.run([*self._base, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            raise explain(done.stderr.decode("utf-8", "replace"))
        return done.stdout.decode("utf-8", "replace")


def remote_sentence(error: str, pod: str, command: Sequence[str]) -> str:
    """What a command in a pod said before it failed, without the framing of its own program and kubectl's."""
    lines = [
        line.strip()
        for line in error.splitlines()
        if line.strip() and not line.startswith((*_FRAMING, "Usage:", "Try '"))
    ]
    last = lines[-1].removeprefix("mailarray: ").removeprefix("Error: ") if lines else ""
    if "No such command" in last or "No such option" in last:
        return f"{pod} runs a version of Mailarray that is older than this plugin ({last}); upgrade the operator first"
    if not last:
        return f"`{' '.join(command[:3])}` failed in {pod} and did not say why; look at `kubectl logs {pod}`"
    return last


_EXPLANATIONS: tuple[tuple[str, type[click.ClickException], str], ...] = (
    (
        r"doesn't have a resource type \"(?P<what>mail|mirror)|no matches for kind",
        click.ClickException,
        "this Kubernetes cluster does not know Mailarray's resources; install its Helm chart first, "
        "or choose another --context",
    ),
    (
        r"\(Forbidden\): (?P<what>.+)",
        Forbidden,
        "no permission: {what}; ask whoever runs the Kubernetes cluster, or choose another --context",
    ),
    (
        r"\(Unauthorized\)|must be logged in|provide credentials",
        click.ClickException,
        "the Kubernetes API does not know you; log in again, or choose another --context",
    ),
    (r"\(NotFound\): (?P<what>.+)", NotFound, "{what}; check the name, and the namespace with -n"),
    (
        r"(?P<what>context .+ does not exist|context was not found for specified context: .+)",
        click.ClickException,
        "{what}; `kubectl config get-contexts` lists them",
    ),
    (
        r"Expected replicas to be \d+, was (?P<what>\d+)",
        click.ClickException,
        "somebody else has just changed the number of servers to {what}; look with `kubectl mailarray servers`, then "
        "try again",
    ),
    (
        r"(?P<what>The connection to the server .+ was refused|Unable to connect to the server.*|.*i/o timeout.*)",
        click.ClickException,
        "the Kubernetes API does not answer ({what}); check the network and --context; mail does not need it",
    ),
    (
        r"container not found|unable to upgrade connection|error dialing backend",
        PodUnreachable,
        "the pod cannot be asked now; it is starting, or its node is away",
    ),
)


def explain(error: str) -> click.ClickException:
    """kubectl's error as one sentence."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    text = lines[-1] if lines else ""
    for pattern, kind, sentence in _EXPLANATIONS:
        match = re.search(pattern, text)
        if match is not None:
            what = next((group for group in match.groupdict().values() if group), "") if match.groupdict() else ""
            return kind(sentence.format(what=what.rstrip(". ")))
    said = re.sub(r"^error: |^Error from server( \(\w+\))?: ", "", text).rstrip(".")
    return click.ClickException(f"kubectl failed: {said or 'it did not say why'}")
