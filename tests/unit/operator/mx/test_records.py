"""Golden records: what is rendered for each plan is what is kept in `golden/`, byte for byte.

A difference changes the DNS of every user at the next upgrade, so it has to be seen. To accept it, run the tests with
`MAILARRAY_GOLDEN=write` and read the diff.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailarray_operator.mx import (
    External,
    LoadReport,
    MxPlan,
    Policy,
    State,
    access_records,
    plan,
    records,
    service_records,
)

GOLDEN = Path(__file__).parent / "golden"
NOW = 1_000_000.0
HOST = {f"mx-{n}": f"mx-{n}.mail.example" for n in range(40)}
ADDRESS = {f"mx-{n}": [f"2001:db8::{n + 1:x}", f"192.0.2.{n + 1}"] for n in range(40)}


def planned(servers: int, policy: Policy, **states: State) -> MxPlan:
    reports = [
        LoadReport(f"mx-{n}", 0.2, NOW, states.get(f"mx_{n}", State.SERVING), accepts=True) for n in range(servers)
    ]
    return plan(reports, None, policy, NOW)


def made(plan: MxPlan, **differently: Any) -> list[Any]:
    given: dict[str, Any] = {
        "cluster": "example",
        "namespace": "mail",
        "domains": ["mail.example", "other.example"],
        "hostnames": HOST,
        "addresses": {},
    }
    return list(records(plan, **(given | differently)).endpoints)


def names_alone() -> list[Any]:
    policy = Policy(external=(External("mx.other.example", 50),))
    return made(planned(3, policy, mx_2=State.JOINING), domains=["mail.example"])


def with_addresses() -> list[Any]:
    return made(planned(3, Policy(ttl=300)), addresses=ADDRESS, hostnames=HOST | {"mx-1": "in.other.example"})


def shared() -> list[Any]:
    plan = planned(7, Policy(max_targets=4), mx_6=State.JOINING)
    return made(plan, addresses={f"mx-{n}": ADDRESS[f"mx-{n}"][1:] for n in range(7)})


def unusual_names() -> list[Any]:
    return made(planned(2, Policy()), domains=["Bücher.example.", "a_b.example"], cluster="example")


def access() -> list[Any]:
    plan = planned(3, Policy(), mx_2=State.JOINING)
    given: dict[str, Any] = {"cluster": "example", "namespace": "mail", "hostname": "pop.mail.example"}
    return [
        access_records(plan, addresses=ADDRESS, **given),
        service_records(plan, domains=["mail.example"], hostnames={"mx-0": "pop-0.mail.example"}, **given),
    ]


CASES: dict[str, Callable[[], list[Any]]] = {
    "names-alone": names_alone,
    "with-addresses": with_addresses,
    "shared": shared,
    "unusual-names": unusual_names,
    "access": access,
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    text = yaml.safe_dump_all(CASES[name](), sort_keys=False, allow_unicode=True)
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("MAILARRAY_GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("name", CASES)
def test_the_form_that_external_dns_wants(name: str) -> None:
    for manifest in CASES[name]():
        for one in manifest["spec"]["endpoints"]:
            assert one["targets"] == sorted(set(one["targets"]))
            assert one["targets"]
            assert not any(text.endswith(".") for text in [one["dnsName"], *one["targets"]])
            assert isinstance(one["recordTTL"], int)
            if one["recordType"] == "MX":
                assert all(0 <= int(t.split()[0]) <= 65535 and len(t.split()) == 2 for t in one["targets"])


def test_every_address_of_a_shared_name_is_there() -> None:
    addresses = {f"mx-{n}": ADDRESS[f"mx-{n}"] for n in range(30)}
    found = records(
        planned(30, Policy()), cluster="c", namespace="n", domains=["mail.example"], hostnames=HOST, addresses=addresses
    )
    hosts = {target.split()[1] for target in found.mx}
    (manifest,) = found.endpoints
    behind = {
        address
        for one in manifest["spec"]["endpoints"]
        if one["dnsName"] in hosts and one["recordType"] in ("A", "AAAA")
        for address in one["targets"]
    }
    assert len(hosts) == 15
    assert behind == {address for of_one in addresses.values() for address in of_one}
    assert found.left_out == ()


def test_a_name_without_addresses_is_not_published() -> None:
    few = {f"mx-{n}": ADDRESS[f"mx-{n}"] for n in range(29)}
    found = records(
        planned(30, Policy()), cluster="c", namespace="n", domains=["mail.example"], hostnames=HOST, addresses=few
    )
    assert found.left_out == ("mx-29",)
    found = records(
        planned(30, Policy()), cluster="c", namespace="n", domains=["mail.example"], hostnames=HOST, addresses={}
    )
    assert found.mx == ()
    assert found.endpoints == ()


def test_a_server_without_a_name_is_left_out() -> None:
    found = records(
        planned(3, Policy()),
        cluster="c",
        namespace="n",
        domains=["mail.example"],
        hostnames={"mx-1": "mx-1.mail.example."},
        addresses={},
    )
    assert found.mx == ("10 mx-1.mail.example",)
    assert found.left_out == ("mx-0", "mx-2")


def test_access_falls_back_to_who_stands_back_when_too_few_are_left() -> None:
    given: dict[str, Any] = {"cluster": "c", "namespace": "n", "hostname": "pop.mail.example"}
    plan = planned(3, Policy(), mx_2=State.JOINING)

    def addresses(**asked: Any) -> list[str]:
        made = access_records(plan, addresses={s: a[1:] for s, a in ADDRESS.items()}, **asked, **given)
        assert made is not None
        return list(made["spec"]["endpoints"][0]["targets"])

    assert addresses() == ["192.0.2.1", "192.0.2.2"]
    assert addresses(min_targets=3) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    assert access_records(plan, addresses={}, **given) is None
