"""`kubectl mailarray drain`: give up a server; its mail is copied to others, and only then does it stop.

Lowers the MailServer's replicas by one and lets the operator do the rest, so that whatever the operator refuses stays
refused. A group gives up its last server first, as a StatefulSet does.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from mailarray_operator.api import names
from mailarray_operator.kubectl import array, drawing
from mailarray_operator.kubectl.advice import refusal, waiting
from mailarray_operator.kubectl.array import Cluster, Group, ServerRow
from mailarray_operator.kubectl.kubectl import Kubectl
from mailarray_operator.kubectl.targets import kubectl, target_options

POLL_SECONDS = 2.0
COUNTED_SECONDS = 30.0  # after which an operator that has not acted is worth a word

DRAINING, DRAINED = "Draining", "Drained"


@dataclass(frozen=True, slots=True)
class Drain:
    """What is to be done."""

    group: Group
    server: str  # the last one
    running: bool  # it drains already


@click.command()
@target_options
@click.argument("what", metavar="SERVER|GROUP")
@click.option("--wait", is_flag=True, help="Show progress until the server is drained, or the drain is refused.")
@click.option("--timeout", type=float, default=0.0, help="Seconds to wait at most; 0: as long as it takes.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--poll", type=float, default=POLL_SECONDS, hidden=True)
def drain(what: str, wait: bool, timeout: float, yes: bool, poll: float) -> int:
    """Drain the last server of a group: copy its mail to others, then stop it. Its volume is kept."""
    client = kubectl()
    cluster = array.chosen(client)
    todo = decide(cluster, what)
    if todo.running:
        click.echo(f"{todo.server} is being drained already")
    else:
        if cluster.spec.get("paused"):
            raise click.ClickException(
                f"the operator does nothing while {cluster.name} is paused; set spec.paused to false first"
            )
        if not yes:
            click.confirm(_question(cluster, todo), abort=True, err=True)
        client.scale(todo.group.name, current=todo.group.wanted, replicas=todo.group.wanted - 1)
        click.echo(f"{todo.server} is to be drained; {todo.group.name} goes to {todo.group.wanted - 1} servers")
    if wait:
        return follow(client, todo, poll, timeout)
    click.echo(f"watch it with `kubectl mailarray drain {todo.server} --wait`, or with `kubectl mailarray servers`")
    return 0


def decide(cluster: Cluster, what: str) -> Drain:
    """Which server of which group goes. Raises ClickException when it cannot be that one."""
    groups = {group.name: group for group in cluster.groups}
    owner = next((g for g in cluster.groups if g.ordinal(what) is not None), None)
    if what in groups and owner is not None:
        raise click.ClickException(
            f"{what} is a MailServer and also the name of a server of {owner.name}; "
            f"use `kubectl scale mailserver/NAME --replicas=N` for the one that you mean"
        )
    group = groups.get(what) or owner
    if group is None:
        known = f"; there is {array.listed(sorted(groups))}" if groups else ""
        raise click.ClickException(f"{cluster.name} has no MailServer or server {what}{known}")
    going = [row.name for row in group.servers if (group.ordinal(row.name) or 0) >= group.wanted]
    if what in going:
        return Drain(group, what, running=True)
    if group.wanted == 0:
        if what in groups and going:
            return Drain(group, going[0], running=True)
        raise click.ClickException(f"{group.name} has no servers left to drain")
    last = names.server(group.name, group.wanted - 1)
    if what == group.name or what == last:
        return Drain(group, last, running=False)
    ordinal = group.ordinal(what)
    assert ordinal is not None
    if ordinal >= group.wanted:
        raise click.ClickException(f"{group.name} has no server {what}; its last one is {last}")
    raise click.ClickException(
        f"{what} cannot be drained by itself: a group gives up its last server first, and that is {last}; drain "
        f"{group.wanted - ordinal} servers, or, to move {what} off its node, use `kubectl drain` on the node"
    )


def _question(cluster: Cluster, todo: Drain) -> str:
    left = sum(group.wanted for group in cluster.groups) - 1
    copies = (cluster.spec.get("storage") or {}).get("copies", 2)
    warning = f" That leaves {left} for {copies} copies, which the operator refuses." if left < copies else ""
    return (
        f"Drain {todo.server}? It takes no new mail, what it holds is copied to others, and then it stops; its volume "
        f"is kept.{warning}"
    )


def follow(client: Kubectl, todo: Drain, poll: float, timeout: float) -> int:
    """Show progress until the end; exit code 1 when it is refused or takes too long."""
    begin = time.monotonic()
    hinted = False
    with _Display(todo.server) as display:
        while True:
            found = array.fetch(client)
            group = next((g for c in found.clusters for g in c.groups if g.name == todo.group.name), None)
            row = None if group is None else next((r for r in group.servers if r.name == todo.server), None)
            if group is None:
                raise click.ClickException(f"the MailServer {todo.group.name} was deleted meanwhile")
            if ended := _end(group, row, todo):
                display.done()
                click.echo(ended)
                return 0
            why = refusal(group)
            if why is not None and not group.behind:
                raise click.ClickException(
                    f"the operator refuses to drain {todo.server}: {why}; take the wish back with "
                    f"`kubectl scale mailserver/{group.name} --replicas={(group.ordinal(todo.server) or 0) + 1}`"
                )
            if group.wanted > (group.ordinal(todo.server) or 0):
                raise click.ClickException(
                    f"{group.name} was set back to {group.wanted} servers, so {todo.server} stays; "
                    f"`kubectl describe mailserver {group.name}` shows why"
                )
            if row is not None:
                display.show(row, waiting(group))
            waited = time.monotonic() - begin
            if group.behind and waited > COUNTED_SECONDS and not hinted:
                click.echo("the operator has not acted on it yet; look whether it runs", err=True)
                hinted = True
            if timeout and waited >= timeout:
                raise click.ClickException(
                    f"{todo.server} is not drained after {timeout:.0f} s; the operator goes on; look with "
                    "`kubectl mailarray servers`"
                )
            time.sleep(poll)


def _end(group: Group, row: ServerRow | None, todo: Drain) -> str:
    if (row is None and not group.behind) or (row is not None and row.phase == DRAINED):
        return f"{todo.server} is drained; its claim {names.claim(todo.server)} is kept"
    return ""


class _Display:
    """A bar on a terminal; elsewhere a line for each change."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._last: tuple[object, ...] = ()
        self._progress = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[message]}"),
            )
            if sys.stdout.isatty()
            else None
        )
        self._task = None if self._progress is None else self._progress.add_task(server, total=100, message="")

    def __enter__(self) -> _Display:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, row: ServerRow, group_says: str) -> None:
        """Its newest state."""
        message = row.message or group_says
        now = (row.phase, row.progress, row.time_left, message)
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task,
                completed=row.progress or 0,
                description=f"{row.name} {row.phase}{drawing.takes(row.time_left)}",
                message=message,
            )
        elif now != self._last:
            percent = "" if row.progress is None else f" {row.progress} %{drawing.takes(row.time_left)}"
            click.echo(f"{row.name} {row.phase}{percent}{': ' if message else ''}{message}")
        self._last = now

    def done(self) -> None:
        """It is drained."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=100, description=f"{self._server} {DRAINED}", message="")
