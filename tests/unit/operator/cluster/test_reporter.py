"""Asking servers: what is remembered of one whose pod is replaced, and for how long."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from mailarray_operator.api import names
from mailarray_operator.cluster.reporter import FORGET_SECONDS, Reporter
from mailarray_operator.cluster.store import Store
from mailarray_operator.plan.observation import Pod, ServerReport, VolumeReport

KEY, SERVER = ("mail", "example"), ("mail", "mail-1")


def reporter(store: Store, clock: list[float]) -> Reporter:
    nobody: Any = Mock()
    return Reporter(store, nobody, lambda key: "token", lambda key, seconds: None, lambda: clock[0])


def pod(uid: str) -> Any:
    return Mock(spec=Pod, uid=uid, ip="10.0.0.1")


def test_a_server_whose_pod_is_replaced_was_heard_when_it_was_heard() -> None:
    store, clock = Store(lambda key: None), [1000.0]
    one = reporter(store, clock)
    one.follow(KEY, {"mail-1": pod("first")}, frozenset())
    store.reports[SERVER] = ServerReport(999.0, {"volume": "aa"}, {"refusing": None}, "first")
    for pods in ({}, {"mail-1": pod("second")}):
        one.follow(KEY, pods, frozenset())
        assert store.reports[SERVER] == ServerReport(999.0, None, None, "first")


def test_who_is_gone_is_forgotten_long_after_its_silence_means_lost() -> None:
    store, clock = Store(lambda key: None), [1000.0]
    one = reporter(store, clock)
    one.follow(KEY, {"mail-1": pod("first")}, frozenset())
    store.reports[SERVER] = ServerReport(999.0, {}, {}, "first")
    one.follow(KEY, {}, frozenset())
    one._forget_silent(999.0 + FORGET_SECONDS)
    assert SERVER in store.reports
    one._forget_silent(1000.0 + FORGET_SECONDS)
    assert SERVER not in store.reports


async def test_all_volumes_of_a_server_are_asked_and_one_that_answers_is_a_sign_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    async def ask(session: Any, ip: str, port: int, path: str, token: str) -> dict[str, Any] | None:
        asked.append(port)
        return None if port in (names.PORT_SIDECAR, names.PORT_WRITER) else {"volume": "bb", "port": port}

    monkeypatch.setattr("mailarray_operator.cluster.reporter.ask", ask)
    store, clock = Store(lambda key: None), [1000.0]
    one = reporter(store, clock)
    one.follow(KEY, {"mail-1": pod("first")}, frozenset(), {"mail-1": 2})
    await one._ask(SERVER, one._targets[SERVER])
    assert sorted(asked) == [2510, 2520, 2601, 2621]
    report = store.reports[SERVER]
    assert (report.heard, report.sidecar, report.writer) == (1000.0, None, None)
    assert report.further == (VolumeReport({"volume": "bb", "port": 2621}, {"volume": "bb", "port": 2601}),)
    assert [volume.heard for volume in report.volumes] == [None, 1000.0]
    clock[0] = 1010.0
    monkeypatch.setattr("mailarray_operator.cluster.reporter.ask", AsyncMock(return_value=None))
    await one._ask(SERVER, one._targets[SERVER])
    assert [volume.heard for volume in store.reports[SERVER].volumes] == [None, 1000.0]
    one.follow(KEY, {}, frozenset())
    assert store.reports[SERVER] == ServerReport(1000.0, None, None, "first")
