"""`kubectl mailarray servers`: one row a server, with what the operator says of it and what it says itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click
from rich.text import Text

from mailarray_operator.kubectl import array, asking, drawing
from mailarray_operator.kubectl.array import Cluster, Pod, ServerRow
from mailarray_operator.kubectl.asking import Answer
from mailarray_operator.kubectl.targets import kubectl, output_option, target_options


@click.command()
@target_options
@click.option("--no-ask", is_flag=True, help="Look at resources alone; execute nothing in a pod.")
@output_option
def servers(no_ask: bool, output: str) -> int:
    """Show each server: phase, progress, zone, node, volume, mirrors, free space."""
    client = kubectl()
    cluster = array.chosen(client)
    pods = array.pods(client, cluster.name)
    answers = {} if no_ask else asking.ask(client, pods.values())
    rows = _rows(cluster, pods)
    if output == "json":
        click.echo(json.dumps([_as_json(row, pods.get(row.name), answers.get(row.name)) for row in rows], indent=2))
        return 0
    if not rows:
        wanted = sum(group.wanted for group in cluster.groups)
        raise click.ClickException(
            f"{cluster.name} has no servers yet, and {wanted} are wanted; the operator makes them: look whether it runs"
            if wanted
            else f"{cluster.name} has no servers; make a MailServer that refers to it"
        )
    console = drawing.console()
    table = drawing.table(
        "GROUP",
        "SERVER",
        "PHASE",
        "PROGRESS",
        "ZONE",
        "NODE",
        "VOLUME",
        "MIRRORS",
        "FREE",
        "LAG",
        right=("FREE", "LAG"),
    )
    for row in rows:
        sidecar = (answers.get(row.name) or Answer()).sidecar or {}
        table.add_row(
            row.group, row.name, drawing.word(row.phase), drawing.bar(row.progress, row.time_left),
            row.zone or drawing.DASH, row.node or drawing.DASH, drawing.short(row.volume),
            ", ".join(row.mirrors) or drawing.DASH, drawing.size(sidecar.get("disk_free")),
            drawing.size(sidecar.get("lag_bytes")),
        )  # fmt: skip
    console.print(table)
    for note in notes(rows, pods, answers):
        console.print(note, soft_wrap=True)
    return 0


def notes(rows: list[ServerRow], pods: Mapping[str, Pod], answers: Mapping[str, Answer]) -> list[Text]:
    """What does not fit into a row."""
    lines = []
    for row in rows:
        pod, answer = pods.get(row.name), answers.get(row.name)
        if row.message:
            lines.append(drawing.note(row.name, row.message))
        if pod is not None and not pod.ready and pod.problem:
            lines.append(drawing.note(row.name, f"its pod: {pod.problem}"))
        elif answer is not None and answer.error:
            lines.append(drawing.note(row.name, f"could not be asked: {answer.error}"))
        for name in (row.name,) if pod is None else pod.volume_names():
            one = answers.get(name)
            if name != row.name and one is not None and one.error:
                lines.append(drawing.note(name, f"could not be asked: {one.error}"))
            if one is not None and one.writer is not None and one.writer.get("refusing"):
                lines.append(drawing.note(name, f"refuses mail: {one.writer['refusing']}"))
    return lines


def _rows(cluster: Cluster, pods: Mapping[str, Pod]) -> list[ServerRow]:
    """The status's rows, and pods that no status names yet."""
    rows = cluster.servers
    known = {row.name for row in rows}
    for pod in pods.values():
        if pod.name not in known:
            group = next((g.name for g in cluster.groups if g.ordinal(pod.name) is not None), "")
            rows.append(ServerRow(group, pod.name, "", None, "", "", pod.node, "", (), ""))
    return sorted(rows, key=lambda row: (row.group, array.natural(row.name)))


def _as_json(row: ServerRow, pod: Pod | None, answer: Answer | None) -> dict[str, Any]:
    return {
        **asdict(row),
        "pod": None if pod is None else {"ready": pod.ready, "problem": pod.problem},
        "writer": None if answer is None else answer.writer,
        "sidecar": None if answer is None else answer.sidecar,
        "error": "" if answer is None else answer.error,
    }
