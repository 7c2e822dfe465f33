"""`kubectl mailarray status`: MailClusters at a glance, what is wrong, and what to do first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from mailarray_operator.kubectl import array, asking, drawing
from mailarray_operator.kubectl.advice import advice, bad
from mailarray_operator.kubectl.array import Cluster, Pod
from mailarray_operator.kubectl.asking import Answer
from mailarray_operator.kubectl.kubectl import Forbidden, Kubectl
from mailarray_operator.kubectl.targets import kubectl, output_option, target_options

MOVING = ("Draining", "Rebuilding")  # phases in which mail is copied


@click.command()
@target_options
@click.option("-A", "--all-namespaces", is_flag=True, help="One line for each MailCluster of all namespaces.")
@click.option("--no-ask", is_flag=True, help="Look at resources alone; execute nothing in a pod.")
@output_option
def status(all_namespaces: bool, no_ask: bool, output: str) -> int:
    """Show what there is, what is wrong and what to do first; exit code 1 while a MailCluster is not ready."""
    client = kubectl()
    everything = array.fetch(client, all_namespaces=all_namespaces)
    if all_namespaces:
        return _overview(everything.clusters, output)
    wanted = client.target.cluster
    clusters = everything.clusters if wanted is None else (array.choose(everything, wanted),)
    if not clusters:
        array.choose(everything, None)  # says that there is none
    reports = [_report(client, cluster, no_ask) for cluster in clusters]
    orphans = [
        f"MailServer {o.name} refers to the MailCluster {(o.spec.get('clusterRef') or {}).get('name')}, which is not "
        "there; its servers go on as they were; make the MailCluster again, or delete the MailServer"
        for o in everything.orphans
        if wanted is None
    ]
    if output == "json":
        click.echo(json.dumps({"clusters": [_as_json(report) for report in reports], "orphans": orphans}, indent=2))
    else:
        console = drawing.console()
        for i, report in enumerate(reports):
            if i:
                console.print()
            _draw(console, report)
        for orphan in orphans:
            console.print()
            console.print(drawing.note("left alone", orphan), soft_wrap=True)
    return 0 if all(ready(cluster) for cluster in clusters) else 1


def ready(cluster: Cluster) -> bool:
    """By its condition."""
    condition = cluster.condition("Ready")
    return condition is not None and condition.status == "True"


@dataclass(frozen=True, slots=True)
class Report:
    """What is shown of one MailCluster."""

    cluster: Cluster
    first: list[str]  # what to do, most urgent first
    answer: Answer | None = None  # of one server
    unasked: str = ""  # why pods were not looked at


def _report(client: Kubectl, cluster: Cluster, no_ask: bool) -> Report:
    pods: Mapping[str, Pod] = {}
    answer = None
    try:
        pods = array.pods(client, cluster.name)
        askable = [pod for pod in pods.values() if pod.askable]
        if askable and not no_ask:  # one is enough to hear how the catalog is
            first = min(askable, key=lambda pod: not pod.ready)
            said = asking.ask(client, [first])
            answer = next((one for one in said.values() if one.sidecar is not None), said[first.name])
    except Forbidden as error:  # the resources alone tell enough for a look
        return Report(cluster, advice(cluster, pods, None), unasked=error.message)
    return Report(cluster, advice(cluster, pods, answer), answer)


def _overview(clusters: tuple[Cluster, ...], output: str) -> int:
    if output == "json":
        click.echo(json.dumps({"clusters": [_as_json(Report(c, advice(c, {}, None))) for c in clusters]}, indent=2))
    elif not clusters:
        raise click.ClickException("no MailCluster in any namespace; make one as docs/kubernetes.md shows")
    else:
        table = drawing.table("NAMESPACE", "CLUSTER", "READY", "SERVERS", "UNDER", "FIRST TO DO", right=("UNDER",))
        for c in clusters:
            condition, said = c.condition("Ready"), advice(c, {}, None)
            under = (c.status.get("mirroring") or {}).get("underReplicatedSegments")
            state = drawing.word(condition.status if condition else "")
            table.add_row(
                c.namespace, c.name, state, _servers(c), drawing.DASH if under is None else str(under),
                said[0] if said else drawing.DASH,
            )  # fmt: skip
        drawing.console().print(table)
    return 0 if all(ready(cluster) for cluster in clusters) else 1


def _draw(console: Console, report: Report) -> None:
    cluster = report.cluster
    condition = cluster.condition("Ready")
    state = Text("Ready", "bold green") if ready(cluster) else Text("Not ready", "bold red")
    reason = f"  {condition.reason}" if condition and not ready(cluster) else ""
    console.print(Text.assemble((cluster.name, "bold"), f"  in {cluster.namespace}  ", state, reason))
    console.print()
    for name, text in _facts(cluster, report.answer):
        console.print(Text.assemble((f"  {name:<12}", "dim"), text), soft_wrap=True)
    if cluster.conditions:
        console.print()
        table = drawing.table("  CONDITION", "STATUS", "REASON", "MESSAGE")
        for c in cluster.conditions:
            style = "red" if bad(c) else ""
            table.add_row(f"  {c.type}", Text(c.status, style), c.reason or drawing.DASH, c.message or drawing.DASH)
        console.print(table)
    console.print()
    console.print(Text("What to do first:", "bold") if report.first else Text("Nothing to do.", "green"))
    for number, sentence in enumerate(report.first, 1):
        console.print(Text(f"  {number}. {sentence}"), soft_wrap=True)
    if report.unasked:
        console.print(drawing.note("pods were not looked at", report.unasked), soft_wrap=True)


def _facts(cluster: Cluster, answer: Answer | None) -> list[tuple[str, str]]:
    spec, status = cluster.spec, cluster.status
    domains = [str(d.get("name")) for d in spec.get("domains") or []]
    mirroring = status.get("mirroring") or {}
    storage = spec.get("storage") or {}
    table = f"table {mirroring['generation']}" if "generation" in mirroring else "no table yet"
    spread = {"Zone": ", copies in another zone", "Node": ", copies on another node"}.get(
        mirroring.get("spread", ""), ""
    )
    under = mirroring.get("underReplicatedSegments")
    short = (
        "" if under is None else f", {under} segments under-replicated{drawing.takes(mirroring.get('timeLeft', ''))}"
    )
    under_way = [row for row in cluster.servers if row.phase in MOVING and row.progress is not None]
    return [
        ("domains", f"{', '.join(domains[:5])}{f' and {len(domains) - 5} more' if len(domains) > 5 else ''}"),
        (
            "servers",
            f"{_servers(cluster)} ready ({', '.join(f'{g.name} {g.wanted}' for g in cluster.groups) or 'none'})",
        ),
        ("mirroring", f"{storage.get('copies', 2)} copies, {table}{spread}{short}"),
        *[("", f"{row.name} is {row.phase}, {row.progress} %{drawing.takes(row.time_left)}") for row in under_way],
        ("catalog", _catalog(cluster, answer)),
        ("accounts", _accounts(cluster)),
    ]


def _servers(cluster: Cluster) -> str:
    servers = cluster.status.get("servers") or {}
    return f"{servers.get('ready', 0)} of {servers.get('desired', sum(g.wanted for g in cluster.groups))}"


def _catalog(cluster: Cluster, answer: Answer | None) -> str:
    where = (cluster.status.get("catalog") or {}).get("database")
    if not where:
        own = (cluster.spec.get("catalog") or {}).get("databaseSecretRef")
        where = f"database of Secret {own.get('name')}" if own else "PostgreSQL run by the operator"
    if answer is None or answer.sidecar is None:
        return str(where)
    catalog = answer.sidecar.get("catalog") or {}
    state = "does not answer" if catalog.get("state") == "away" else "open" if catalog.get("open") else "closed"
    return f"{where}, {state} (says {answer.sidecar.get('server', 'a server')})"


def _accounts(cluster: Cluster) -> str:
    secret = secret_name(cluster)
    return "in the catalog's database" if secret is None else f"flat file in Secret {secret}"


def secret_name(cluster: Cluster) -> str | None:
    """The Secret that accounts are kept in; None: the database."""
    reference = (cluster.spec.get("accounts") or {}).get("secretRef")
    return str(reference.get("name", "")) if reference else None


def _as_json(report: Report) -> dict[str, Any]:
    cluster, answer = report.cluster, report.answer
    catalog = None if answer is None or answer.sidecar is None else answer.sidecar.get("catalog")
    return {
        "namespace": cluster.namespace,
        "name": cluster.name,
        "ready": ready(cluster),
        "servers": cluster.status.get("servers"),
        "mirroring": cluster.status.get("mirroring"),
        "catalog": catalog,
        "accounts": {"secret": secret_name(cluster)} if secret_name(cluster) else {"database": True},
        "conditions": [asdict(c) for c in cluster.conditions],
        "first": report.first,
        "unasked": report.unasked,
    }
