"""The operator against a real API server and controller manager; nodes, kubelets and servers are faked."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mailarray_operator.api import names
from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.client import MERGE_PATCH, ApiError
from mailarray_operator.cluster.kinds import Kind
from tests.e2e import control_plane_steps as steps
from tests.e2e.cluster import Cluster
from tests.e2e.control_plane_steps import World
from tests.support import dying_operator
from tests.support.fake_servers import fake_servers
from tests.support.operator_process import RunningOperator

USERS = (*kinds.CUSTOM, kinds.SECRET)


@pytest.fixture(scope="module", autouse=True)
def servers() -> Iterator[None]:
    """Processes that say they are well."""
    with fake_servers():
        yield


@pytest.fixture
async def world(control_plane: Cluster, tmp_path: Path) -> AsyncIterator[World]:
    async with steps.world(control_plane.kubeconfig, tmp_path) as found:
        yield found


async def test_from_example_to_deletion(world: World) -> None:
    operator = world.operator()
    try:
        operator.wait_ready()
        await world.apply_example()
        await world.until_ready(3)
        table = await world.get(kinds.CONFIG_MAP, names.mirroring_table("example"))
        assert '"mail-2"' in table["data"][names.FILE_TABLE]
        await steps.until(lambda: _tables_taken(operator), steps.SECONDS, "all processes have the table")

        # Up by the MailServer, up by `kubectl scale statefulset`.
        scale = {"spec": {"replicas": 4}}
        await world.client.patch(kinds.MAIL_SERVER.path(world.space, "mail", "scale"), scale, MERGE_PATCH)
        await world.until_ready(4)
        await world.client.patch(kinds.STATEFUL_SET.path(world.space, "mail", "scale"), {"spec": {"replicas": 5}})
        await world.until_ready(5)
        assert (await world.get(kinds.MAIL_SERVER, "mail"))["spec"]["replicas"] == 5

        # What somebody breaks is mended.
        budget = names.disruption_budget("example")
        await world.client.delete(kinds.DISRUPTION_BUDGET.path(world.space, budget), {})
        await steps.until(lambda: world.get(kinds.DISRUPTION_BUDGET, budget), steps.SECONDS, "the budget is back")
        strategy = {"spec": {"updateStrategy": {"type": "RollingUpdate"}}}
        await world.client.patch(kinds.STATEFUL_SET.path(world.space, "mail"), strategy)
        await steps.until(lambda: _on_delete(world), steps.SECONDS, "the update strategy is as rendered again")

        # Nothing of the operator's stands in the way of a deletion.
        for kind in (*USERS, *steps.OWN):
            for item in await world.all(kind):
                assert not item["metadata"].get("finalizers"), item["metadata"]
                assert "kopf" not in str(item["metadata"].get("annotations"))
        operator.stop()
        await world.client.delete(kinds.MAIL_SERVER.path(world.space, "mail"), {})
        await world.client.delete(kinds.MAIL_CLUSTER.path(world.space, "example"), {})
        await steps.until(lambda: _gone(world, kinds.STATEFUL_SET, "mail"), steps.SECONDS, "the servers are gone")
        assert {c["metadata"]["name"] for c in await world.all(kinds.CLAIM)} >= {f"volume-mail-{n}" for n in range(5)}
    finally:
        assert operator.stop() == 0, operator.log.read_text()[-4000:]


async def test_a_second_operator_takes_over(world: World) -> None:
    first, second = world.operator("first"), None
    try:
        first.wait_ready()
        await steps.until(lambda: _leads(first), 10, "the first leads")
        second = world.operator("second")
        second.wait_ready()
        assert not second.leads()
        began = time.monotonic()
        first.stop()
        await steps.until(lambda: _leads(second), 10, "the second leads")
        assert time.monotonic() - began < 5, "the Lease was not given back"
        await world.apply_example()
        await world.until_ready(3)
        first = world.operator("third")
        first.wait_ready()
        second.kill()
        await steps.until(lambda: _leads(first), 30, "the third leads")
        await world.client.patch(kinds.MAIL_SERVER.path(world.space, "mail"), {"spec": {"replicas": 4}})
        await world.until_ready(4)
    finally:
        first.stop()
        if second is not None:
            second.stop()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_dies_at_every_third_write(world: World, when: str) -> None:
    """Whatever a dead operator left half done, the next one ends the same."""
    await world.apply_example()
    deaths = 0
    for number in range(1, 40, 3):
        operator = world.operator(
            f"dying-{number}", "--no-leader-elect", f"--die-{when}={number}", entry="tests.support.dying_operator"
        )
        try:
            ended = functools.partial(_ended_or_quiet, operator, world)
            status = await steps.until(ended, steps.SECONDS, "it dies, or is done")
        finally:
            operator.kill()
        if status != dying_operator.DIED:
            break
        deaths += 1
    print(f"{deaths} deaths")
    assert deaths >= 3
    last = world.operator("last")
    try:
        last.wait_ready()
        await world.until_ready(3)
        rendered = await world.rendered()
        assert {"StatefulSet/mail", "Service/example-servers", "Deployment/example-access"} <= rendered
        assert len([name for name in rendered if "mail-settings" in name]) == 1
        assert {s["metadata"]["name"] for s in await world.all(kinds.SECRET)} == {
            "accounts",
            names.internal_secret("example"),
            names.database("example"),
        }
    finally:
        last.stop()


async def _tables_taken(operator: RunningOperator) -> bool:
    return operator.metric("mailarray_operator_mirroring_tables_behind") == 0


async def _leads(operator: RunningOperator) -> bool:
    return operator.leads()


async def _on_delete(world: World) -> bool:
    found = await world.get(kinds.STATEFUL_SET, "mail")
    return bool(found["spec"]["updateStrategy"]["type"] == "OnDelete")


async def _gone(world: World, kind: Kind, name: str) -> bool:
    try:
        await world.get(kind, name)
    except ApiError as error:
        return error.not_found
    return False


async def _ended_or_quiet(operator: RunningOperator, world: World) -> int:
    """Its exit status; -1 when all is as wanted and it lives."""
    status = operator.process.poll()
    if status is not None:
        return status
    return -1 if await world.ready(3) and operator.metric("mailarray_operator_queue_depth") == 0 else 0
