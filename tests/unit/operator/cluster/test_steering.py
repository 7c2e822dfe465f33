"""From load reports to DNSEndpoints: what is kept before it is published, what goes on, and what is never removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from mailarray.contract.resources.mailcluster import Access, Domain, MailClusterSpec, Mx
from mailarray_operator.api import names
from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.client import ApiError, Json
from mailarray_operator.cluster.loads import Asked, Heard
from mailarray_operator.cluster.mx_inputs import SILENT_SECONDS, Candidate, Inputs
from mailarray_operator.cluster.resolver import NoAnswer, Question
from mailarray_operator.cluster.steering import Steering, _Array
from mailarray_operator.cluster.store import Store
from mailarray_operator.mx import State
from mailarray_operator.plan.observation import Mx as Found
from tests.unit.operator.cluster.fake_api import FakeApi, Thing

KEY = ("mail", "example")
ENDPOINT = ("DNSEndpoint", "mail", "example-mail.example")
PLAN = ("ConfigMap", "mail", names.mx_plan("example"))
BEGIN = 1_000_000.0
TTL = 10


class Reading:
    """The API server's other half."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        if path == kinds.DNS_ENDPOINT.path("mail"):
            self.api.refuse("get", ENDPOINT)
            return {"items": [body for thing, body in self.api.objects.items() if thing[0] == "DNSEndpoint"]}
        found = self.api.objects.get(PLAN)
        if path != kinds.CONFIG_MAP.path("mail", PLAN[2]) or found is None:
            raise ApiError(404, "NotFound", "not found")
        return found


class Ears:
    """What the servers say."""

    def __init__(self) -> None:
        self.words: dict[str, Heard] = {}
        self.tried = True

    def follow(self, key: object, processes: Mapping[str, Asked]) -> None:
        pass

    def forget(self, key: object) -> None:
        pass

    def heard(self, key: object) -> dict[str, Heard]:
        return self.words

    def all_tried(self, key: object) -> bool:
        return self.tried


class Dns:
    """Answers whatever the DNSEndpoints say, or what it is told."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.told: dict[Question, list[tuple[str, ...] | NoAnswer]] = {}

    async def ask(
        self, questions: list[Question], zones: Mapping[str, str]
    ) -> dict[Question, list[tuple[str, ...] | NoAnswer]]:
        held: dict[Question, tuple[str, ...]] = {}
        for thing, body in self.api.objects.items():
            if thing[0] == "DNSEndpoint":
                for one in body["spec"]["endpoints"]:
                    held[one["dnsName"], one["recordType"]] = tuple(one["targets"])
        return {q: self.told.get(q, [held.get(q, ())]) for q in questions}


@dataclass
class Town:
    """An array of three, and one operator after the other."""

    api: FakeApi = field(default_factory=FakeApi)
    store: Store = field(default_factory=lambda: Store(lambda key: None))
    ears: Ears = field(default_factory=Ears)
    clock: float = BEGIN
    spec: MailClusterSpec = field(default_factory=lambda: MailClusterSpec((Domain("mail.example"),), mx=Mx(ttl=TTL)))
    servers: dict[str, Candidate] = field(default_factory=dict)
    access: dict[str, Candidate] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    loads: dict[str, float | None] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dns = Dns(self.api)
        for number in range(3):
            self.server(f"a-{number}")
        self.new_operator()

    def server(self, name: str, state: State = State.SERVING, up: bool = True, *addresses: str) -> None:
        asked = Asked("uid", "127.0.0.1", 2510, "/v1/load")
        self.servers[name] = Candidate(state, up, "a", asked, f"{name}.mail.example", 10, addresses)
        self.loads.setdefault(name, 0.3)

    def new_operator(self) -> None:
        poster = Mock(post=AsyncMock(side_effect=self._post))
        self.steering = Steering(
            self.store,
            Reading(self.api),
            self.api,
            self.ears,  # type: ignore[arg-type]
            self.dns,  # type: ignore[arg-type]
            poster,
            lambda key: None,
            lambda: self.clock,
            lambda: self.clock,
        )
        self.store.mx.clear()
        self.array = _Array(KEY, self.inputs(), self._endpoints(), self.clock)
        self.steering._arrays[KEY] = self.array

    def _endpoints(self) -> Any:
        from mailarray_operator.cluster.endpoints import Endpoints

        return Endpoints(KEY, Reading(self.api), self.api, lambda: self.clock)

    async def _post(self, namespace: str, uid: str, event: Any, now: float) -> None:
        self.said.append(event.reason)

    def inputs(self) -> Inputs:
        return Inputs("c", self.spec, dict(self.servers), dict(self.access), {"a": "a"}, self.status)

    async def plans(self, seconds: float = 5.0) -> None:
        """Plan every five seconds for so long."""
        end = self.clock + seconds
        while self.clock < end:
            self.clock += 5.0
            self.ears.words = {
                name: Heard(self.clock - 1, load) if load is not None else self.ears.words.get(name, Heard())
                for name, load in self.loads.items()
            }
            self.array.inputs = self.inputs()
            await self.steering.plan_once(self.array)

    def mx(self) -> list[str]:
        (found,) = [
            one["targets"]
            for one in self.api.objects[ENDPOINT]["spec"]["endpoints"]
            if one["recordType"] == "MX"
        ]  # fmt: skip
        return list(found)

    def found(self) -> Found:
        return self.store.mx[KEY]

    def condition(self, type_: str = "DNSPublished") -> str:
        return next(c.reason for c in self.found().conditions if c.type == type_)


def refuse(error: ApiError, *which: Thing) -> Callable[[str, Thing], None]:
    def refusing(verb: str, thing: Thing) -> None:
        if thing in which:
            raise error

    return refusing


@pytest.fixture
def town() -> Town:
    return Town()


ALL = [f"10 a-{n}.mail.example" for n in range(3)]


async def test_a_plan_is_kept_before_it_is_published(town: Town) -> None:
    await town.plans()
    assert town.mx() == ALL
    assert town.api.writes.index(f"apply ConfigMap {PLAN[2]}") < town.api.writes.index(
        f"apply DNSEndpoint {ENDPOINT[2]}"
    )
    town.api.refuse = refuse(ApiError(500, "InternalError", "not now"), PLAN)
    town.server("a-2", State.LOST, False)
    with pytest.raises(ApiError):
        await town.plans()
    assert town.mx() == ALL, "published what the next operator would not know"
    town.api.refuse = refuse(ApiError(0, "", ""))
    await town.plans()
    assert town.mx() == ALL[:2]


async def test_nothing_is_written_while_nobody_moves(town: Town) -> None:
    await town.plans()
    town.api.writes.clear()
    for load in (0.3, 0.5, 0.4):
        town.loads = dict.fromkeys(town.loads, load)
        await town.plans(20)
    assert town.api.writes == []


async def test_a_loaded_server_stands_back_and_another_operator_goes_on(town: Town) -> None:
    await town.plans(30)
    town.loads["a-1"] = 0.97
    await town.plans(20)
    assert town.mx() == ["10 a-0.mail.example", "10 a-2.mail.example", "20 a-1.mail.example"]
    assert "Loaded" in town.said
    target = town.found().status["mxPlan"]["targets"][-1]
    assert (target["server"], target["band"], target["reason"]) == ("a-1", "StandingBack", "Loaded")
    town.said.clear()
    town.new_operator()
    await town.plans(10)
    assert town.mx()[-1] == "20 a-1.mail.example"
    assert town.said == []


async def test_a_start_is_no_staleness_and_a_silence_is(town: Town) -> None:
    await town.plans()
    town.new_operator()
    town.ears.tried = False
    await town.plans()
    assert KEY not in town.store.mx, "nothing is known before every server was asked"
    town.ears.tried = True
    await town.plans()
    assert town.condition("MXPlanned") == "Planned"
    town.loads = dict.fromkeys(town.loads)
    await town.plans(40)
    assert town.condition("MXPlanned") == "LoadsUnknown"
    assert "staleSince" in town.found().status["mxPlan"]
    assert town.mx() == ALL
    town.loads = dict.fromkeys(town.loads, 0.3)
    await town.plans()
    assert town.condition("MXPlanned") == "Planned"


async def test_a_dead_server_leaves_at_its_second_missed_answer(town: Town) -> None:
    await town.plans(30)
    town.server("a-2", State.SERVING, up=False)
    town.loads["a-2"] = None
    await town.plans(5)
    assert town.mx() == ALL, "a restart is quicker"
    await town.plans(SILENT_SECONDS)
    assert town.mx() == ALL[:2]
    assert "Lost" in town.said


async def test_silence_of_a_ready_server_is_no_loss(town: Town) -> None:
    await town.plans(30)
    town.loads["a-2"] = None
    await town.plans(60)
    assert town.mx() == ALL


async def test_servers_that_start_together_come_together(town: Town) -> None:
    town.server("a-2", State.JOINING)
    await town.plans(10)
    assert ENDPOINT not in town.api.objects
    assert town.condition() == "NoTargets"
    town.server("a-2")
    await town.plans()
    assert town.mx() == ALL


async def test_without_the_kind_there_is_a_condition_and_later_the_records(town: Town) -> None:
    town.api.refuse = refuse(ApiError(404, "NotFound", "404 page not found"), ENDPOINT)
    await town.plans(60)
    assert town.condition() == "ExternalDNSMissing"
    assert town.found().status["mx"][0]["requested"] == ALL
    tries = town.api.writes.count(f"apply DNSEndpoint {ENDPOINT[2]}")
    assert tries == 0, "refused before it was written down"
    town.api.refuse = refuse(ApiError(0, "", ""))
    await town.steering.ask_once(town.array)
    await town.plans()
    assert town.mx() == ALL
    await town.steering.ask_once(town.array)
    assert town.condition() == "Published"


async def test_an_api_server_that_is_away_says_nothing_of_the_kind(town: Town) -> None:
    town.api.refuse = refuse(ApiError(0, "Unreachable", "no answer"), ENDPOINT)
    await town.plans(10)
    assert not town.array.endpoints.missing
    assert not town.array.endpoints.refused


async def test_what_somebody_deletes_is_applied_again(town: Town) -> None:
    await town.plans()
    del town.api.objects[ENDPOINT]
    await town.steering.ask_once(town.array)
    await town.plans()
    assert town.mx() == ALL


async def test_a_domain_that_is_gone_from_the_spec_is_pruned_by_a_fresh_plan_alone(town: Town) -> None:
    gone = ("DNSEndpoint", "mail", "example-old.example")
    town.spec = MailClusterSpec((Domain("mail.example"), Domain("old.example")), mx=Mx(ttl=TTL))
    await town.plans()
    assert gone in town.api.objects
    town.loads = dict.fromkeys(town.loads)
    await town.plans(60)
    assert town.condition("MXPlanned") == "LoadsUnknown"
    town.spec = MailClusterSpec((Domain("mail.example"),), mx=Mx(ttl=TTL))
    await town.plans(60)
    assert gone in town.api.objects
    town.loads = dict.fromkeys(town.loads, 0.3)
    await town.plans()
    assert gone not in town.api.objects
    assert town.mx() == ALL


async def test_by_hand_nothing_is_written_and_nothing_is_removed(town: Town) -> None:
    await town.plans()
    town.spec = MailClusterSpec((Domain("mail.example"),), mx=Mx(ttl=TTL, publish="None"))
    town.server("a-2", State.LOST, False)
    town.api.writes.clear()
    await town.plans()
    await town.steering.ask_once(town.array)
    assert town.mx() == ALL
    assert town.api.writes == [f"apply ConfigMap {PLAN[2]}"]
    assert town.found().status["mx"][0]["requested"] == ALL[:2]
    assert town.found().status["mx"][0]["published"] == ALL
    assert any("example-mail.example" in c.message for c in town.found().conditions)


async def test_addresses_stay_until_others_are_known(town: Town) -> None:
    town.server("a-0", State.SERVING, True, "192.0.2.1", "2001:db8::1")
    await town.plans()
    found = {(one["dnsName"], one["recordType"]) for one in town.api.objects[ENDPOINT]["spec"]["endpoints"]}
    assert found == {("mail.example", "MX"), ("a-0.mail.example", "A"), ("a-0.mail.example", "AAAA")}
    town.server("a-0")
    town.new_operator()
    await town.plans()
    again = {(one["dnsName"], one["recordType"]) for one in town.api.objects[ENDPOINT]["spec"]["endpoints"]}
    assert again == found


async def test_the_name_of_readers_has_a_dnsendpoint_of_its_own(town: Town) -> None:
    town.spec = MailClusterSpec((Domain("mail.example"),), mx=Mx(ttl=TTL), access=Access(hostname="pop.mail.example"))
    asked = Asked("uid", "127.0.0.1", 2530, "/v1/status", 1000)
    town.access = {"x": Candidate(State.SERVING, True, "", asked, "pop.mail.example", 0, ("192.0.2.7",))}
    town.loads["x"] = 0.1
    await town.plans()
    sets = town.api.objects["DNSEndpoint", "mail", "example-access"]["spec"]["endpoints"]
    assert [(one["dnsName"], one["targets"]) for one in sets] == [("pop.mail.example", ["192.0.2.7"])]
    assert ("DNSEndpoint", "mail", "example-access-services") in town.api.objects
    town.access = {}  # a moment without any pod: the name stays
    await town.plans()
    assert ("DNSEndpoint", "mail", "example-access") in town.api.objects


async def test_dns_tells_who_is_named_and_since_when_not(town: Town) -> None:
    await town.plans()
    assert town.found().named == {"a-0", "a-1", "a-2"}, "nobody was asked, and the records were handed over"
    await town.steering.ask_once(town.array)
    town.server("a-2", State.DRAINING)
    await town.plans()
    assert town.mx() == ALL[:2]
    assert "a-2" in town.found().named, "DNS was not asked since"
    town.dns.told[("mail.example", "MX")] = [NoAnswer("no answer")]
    await town.steering.ask_once(town.array)
    assert "a-2" in town.found().named
    assert town.condition() == "NameServersSilent"
    town.dns.told.clear()
    await town.steering.ask_once(town.array)
    assert town.found().named == {"a-0", "a-1"}
    assert town.found().gone == {"a-2": town.clock}


async def test_of_name_servers_that_do_not_agree_the_wrong_one_counts(town: Town) -> None:
    await town.plans()
    town.dns.told[("mail.example", "MX")] = [tuple(ALL), tuple(ALL[:1])]
    await town.steering.ask_once(town.array)
    assert town.condition() == "Publishing"
    town.clock += 1000
    await town.plans()
    assert town.found().status["mx"][0]["published"] == ALL[:1]
    assert town.condition() == "ExternalDNSNotReading"  # nobody wrote observedGeneration
    endpoint = town.api.get(kinds.DNS_ENDPOINT, "mail", ENDPOINT[2])
    town.api.put(kinds.DNS_ENDPOINT, {**endpoint, "status": {"observedGeneration": endpoint["metadata"]["generation"]}})
    await town.steering.ask_once(town.array)
    assert town.condition() == "RecordsDiffer"
