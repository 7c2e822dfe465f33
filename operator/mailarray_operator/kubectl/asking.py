"""What servers say of themselves: `mailarray server-status` in their pods, several at a time.

Statuses of resources hold no figures that change every second; these do. A server that gives no answer costs a line in
a table, never the whole command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import click

from mailarray_operator.api import names
from mailarray_operator.kubectl import array
from mailarray_operator.kubectl.array import Pod
from mailarray_operator.kubectl.kubectl import Done, Kubectl, PodUnreachable, RemoteFailure, Stdin, remote_sentence

AT_ONCE = 8  # each is a kubectl process here and a Python process there
SETTINGS = f"{names.PATH_SETTINGS}/{names.FILE_SERVER}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one server, or of a further volume of one."""

    writer: Mapping[str, Any] | None = None  # as in its /v1/status
    sidecar: Mapping[str, Any] | None = None
    error: str = ""  # one sentence when it could not be asked


def ask(kubectl: Kubectl, pods: Iterable[Pod]) -> dict[str, Answer]:
    """All of them, and each of their volumes; by name."""
    every = [(pod, number, name) for pod in pods for number, name in enumerate(pod.volume_names())]
    with ThreadPoolExecutor(AT_ONCE) as executor:
        answers = executor.map(lambda one: _ask(kubectl, one[0], one[1]), every)
        return {name: answer for (_, _, name), answer in zip(every, answers, strict=True)}


def in_any(kubectl: Kubectl, cluster: str, command: list[str], *, stdin: Stdin = None, seconds: float | None) -> Done:
    """Run a command in whichever server's pod can be reached; it is run once, whatever comes of it.

    Raises RemoteFailure when it failed without an answer, and ClickException when no pod can be reached.
    """
    failure: PodUnreachable | None = None
    for pod in array.some_to_ask(kubectl, cluster):
        try:
            done = kubectl.execute_whole(pod.name, names.CONTAINER_CATALOG, command, stdin=stdin, seconds=seconds)
        except PodUnreachable as error:
            failure = error
            if stdin is not None and not isinstance(stdin, bytes):  # kubectl may have read some of it
                if not stdin.seekable():
                    raise
                stdin.seek(0)
            continue
        if done.code != 0 and not done.said:
            raise RemoteFailure(remote_sentence(done.error, pod.name, command))
        return done
    assert failure is not None
    raise failure


def remote(command: str, *arguments: str, options: Iterable[str] = ()) -> list[str]:
    """`mailarray COMMAND` in a server's pod. Arguments that begin with a hyphen stay arguments."""
    return ["mailarray", *command.split(), "--settings", SETTINGS, *options, "--", *arguments]


def _ask(kubectl: Kubectl, pod: Pod, number: int) -> Answer:
    if not number and not pod.askable:
        return Answer(error=pod.problem or "does not run")
    stem, _, suffix = SETTINGS.rpartition(".")
    command = ["mailarray", "server-status", "--settings", f"{names.numbered(stem, number)}.{suffix}"]
    try:
        said = json.loads(kubectl.execute(pod.name, names.numbered(names.CONTAINER_CATALOG, number), command))
    except click.ClickException as error:
        return Answer(error=error.message)
    except ValueError:
        return Answer(error="gave an answer that is not JSON")
    errors = said.get("errors") or {}
    return Answer(
        said.get("writer"), said.get("sidecar"), "; ".join(f"its {what} process: {why}" for what, why in errors.items())
    )
