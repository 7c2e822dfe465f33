"""The PostgreSQL that the operator runs when no database is named: one pod, one volume, made for a first cluster.

The image's contract: it makes the database of `POSTGRES_DB` for `POSTGRES_USER` in an empty `PGDATA`, with the
password in `POSTGRES_PASSWORD_FILE`; runs as any user, with a read-only root; writes to `/tmp` and
`/run/postgresql`; has `pg_isready`; ends quickly by its stop signal while clients are connected.
Mail is taken and read while it is away, and what it holds can be made again from the journals (accounts apart).
"""

from __future__ import annotations

from mailarray_operator.api import names
from mailarray_operator.render import pod
from mailarray_operator.render.claim import claim
from mailarray_operator.render.context import Context, Manifest
from mailarray_operator.render.metadata import labels, metadata, selector

USER = DATABASE = "mailarray"
DATA, PASSWORD, SOCKETS = "/var/lib/postgresql/data", "/etc/postgresql-password", "/run/postgresql"
CLAIM = names.DATABASE_CLAIM
GRACE_SECONDS = 60  # for the last checkpoint; a kill costs only a recovery


def database(context: Context) -> Manifest:
    """The StatefulSet. It belongs to nobody: servers serve on without their MailCluster."""
    name = names.database(context.name)
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(context, name, names.DATABASE),
        "spec": {
            "replicas": 1,
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate"},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": selector(context, names.DATABASE)},
            "template": {
                "metadata": {"labels": labels(context, names.DATABASE)},
                "spec": {
                    **pod.common(GRACE_SECONDS),
                    "containers": [_container(context)],
                    "volumes": [
                        pod.scratch("run", "16Mi", memory=True),
                        pod.scratch("tmp", "64Mi"),
                        {
                            "name": "password",
                            "secret": {
                                "secretName": name,
                                "items": [{"key": names.KEY_PASSWORD, "path": names.KEY_PASSWORD}],
                                "defaultMode": pod.SECRET_MODE,
                            },
                        },
                    ],
                },
            },
            "volumeClaimTemplates": [_claim(context)],
        },
    }


def _container(context: Context) -> Manifest:
    asks = {"exec": {"command": ["pg_isready", "-q", "-h", "127.0.0.1", "-U", USER, "-d", DATABASE]}}
    return {
        "name": names.CONTAINER_POSTGRESQL,
        "image": context.configuration.postgresql_image,
        "imagePullPolicy": context.configuration.image_pull_policy,
        "env": [
            {"name": "POSTGRES_USER", "value": USER},
            {"name": "POSTGRES_DB", "value": DATABASE},
            {"name": "POSTGRES_PASSWORD_FILE", "value": f"{PASSWORD}/{names.KEY_PASSWORD}"},
            {"name": "PGDATA", "value": f"{DATA}/pgdata"},  # below the mount, which may hold lost+found
        ],
        "ports": [pod.port("postgresql", names.PORT_POSTGRESQL)],
        # A recovery may take long, and answers no query; pg_isready fails until it is done.
        "startupProbe": {**asks, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": pod.STARTUP_SECONDS},
        "readinessProbe": {**asks, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 2},
        # Only whether somebody listens: PostgreSQL that is busy or full must not be ended for it.
        "livenessProbe": {
            "tcpSocket": {"port": names.PORT_POSTGRESQL},
            "periodSeconds": pod.ALIVE_PERIOD,
            "timeoutSeconds": pod.ALIVE_TIMEOUT,
            "failureThreshold": pod.ALIVE_FAILURES,
        },
        "resources": pod.DATABASE_RESOURCES,
        "securityContext": pod.container_security(),
        "volumeMounts": [
            pod.mount(CLAIM, DATA),
            pod.mount("run", SOCKETS),
            pod.mount("tmp", "/tmp"),
            pod.mount("password", PASSWORD, read_only=True),
        ],
    }


def _claim(context: Context) -> Manifest:
    storage = context.spec.catalog.storage
    return claim(
        CLAIM,
        selector(context, names.DATABASE),
        size=context.database_claim_size or storage.size,
        storage_class=storage.storage_class_name,
        access_modes=["ReadWriteOnce"],
    )
