"""One leads: taking over, losing, giving back."""

# ruff: noqa: ASYNC110  # polls with a deadline: what is awaited has no event
from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
from collections.abc import Iterator

import pytest

from mailarray_operator.cluster import lease as module
from mailarray_operator.cluster.client import ApiError, Json
from mailarray_operator.cluster.lease import Lease


class FakeLeases:
    """One Lease at an API server, with compare and set; `away` answers nothing."""

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.away: set[str] = set()
        self._versions = itertools.count(1)

    def client(self, who: str) -> FakeClient:
        return FakeClient(self, who)

    def write(self, lease: Json) -> Json:
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(next(self._versions))
        return self.lease

    def holder(self) -> str:
        return "" if self.lease is None else str(self.lease["spec"]["holderIdentity"])


class FakeClient:
    def __init__(self, leases: FakeLeases, who: str) -> None:
        self._leases, self._who = leases, who

    def _ask(self) -> FakeLeases:
        if self._who in self._leases.away:
            raise ApiError(0, "Unreachable", "the API server does not answer")
        return self._leases

    async def get(self, path: str) -> Json:
        found = self._ask().lease
        if found is None:
            raise ApiError(404, "NotFound", "no such lease")
        return copy.deepcopy(found)

    async def post(self, path: str, body: Json) -> Json:
        if self._ask().lease is not None:
            raise ApiError(409, "AlreadyExists", "exists")
        return self._leases.write(body)

    async def put(self, path: str, body: Json) -> Json:
        leases = self._ask()
        assert leases.lease is not None
        if body["metadata"]["resourceVersion"] != leases.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "modified")
        return leases.write(body)


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Seconds become hundredths, in the same proportions."""
    kept = {n: getattr(module, n) for n in ("LEASE_SECONDS", "RENEW_SECONDS", "RETRY_SECONDS", "ASK_SECONDS")}
    for name, value in kept.items():
        setattr(module, name, value / 50)
    yield
    for name, value in kept.items():
        setattr(module, name, value)


class Candidate:
    """An operator."""

    def __init__(self, leases: FakeLeases, name: str) -> None:
        self.name, self.told = name, []  # type: ignore[var-annotated]
        self.lease = Lease(leases.client(name), "mail", "operator", name, self.told.append)  # type: ignore[arg-type]
        self.task = asyncio.create_task(self.lease.run())

    async def end(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


async def until(holds: object, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.002)


async def test_one_of_two_leads_and_gives_it_back() -> None:
    leases = FakeLeases()
    one = Candidate(leases, "one")
    await until(one.lease.leading)
    two = Candidate(leases, "two")
    await asyncio.sleep(0.1)
    assert not two.lease.leading()
    await one.end()
    assert leases.holder() != "one" and one.told == [True, False]
    await until(two.lease.leading, 0.2)  # well within the time of a Lease
    await two.end()


async def test_the_lease_of_the_chart_is_taken_and_keeps_what_is_not_the_operators() -> None:
    leases = FakeLeases()
    metadata = {"name": "operator", "namespace": "mail", "labels": {"app.kubernetes.io/managed-by": "Helm"}}
    leases.write({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata})
    one = Candidate(leases, "one")
    await until(one.lease.leading)
    assert leases.lease is not None and leases.holder() == "one"
    assert leases.lease["metadata"]["labels"] == metadata["labels"]
    await one.end()


async def test_cut_off_stops_before_the_other_begins() -> None:
    leases = FakeLeases()
    one, two = Candidate(leases, "one"), Candidate(leases, "two")
    await until(lambda: one.lease.leading() or two.lease.leading())
    first, second = (one, two) if one.lease.leading() else (two, one)
    leases.away.add(first.name)
    while not second.lease.leading():
        both = first.lease.leading() and second.lease.leading()
        assert not both
        await asyncio.sleep(0.001)
    assert not first.lease.leading() and first.told == [True, False]
    await first.end()
    await second.end()


async def test_a_hanging_renewal_ends_leading() -> None:
    leases = FakeLeases()
    one = Candidate(leases, "one")
    await until(one.lease.leading)

    async def hang(path: str) -> Json:
        await asyncio.Event().wait()
        raise AssertionError

    one.lease._client.get = hang  # type: ignore[method-assign,assignment]
    await until(lambda: not one.lease.leading(), 1.0)
    one.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await one.task
