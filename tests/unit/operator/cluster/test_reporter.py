"""Asking servers: what is remembered of one whose pod is replaced, and for how long."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from mailarray_operator.cluster.reporter import FORGET_SECONDS, Reporter
from mailarray_operator.cluster.store import Store
from mailarray_operator.plan.observation import Pod, ServerReport

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
