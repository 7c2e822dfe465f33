"""`mailarray-operator`: the command line. Reads what it is told once, and runs the operator until SIGTERM."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import aiohttp
import click
import uvloop

from mailarray_operator import logs
from mailarray_operator.api.configuration import Configuration
from mailarray_operator.cluster.client import ApiError, ConnectionProblem, connect
from mailarray_operator.cluster.port import PortProblem
from mailarray_operator.cluster.reconcile import Decide
from mailarray_operator.cluster.resolver import split
from mailarray_operator.handlers.resources import FollowerEnded
from mailarray_operator.plan import decide
from mailarray_operator.process import OperatorProcess, Wrap

SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@click.group(context_settings={"auto_envvar_prefix": "MAILARRAY", "help_option_names": ["-h", "--help"]})
def main() -> None:
    """The Mailarray operator."""


@main.command(context_settings={"auto_envvar_prefix": "MAILARRAY"})
@click.option("--namespace", "namespaces", multiple=True, envvar="MAILARRAY_NAMESPACE", help="Watch it; all when none.")
@click.option("--dataplane-image", required=True, envvar="MAILARRAY_DATAPLANE_IMAGE", help="Image of the servers.")
@click.option("--postgresql-image", required=True, envvar="MAILARRAY_POSTGRESQL_IMAGE", help="Image of the catalog.")
@click.option(
    "--image-pull-policy",
    type=click.Choice(["Always", "IfNotPresent", "Never"]),
    default="IfNotPresent",
    envvar="MAILARRAY_IMAGE_PULL_POLICY",
    show_default=True,
)
@click.option("--cluster-domain", default="cluster.local", envvar="MAILARRAY_CLUSTER_DOMAIN", show_default=True)
@click.option("--operator-namespace", envvar="MAILARRAY_OPERATOR_NAMESPACE", help="Its own; from the pod by default.")
@click.option("--lease-name", default="mailarray-operator", envvar="MAILARRAY_LEASE_NAME", show_default=True)
@click.option("--leader-elect/--no-leader-elect", default=True, envvar="MAILARRAY_LEADER_ELECT", show_default=True)
@click.option("--listen", default="0.0.0.0:8080", envvar="MAILARRAY_LISTEN", show_default=True, help="Probes, metrics.")
@click.option(
    "--dns-server",
    "dns_servers",
    multiple=True,
    callback=lambda _context, _parameter, servers: checked(servers),
    envvar="MAILARRAY_DNS_SERVER",
    help="Ask it, host or host:port, what DNS says of the domains; the name servers of each zone when none.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    envvar="MAILARRAY_LOG_LEVEL",
    show_default=True,
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="MAILARRAY_KUBECONFIG",
    help="Outside of a cluster; the pod's service account by default.",
)
def run(
    namespaces: tuple[str, ...],
    dataplane_image: str,
    postgresql_image: str,
    image_pull_policy: str,
    cluster_domain: str,
    operator_namespace: str | None,
    lease_name: str,
    leader_elect: bool,
    listen: str,
    dns_servers: tuple[str, ...],
    log_level: str,
    kubeconfig: Path | None,
) -> None:
    """Watch mail clusters and bring them to what they shall be."""
    configuration = Configuration(
        namespaces=namespaces,
        dataplane_image=dataplane_image,
        postgresql_image=postgresql_image,
        image_pull_policy=image_pull_policy,
        cluster_domain=cluster_domain,
        operator_namespace=operator_namespace or own_namespace(),
        lease_name=lease_name,
        leader_elect=leader_elect,
        listen=listen,
        log_level=log_level,
        dns_servers=dns_servers,
    )
    sys.exit(start(configuration, kubeconfig, decide))


def checked(servers: tuple[str, ...]) -> tuple[str, ...]:
    """Name servers that can be asked. Raises BadParameter."""
    for server in servers:
        try:
            split(server)
        except ValueError as error:
            raise click.BadParameter(f"{server!r} has no port after the colon; write 10.0.0.53 or host:53") from error
    return servers


def own_namespace() -> str:
    """From the service account of the pod."""
    try:
        return SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


def start(
    configuration: Configuration, kubeconfig: Path | None, decide: Decide, wrap: Wrap = lambda writer: writer
) -> int:
    """Run until SIGTERM; the exit status. Tests wrap the writer."""
    logs.configure(configuration.log_level)
    try:
        uvloop.run(_run(configuration, kubeconfig, decide, wrap))
    except (ConnectionProblem, PortProblem, ApiError, FollowerEnded) as error:
        click.echo(f"mailarray-operator: {error}", err=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    return 0


async def _run(configuration: Configuration, kubeconfig: Path | None, decide: Decide, wrap: Wrap) -> None:
    client = await connect(kubeconfig)
    try:
        # Servers are asked and told by the hundreds, each at its own address.
        connector = aiohttp.TCPConnector(limit=256, limit_per_host=4, keepalive_timeout=15)
        async with aiohttp.ClientSession(connector=connector) as session:
            await OperatorProcess(configuration, kubeconfig, client, session, decide, wrap).run()
    finally:
        await client.close()


if __name__ == "__main__":
    main()
