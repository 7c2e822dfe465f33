"""Servers with two volumes: mail on all of them, one breaks and is replaced under traffic, and all drains."""

from __future__ import annotations

import asyncio
import json
import os
import random

import pytest

from mailarray.contract import mirroring_table
from mailarray.contract.server_names import host_of
from mailarray_operator.api import names
from tests.e2e.installation import Installation
from tests.e2e.mail_array import MailArray
from tests.e2e.test_volumes import under_replicated
from tests.e2e.traffic import Traffic

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
GROUP = "disks"
SECONDS = 180.0


@pytest.mark.timeout(480)
async def test_a_volume_is_rebuilt_alone_and_all_of_them_drain(installation: Installation) -> None:
    array = installation.array
    spec = {"clusterRef": {"name": array.name}, "replicas": 2, "storage": {"size": "1Gi", "volumes": 2}}
    group = {"apiVersion": names.API_VERSION, "kind": "MailServer", "metadata": {"name": GROUP}, "spec": spec}
    await asyncio.to_thread(array.cluster.apply, group, namespace=array.namespace)
    try:
        await _rebuilt_and_drained(array)
    finally:
        selector = f"{names.LABEL_GROUP}={GROUP}"
        await asyncio.to_thread(array.kubectl, "delete", "mailserver", GROUP, seconds=120)
        await asyncio.to_thread(array.kubectl, "delete", "pvc", "-l", selector, "--wait=false")


async def _rebuilt_and_drained(array: MailArray) -> None:
    await asyncio.to_thread(array.wait_serving, GROUP, 2)
    volumes = [f"{GROUP}-0", f"{GROUP}-0.1", f"{GROUP}-1", f"{GROUP}-1.1"]
    table = _table(array)
    assert [server.name for server in table.servers if server.group == GROUP] == volumes
    for name, row in table.rows.items():
        assert host_of(name) not in {host_of(mirror) for group in row for mirror in group}
    async with Traffic(array, SEED, where=array.smtp(f"{GROUP}-0")) as traffic:
        await traffic.acknowledged(100)
        await asyncio.to_thread(
            array.wait_for,
            lambda: all(_said(array, f"{GROUP}-0", number)["segments"]["own"] for number in range(2)),
            "mail is on both volumes",
            90,
        )
        old = _ids(array)
        await asyncio.to_thread(_break, array, f"{GROUP}-0")

        def told() -> bool:
            shown = array.servers(GROUP)[f"{GROUP}-0"]
            broken = [
                (volume["name"], "volume.json is damaged" in volume["reason"])
                for volume in shown.get("brokenVolumes", ())
            ]
            return shown["phase"] == "Serving" and broken == [(f"{GROUP}-0.1", True)]

        await asyncio.to_thread(array.wait_for, told, "the status names the volume that is broken, and why", 90)
        await traffic.acknowledged(100)  # by the same server
        await _restarted_around(array, old[1])
        assert told()  # it is as broken as before
        wiped = names.claim(f"{GROUP}-0", 1)
        await asyncio.to_thread(array.kubectl, "delete", f"pvc/{wiped}", f"pod/{GROUP}-0", "--wait=false")

        def rebuilt() -> bool:
            shown = array.servers(GROUP)[f"{GROUP}-0"]
            return _ids(array) != old and shown["phase"] == "Serving"

        await asyncio.to_thread(array.wait_for, rebuilt, f"{wiped} is another volume, and rebuilt", SECONDS)
        now = _ids(array)
        assert now[0] == old[0] and now[1] != old[1], (old, now)
        await asyncio.to_thread(array.wait_for, lambda: under_replicated(array) == 0, "all copies are there", 120)
        await traffic.acknowledged(50)
    await asyncio.to_thread(array.kubectl, "scale", f"mailserver/{GROUP}", "--replicas=0")
    await asyncio.to_thread(array.wait_for, lambda: not array.servers(GROUP), "all volumes are drained", SECONDS)
    await asyncio.to_thread(array.wait_settled, "mail")
    verdict = await traffic.judge()
    assert verdict.good, str(verdict)


async def _restarted_around(array: MailArray, volume: str) -> None:
    """A rolling restart waits for the broken volume, and says so, until it is declared lost and repaired elsewhere."""

    def waits() -> bool:
        return f"waits for the broken volume {GROUP}-0.1" in str(array.condition("Progressing")["message"])

    def over() -> bool:
        return array.condition("Progressing")["reason"] == "Stable" and not before & _uids(array)

    before = _uids(array)
    await asyncio.to_thread(array.kubectl, "rollout", "restart", "statefulset/mail")
    await asyncio.to_thread(array.wait_for, waits, "the restart waits for the volume", 60)
    assert _uids(array) == before
    settings = f"{names.PATH_SETTINGS}/{names.FILE_SERVER}"
    declare = ("mailarray", "volume", "lost", volume, "--yes", "--settings", settings)
    await asyncio.to_thread(array.kubectl, "exec", "mail-0", "-c", names.CONTAINER_CATALOG, "--", *declare)
    await asyncio.to_thread(array.wait_for, over, "the restart went on without the volume", SECONDS)


def _uids(array: MailArray) -> set[str]:
    selector = f"{names.LABEL_GROUP}=mail"
    return {pod["metadata"]["uid"] for pod in array.get("pods", "-l", selector)["items"]}


def _break(array: MailArray, server: str) -> None:
    """The second volume cannot be read any more, and its processes end."""
    broken = names.numbered(names.PATH_VOLUME, 1)
    program = f"import os, signal; open('{broken}/volume.json', 'w').close(); os.kill(1, signal.SIGTERM)"
    for name in (names.CONTAINER_SMTP, names.CONTAINER_CATALOG):
        array.kubectl("exec", server, "-c", names.numbered(name, 1), "--", "python3", "-c", program)


def _table(array: MailArray) -> mirroring_table.MirroringTable:
    data = array.get("configmap", names.mirroring_table(array.name))["data"]
    return mirroring_table.parse(data[names.FILE_TABLE])


def _ids(array: MailArray) -> list[str]:
    return str(array.servers(GROUP)[f"{GROUP}-0"].get("volume", "")).split(",")


def _said(array: MailArray, server: str, number: int) -> dict[str, dict[str, int]]:
    """What the sidecar of a volume says."""
    container = names.numbered(names.CONTAINER_CATALOG, number)
    file = f"{names.PATH_SETTINGS}/{names.numbered('server', number)}.json"
    said = array.kubectl("exec", server, "-c", container, "--", "mailarray", "server-status", "--settings", file)
    found: dict[str, dict[str, int]] = json.loads(said)["sidecar"]
    return found
