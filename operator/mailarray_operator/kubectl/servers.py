"""`kubectl mailarray servers`: one row a server, with what the operator says of it and what it says itself.

Of a server with several volumes its row has the sums of those that answer, and each volume has a row below it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import click
from rich.text import Text

from mailarray_operator.kubectl import array, asking, drawing
from mailarray_operator.kubectl.array import Cluster, Pod, ServerRow
from mailarray_operator.kubectl.asking import Answer
from mailarray_operator.kubectl.targets import kubectl, output_option, target_options

SIDECAR_FIGURES = ("disk_free", "lag_bytes", "under_replicated", "in_one_zone", "second_deliveries")
WRITER_FIGURES = ("sessions", "accepted", "pending")


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
        click.echo(json.dumps([_as_json(row, pods.get(row.name), answers) for row in rows], indent=2))
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
        each = _volumes(row, pods.get(row.name), answers)
        total = _totals(answer for _, _, answer in each)
        table.add_row(
            row.group, row.name, drawing.word(row.phase), drawing.bar(row.progress, row.time_left),
            row.zone or drawing.DASH, row.node or drawing.DASH,
            drawing.short(row.volume) if len(each) == 1 else f"{len(each)} volumes",
            ", ".join(row.mirrors) or drawing.DASH, drawing.size(total.get("disk_free")),
            drawing.size(total.get("lag_bytes")),
        )  # fmt: skip
        for name, identity, answer in each if len(each) > 1 else ():
            sidecar = answer.sidecar or {}
            table.add_row(
                "", f"  {name}", drawing.word(_state(row, name, answer)), drawing.DASH, "", "", drawing.short(identity),
                "", drawing.size(sidecar.get("disk_free")), drawing.size(sidecar.get("lag_bytes")),
            )  # fmt: skip
    console.print(table)
    for note in notes(rows, pods, answers):
        console.print(note, soft_wrap=True)
    return 0


Volume = tuple[str, str, Answer]  # name, id ("" when nobody says it), what it says


def _volumes(row: ServerRow, pod: Pod | None, answers: Mapping[str, Answer]) -> list[Volume]:
    """Of one server, in their order; the status has their ids with commas between them."""
    known = row.volume.split(",")
    names = [row.name] if pod is None else pod.volume_names()
    names += [f"{row.name}.{number}" for number in range(len(names), len(known))]  # of a pod that is being made
    ids = known + [""] * (len(names) - len(known))
    told = [answers.get(name) or Answer() for name in names]
    return [
        (name, str((one.sidecar or {}).get("volume") or old), one)
        for name, old, one in zip(names, ids, told, strict=True)
    ]


def _totals(answers: Iterable[Answer]) -> dict[str, int]:
    """Sums over the volumes that answer; a figure that none of them has is left out."""
    sums: dict[str, int] = {}
    for answer in answers:
        for said, figures in ((answer.sidecar, SIDECAR_FIGURES), (answer.writer, WRITER_FIGURES)):
            for figure in figures:
                value = (said or {}).get(figure)
                if isinstance(value, int) and not isinstance(value, bool):
                    sums[figure] = sums.get(figure, 0) + value
    return sums


def _state(row: ServerRow, name: str, answer: Answer) -> str:
    if name in row.broken:
        return "Broken"
    return row.phase if answer.sidecar is not None and answer.writer is not None else ""


def notes(rows: list[ServerRow], pods: Mapping[str, Pod], answers: Mapping[str, Answer]) -> list[Text]:
    """What does not fit into a row."""
    lines = []
    for row in rows:
        pod, answer = pods.get(row.name), answers.get(row.name)
        if row.message:
            lines.append(drawing.note(row.name, row.message))
        elif row.broken:
            lines += [drawing.note(name, f"is broken: {why}") for name, why in row.broken.items()]
        if pod is not None and not pod.ready and pod.problem:
            lines.append(drawing.note(row.name, f"its pod: {pod.problem}"))
        elif answer is not None and answer.error:
            lines.append(drawing.note(row.name, f"could not be asked: {answer.error}"))
        for name in (row.name,) if pod is None else pod.volume_names():
            one = answers.get(name)
            if name != row.name and one is not None and one.error and name not in row.broken:
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


def _as_json(row: ServerRow, pod: Pod | None, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """`writer`, `sidecar` and `error` are of the first volume."""
    answer, each = answers.get(row.name), _volumes(row, pod, answers)
    return {
        **asdict(row),
        "totals": _totals(one for _, _, one in each),
        "volumes": [{"name": name, "volume": identity, **asdict(one)} for name, identity, one in each],
        "pod": None if pod is None else {"ready": pod.ready, "problem": pod.problem},
        "writer": None if answer is None else answer.writer,
        "sidecar": None if answer is None else answer.sidecar,
        "error": "" if answer is None else answer.error,
    }
