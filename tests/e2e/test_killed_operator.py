"""An operator that dies at every single write of a drain and of a rolling restart: the next one ends the same.

Each story is told over and over in a namespace of its own, at first undisturbed; then the operator dies at the first
write, at the second, and so on, until one gets through. What stands at the end is compared with the undisturbed end.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailarray_operator.api import names
from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.client import Json
from tests.e2e import control_plane_steps as steps
from tests.e2e.cluster import Cluster
from tests.e2e.control_plane_steps import World
from tests.support.dying_operator import DyingOperator
from tests.support.fake_servers import fake_servers

SECONDS = 120.0  # for one way from one calm state to the next
POLL_SECONDS = 0.02  # asks shared memory; the API server is asked only after a look in vain
LOOKS = 2  # in vain, after the end was seen: one may have begun before
MOST_WRITES = 120


@dataclass(frozen=True)
class Story:
    """What happens, and what is undone before it happens again."""

    name: str
    before: int  # servers
    after: int
    stopped: frozenset[str]  # pods that it stops
    once: bool  # each of them once, however often operators die
    happens: Callable[[World, int], Awaitable[None]]


async def scale_mail_server(world: World, _: int) -> None:
    """`kubectl scale mailserver`."""
    await world.client.patch(kinds.MAIL_SERVER.path(world.space, "mail", "scale"), {"spec": {"replicas": 3}})


async def scale_stateful_set(world: World, _: int) -> None:
    """`kubectl scale statefulset`."""
    await world.client.patch(kinds.STATEFUL_SET.path(world.space, "mail", "scale"), {"spec": {"replicas": 3}})


async def rollout_restart(world: World, turn: int) -> None:
    """`kubectl rollout restart statefulset`."""
    annotations = {"kubectl.kubernetes.io/restartedAt": f"2030-01-01T00:{turn // 60:02}:{turn % 60:02}Z"}
    patch = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    await world.client.patch(kinds.STATEFUL_SET.path(world.space, "mail"), patch)


ALL = frozenset({"mail-0", "mail-1", "mail-2"})
STORIES = (
    Story("drain", 4, 3, frozenset({"mail-3"}), True, scale_mail_server),
    # The StatefulSet's controller stops the pod before anybody can say that it is to drain first; it comes back for it.
    Story("drain by its StatefulSet", 4, 3, frozenset({"mail-3"}), False, scale_stateful_set),
    Story("rolling restart", 3, 3, ALL, True, rollout_restart),
)


@pytest.mark.timeout(900)
async def test_killed_at_every_write(control_plane: Cluster, tmp_path: Path) -> None:
    began = time.monotonic()
    with fake_servers():
        async with asyncio.TaskGroup() as tasks:
            for number, story in enumerate(STORIES):
                for when in ("before", "after"):
                    tasks.create_task(tell(control_plane.kubeconfig, tmp_path / f"{number}-{when}", story, when))
    print(f"{time.monotonic() - began:.0f} s")


async def tell(kubeconfig: Path, log: Path, story: Story, when: str) -> None:
    """One story, until an operator gets through."""
    async with steps.world(kubeconfig, log.parent) as world, Operators(world, log).running() as operators:
        # Steering has a clock of its own: what it writes, and when, is told in test_mx_records.py.
        await world.apply_example(story.before, mx={"publish": "None"})
        await operators.until_calm(story.before)
        wanted: Json = {}
        for number in range(MOST_WRITES):
            if story.before != story.after:
                patch = {"spec": {"replicas": story.before}}
                await world.client.patch(kinds.MAIL_SERVER.path(world.space, "mail"), patch)
                await operators.until_calm(story.before)
            world.kubelets.ended.clear()
            revision = await _revision(world)
            operators.now.die(when, number)
            await story.happens(world, number)
            if story.before == story.after:
                await steps.until(lambda r=revision: _other(world, r), SECONDS, "the template is new")  # type: ignore[misc]
            what = f"{story.name}, dead {when} write {number}"
            died, found = await operators.until_calm(story.after, wanted or None, what)
            if number == 0:
                wanted = found
                continue
            await steps.until(lambda: _all_stopped(world, story), SECONDS, f"{what}: its pods are seen to stop")
            stopped = [name for name in world.kubelets.ended if name.startswith("mail-")]
            assert set(stopped) == story.stopped, f"{what}: {stopped} were stopped"
            assert len(stopped) == len(story.stopped) or not story.once, f"{what}: {stopped} were stopped"
            if not died:
                break
        print(f"{story.name}: died {when} each of {number - 1} writes")
        assert 5 < number < MOST_WRITES - 1


class Operators:
    """One at a time; when one has died, the next begins."""

    def __init__(self, world: World, log: Path) -> None:
        self._world = world
        self._log = log
        self.now = self._start()

    def _start(self) -> DyingOperator:
        space = self._world.space
        spaces = (f"--namespace={space}", f"--operator-namespace={space}")
        return DyingOperator(self._world.kubeconfig, self._log, *spaces)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Operators]:
        """For as long as the context lasts."""
        try:
            yield self
        finally:
            self.now.kill()

    async def until_calm(
        self, servers: int, wanted: Json | None = None, what: str = "undisturbed"
    ) -> tuple[bool, dict[str, Any]]:
        """Until so many servers serve, all is as wanted, and nothing is left to do.

        Answers whether an operator has died on the way, and what stands there.
        """
        died = False
        found: dict[str, Any] = {}
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if self.now.dead:
                died = True
                self.now = self._start()
            if await self._looks_in_vain(1, deadline) and await self._settled(servers):
                found = await end_of(self._world)
                if (wanted is None or found == wanted) and await self._looks_in_vain(LOOKS, deadline):
                    return died, found
        assert not found or wanted is None or found == wanted, what
        status = (await self._world.get(kinds.MAIL_CLUSTER, "example")).get("status")
        raise AssertionError(f"{what}: no calm with {servers} servers: {status}\n{self._tail()}")

    async def _looks_in_vain(self, count: int, deadline: float) -> bool:
        """Wait for that many of them; False as soon as the operator writes or dies instead."""
        operator = self.now
        writes, looks = operator.writes, operator.looks
        while operator.looks < looks + count and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
            if operator.dead or operator.writes != writes:
                return False
        return not operator.dead and operator.writes == writes and time.monotonic() < deadline

    def _tail(self) -> str:
        return self._log.read_text()[-4000:]

    async def _settled(self, servers: int) -> bool:
        if not await self._world.ready(servers):
            return False
        wanted = await self._world.get(kinds.MAIL_SERVER, "mail")
        found = await self._world.get(kinds.STATEFUL_SET, "mail")
        status = found.get("status") or {}
        recorded = (found["metadata"].get("annotations") or {}).get(names.ANNOTATION_REPLICAS)
        cluster = await self._world.get(kinds.MAIL_CLUSTER, "example")
        return (
            recorded == str(servers)
            and wanted["spec"]["replicas"] == found["spec"]["replicas"] == status.get("replicas") == servers
            and status.get("observedGeneration") == found["metadata"]["generation"]
            and status.get("updatedReplicas") == status.get("readyReplicas") == servers
            and steps.condition(cluster, "Progressing") == "False"
        )


async def end_of(world: World) -> dict[str, Any]:
    """All that the operator decides, without times, generations and revisions."""
    found = await world.get(kinds.STATEFUL_SET, "mail")
    table = json.loads((await world.get(kinds.CONFIG_MAP, names.mirroring_table("example")))["data"][names.FILE_TABLE])
    table.pop("generation")
    cluster, server = await world.get(kinds.MAIL_CLUSTER, "example"), await world.get(kinds.MAIL_SERVER, "mail")
    ours = {name: v for name, v in found["metadata"]["annotations"].items() if name != names.ANNOTATION_APPLIED}
    return {
        "replicas": (server["spec"]["replicas"], found["spec"]["replicas"]),
        "annotations": ours,
        "objects": sorted(await world.rendered()),
        "pods": sorted(p["metadata"]["name"] for p in await world.all(kinds.POD) if "mail-" in p["metadata"]["name"]),
        "claims": sorted(claim["metadata"]["name"] for claim in await world.all(kinds.CLAIM)),
        "table": table,
        "servers": server["status"]["servers"],
        "conditions": [
            (c["type"], c["status"], c["reason"], c["message"])
            for resource in (cluster, server)
            for c in resource["status"]["conditions"]
        ],
    }


async def _revision(world: World) -> str:
    return str((await world.get(kinds.STATEFUL_SET, "mail"))["status"].get("updateRevision", ""))


async def _other(world: World, revision: str) -> bool:
    return await _revision(world) != revision


async def _all_stopped(world: World, story: Story) -> bool:
    return story.stopped <= set(world.kubelets.ended)
