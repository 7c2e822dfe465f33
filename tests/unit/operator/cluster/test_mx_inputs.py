"""What a plan takes from a look, and what DNS answers say of servers that share names."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mailarray.contract.resources.mailcluster import Domain, MailClusterSpec
from mailarray_operator.api import names
from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.dns_answers import Answers, wanted_records, zone_of
from mailarray_operator.cluster.loads import Asked, Heard, read
from mailarray_operator.cluster.mx_inputs import Candidate, Inputs, inputs_of, reports_of
from mailarray_operator.cluster.resolver import NoAnswer
from mailarray_operator.cluster.store import Store
from mailarray_operator.mx import State
from mailarray_operator.plan.decisions import Decisions, GroupDecision

LABELS = {names.LABEL_CLUSTER: "example", names.LABEL_GROUP: "a"}
KEY = ("mail", "example")


def take(store: Store, kind: kinds.Kind, name: str, **more: Any) -> None:
    metadata = {"namespace": "mail", "name": name, "uid": name, **more.pop("metadata", {})}
    store.take(kind, {"metadata": metadata, **more}, True)


def store(expose: str) -> Store:
    made = Store(lambda key: None)
    spec = {"domains": [{"name": "mail.example"}], "access": {"hostname": "pop.mail.example"}}
    take(made, kinds.MAIL_CLUSTER, "example", spec=spec)
    group = {
        "clusterRef": {"name": "example"},
        "hostnames": "mx-{ordinal}.mail.example",
        "expose": {"type": expose},
        "preference": 7,
    }
    take(made, kinds.MAIL_SERVER, "a", spec=group)
    status = {
        "podIP": "10.1.0.1",
        "hostIPs": [{"ip": "10.0.0.1"}, {"ip": "2001:db8::1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    take(made, kinds.POD, "a-0", metadata={"labels": LABELS}, spec={"nodeName": "n1"}, status=status)
    ingress = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.cloud.example"}]}}
    take(made, kinds.SERVICE, "a-0", metadata={"labels": LABELS}, status=ingress)
    reader = {names.LABEL_CLUSTER: "example", names.LABEL_COMPONENT: names.ACCESS}
    take(made, kinds.POD, "x", metadata={"labels": reader}, spec={"nodeName": "n1"}, status=status)
    return made


def inputs(made: Store, phase: str = "Serving", **changes: Any) -> Inputs | None:
    shown = {"servers": [{"name": "a-0", "phase": phase}]}
    decisions = Decisions(None, {"a": GroupDecision(1, "", shown)}, {}, **changes)
    return inputs_of(made.observation(KEY), decisions, made)


@pytest.mark.parametrize(
    ("expose", "addresses"),
    [
        ("ClusterIP", ()),
        ("LoadBalancer", ("192.0.2.1",)),
        ("HostPort", ("10.0.0.1", "2001:db8::1")),
        ("NodePort", ("10.0.0.1", "2001:db8::1")),
    ],
)
def test_addresses_are_where_the_world_reaches_it(expose: str, addresses: tuple[str, ...]) -> None:
    found = inputs(store(expose))
    assert found is not None
    server = found.servers["a-0"]
    assert server.addresses == addresses
    assert (server.hostname, server.preference, server.state, server.up) == (
        "mx-0.mail.example",
        7,
        State.SERVING,
        True,
    )
    assert server.asked == Asked("a-0", "10.1.0.1", names.PORT_WRITER, "/v1/load")
    assert found.access["x"].asked == Asked("x", "10.1.0.1", names.PORT_ACCESS, "/v1/status", 1000)


def test_a_node_that_the_world_knows_by_another_address() -> None:
    made = store("HostPort")
    addresses = [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "ExternalIP", "address": "198.51.100.1"}]
    made.take(kinds.NODE, {"metadata": {"name": "n1"}, "status": {"addresses": addresses}}, True)
    found = inputs(made)
    assert found is not None
    assert found.servers["a-0"].addresses == ("198.51.100.1",)


def test_a_load_balancer_that_gets_its_address_is_a_reason_to_look() -> None:
    made = store("LoadBalancer")
    told: list[tuple[str, str]] = []
    made._changed = told.append
    ingress = {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}
    take(made, kinds.SERVICE, "a-0", metadata={"labels": LABELS}, status=ingress)
    assert KEY in told
    made.take(kinds.SERVICE, {"metadata": {"namespace": "mail", "name": "a-0"}}, False)
    assert made.outside("LoadBalancer", "mail", "a-0", None) == ()


def test_a_paused_cluster_is_not_planned() -> None:
    assert inputs(store("ClusterIP"), render=False) is None


def test_a_mailserver_that_cannot_be_read_costs_its_servers_no_record() -> None:
    made = store("ClusterIP")
    take(made, kinds.MAIL_SERVER, "b", spec={"clusterRef": {"name": "example"}, "replicas": "many"})
    assert inputs(made) is None


def candidate(state: State, up: bool, address: str = "") -> Candidate:
    return Candidate(state, up, "a", None, "mx.mail.example", 10, (address,) if address else ())


@pytest.mark.parametrize(
    ("state", "up", "heard", "wanted"),
    [
        (State.SERVING, True, 1.0, State.SERVING),
        (State.SERVING, True, 100.0, State.SERVING),  # silence alone is no loss
        (State.SERVING, False, 5.0, State.SERVING),
        (State.SERVING, False, 8.0, State.LOST),
        (State.JOINING, False, 9.0, State.LOST),
        (State.DRAINING, False, 100.0, State.DRAINING),  # one that drains is not ready, since it takes no mail
    ],
)
def test_who_is_lost_for_senders(state: State, up: bool, heard: float, wanted: State) -> None:
    words = {"a-0": Heard(1000 - heard, 0.5)}
    (report,) = reports_of({"a-0": candidate(state, up)}, words, frozenset({"a-0"}), 0.0, 1000.0, 5000.0)
    assert (report.state, report.at) == (wanted, 5000 - heard)


def test_an_operator_that_has_just_begun_takes_nobody_for_lost() -> None:
    known = frozenset({"a-0"})
    (report,) = reports_of({"a-0": candidate(State.SERVING, False)}, {}, known, 999.0, 1000.0, 5000.0)
    assert report.state is State.SERVING


def test_a_server_that_never_answered_is_not_planned() -> None:
    there = {"a-0": candidate(State.JOINING, False)}
    assert reports_of(there, {}, frozenset(), 0.0, 1000.0, 5000.0) == []
    assert len(reports_of(there, {"a-0": Heard(999.0, 0.1)}, frozenset(), 0.0, 1000.0, 5000.0)) == 1


@pytest.mark.parametrize(
    ("said", "limit", "load", "accepts"),
    [
        ({"load": 0.4, "refusing": None}, 0, 0.4, True),
        ({"load": 1, "refusing": "disk full"}, 0, 1.0, False),
        ({"sessions": 50}, 200, 0.25, True),
        ({"sessions": 50}, 0, None, True),
        ({"load": "high"}, 0, None, True),
        ({"load": True}, 0, None, True),
    ],
)
def test_what_a_process_says(said: dict[str, Any], limit: int, load: float | None, accepts: bool) -> None:
    heard = read(said, Asked("u", "10.1.0.1", 2510, "/v1/load", limit), 7.0)
    assert heard == (None if load is None else Heard(7.0, load, accepts))
    assert math.isnan(Heard().load)


def test_a_server_that_shares_a_name_is_named_by_its_address() -> None:
    servers = {"a-0": candidate(State.SERVING, True, "192.0.2.1"), "a-1": candidate(State.DRAINING, True, "192.0.2.2")}
    found = Inputs("c", MailClusterSpec((Domain("mail.example"),)), servers, {}, {}, {})
    shared = "mx-shared-10-1.mail.example"
    answers = Answers()
    mx = (f"10 {shared}",)
    wanted = wanted_records(["mail.example"], mx, [])
    answers.take(wanted, {("mail.example", "MX"): [mx]}, 1.0)
    assert (shared, "A") in answers.questions(wanted)
    both: dict[tuple[str, str], list[tuple[str, ...] | NoAnswer]]
    both = {("mail.example", "MX"): [mx], (shared, "A"): [("192.0.2.1", "192.0.2.2")]}
    answers.take(wanted, both, 2.0)
    answers.judge(found, True, ["a-1"], 2.0)
    assert answers.named == {"a-0", "a-1"}
    answers.take(wanted, {("mail.example", "MX"): [mx], (shared, "A"): [("192.0.2.1",)]}, 3.0)
    answers.judge(found, True, ["a-1"], 3.0)
    assert (answers.named, answers.gone) == (frozenset({"a-0"}), {"a-1": 3.0})
    answers.judge(found, True, ["a-1"], 9.0)
    assert answers.gone == {"a-1": 3.0}


def test_one_name_server_that_is_silent_is_no_reason_while_another_answers() -> None:
    answers = Answers()
    wanted = wanted_records(["mail.example"], ("10 a.mail.example",), [])
    question = ("mail.example", "MX")
    answers.take(wanted, {question: [NoAnswer("late"), ("10 a.mail.example",)]}, 1.0)
    assert (answers.silent, answers.differing, answers.differing_since) == ({}, (), None)
    answers.take(wanted, {question: [NoAnswer("late")]}, 2.0)
    assert answers.silent == {"mail.example": "late"}
    assert answers.published == {"mail.example": ("10 a.mail.example",)}, "what was answered before stands"


def test_a_name_is_asked_of_the_domain_that_it_lies_in() -> None:
    domains = ["mail.example", "sub.mail.example"]
    assert zone_of("mx.sub.mail.example", domains) == "sub.mail.example"
    assert zone_of("mx.other.example", domains) == "mx.other.example"
