"""`kubectl mailarray mirrors`: the mirroring table, and what each server makes of it now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click
from rich.text import Text

from mailarray_operator.kubectl import array, asking, drawing
from mailarray_operator.kubectl.asking import Answer
from mailarray_operator.kubectl.targets import kubectl, output_option, target_options


@click.command()
@target_options
@click.option("--no-ask", is_flag=True, help="Show the table alone; execute nothing in a pod.")
@output_option
def mirrors(no_ask: bool, output: str) -> int:
    """Show to which servers each server copies its mail: candidates by class, best first, and which are in use."""
    client = kubectl()
    cluster = array.chosen(client)
    table = array.mirroring_table(client, cluster.name)
    if table is None:
        raise click.ClickException(
            f"{cluster.name} has no mirroring table yet; the operator makes it when the first servers are there"
        )
    answers: Mapping[str, Answer] = {} if no_ask else asking.ask(client, array.pods(client, cluster.name).values())
    rows = [_row(server, table, answers.get(str(server.get("name")))) for server in table.get("servers") or []]
    if output == "json":
        click.echo(
            json.dumps({"cluster": cluster.name, "generation": table.get("generation"), "servers": rows}, indent=2)
        )
        return 0
    _draw(cluster.name, table, rows)
    return 0


def _row(server: Mapping[str, Any], table: Mapping[str, Any], answer: Answer | None) -> dict[str, Any]:
    writer = (answer.writer if answer else None) or {}
    return {
        "server": server.get("name", ""),
        "zone": server.get("zone", ""),
        "node": server.get("node", ""),
        "state": server.get("state", ""),
        "classes": _classes(table, server.get("name", "")),
        "generation": writer.get("table_generation"),
        "mirrors": writer.get("mirrors"),
        "error": answer.error if answer else "",
    }


def _classes(table: Mapping[str, Any], server: str) -> list[list[str]]:
    """Names of candidates; the table names them by their places in its list of servers."""
    servers = table.get("servers") or []
    groups = (table.get("rows") or {}).get(server, [])
    return [[servers[one].get("name", "") if isinstance(one, int) else one for one in group] for group in groups]


def _draw(name: str, table: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    generation = table.get("generation")
    console = drawing.console()
    console.print(Text.assemble((name, "bold"), f"  mirroring table, generation {generation}"))
    console.print()
    drawn = drawing.table("SERVER", "ZONE", "NODE", "CANDIDATES, BEST CLASS FIRST", "IN USE", "TABLE", right=("TABLE",))
    for row in rows:
        candidates = " | ".join(", ".join(group) for group in row["classes"]) or drawing.DASH
        server = Text.assemble(row["server"], (" (draining)", "yellow") if row["state"] == "Draining" else "")
        heard = row["generation"]
        drawn.add_row(
            server, row["zone"] or drawing.DASH, row["node"] or drawing.DASH, candidates, _in_use(row["mirrors"]),
            Text(drawing.DASH if heard is None else str(heard), "" if heard in (None, generation) else "yellow"),
        )  # fmt: skip
    console.print(drawn)
    for row in rows:
        for line in _notes(row, generation):
            console.print(drawing.note(row["server"], line), soft_wrap=True)


def _in_use(mirrors: list[Mapping[str, Any]] | None) -> Text:
    used = [m for m in mirrors or [] if m.get("in_use")]
    if not used:
        return Text(drawing.DASH)
    return Text(", ").join(
        Text.assemble(str(m.get("server")), " ", drawing.word(str(m.get("state", "")))) for m in used
    )


def _notes(row: Mapping[str, Any], generation: object) -> list[str]:
    lines = [
        f"its mirror {m.get('server')} is {m.get('state')}: {m['error']}"
        for m in row["mirrors"] or []
        if m.get("error")
    ]
    if not row["classes"] and row["state"] != "Draining":
        lines.append(
            "has no candidates: its mail has one copy, or is deferred; add servers, or a MirrorPair that names some"
        )
    if row["generation"] not in (None, generation):
        lines.append(f"still uses generation {row['generation']}; the operator pushes the newest one within seconds")
    if row["error"]:
        lines.append(f"could not be asked: {row['error']}")
    return lines
