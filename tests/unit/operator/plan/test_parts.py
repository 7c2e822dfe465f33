"""The parts alone, where a story would not reach: states of a drain, phases, what is in sync, what the table keeps."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailarray.contract.mirroring_table import DRAINING, Server
from mailarray_operator.plan import decide, drain, rolling, servers
from mailarray_operator.plan.drain import Drain, State, Word
from mailarray_operator.plan.observation import Group, Observation, Pod, Resource, ServerReport
from tests.unit.operator.plan.world import CONFIGURATION, World

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DONE = {"table_generation": 7, "drain": {"done": True}}
DRAINS = Server("mx-2", "", "", state=DRAINING)


def test_a_drain_waits_until_it_may_refuse_mail() -> None:
    begun = drain.begin(NOW, 90.0)
    assert drain.advance(begun, NOW + timedelta(seconds=89), False) == begun
    assert drain.advance(begun, NOW + timedelta(seconds=90), False) == Drain(State.DRAINING)
    assert drain.advance(drain.begin(NOW), NOW, False) == Drain(State.DRAINING)


def test_a_word_that_is_not_in_the_table_changes_nothing() -> None:
    assert drain.step(Drain(State.LEAVING), Word.DONE) == Drain(State.LEAVING)
    assert drain.step(Drain(State.DRAINED), Word.WAITED) == Drain(State.DRAINED)
    assert all(drain.step(Drain(state), Word.UNWANTED) is None for state in State)


def test_drains_are_read_as_they_were_written_and_rubbish_is_none() -> None:
    drains = {3: Drain(State.DRAINED), 2: Drain(State.LEAVING, NOW + timedelta(seconds=90))}
    assert drain.parse(drain.dump(drains)) == drains
    assert drain.dump({}) == "" and drain.parse("") == {}
    for rubbish in ("{", "[]", '{"2":{}}', '{"x":{"state":"Drained"}}', '{"2":{"state":"Gone"}}', '{"2":null}'):
        assert drain.parse(rubbish) == {}


@pytest.mark.parametrize(
    ("sidecar", "writer", "server", "done"),
    [
        (DONE, None, DRAINS, True),
        (DONE, {"at_rest": True}, DRAINS, True),
        (DONE, {"at_rest": False}, DRAINS, False),  # the writer has not left its last segment
        (None, None, DRAINS, False),  # silence
        (DONE, None, None, False),  # not in the table
        (DONE, None, Server("mx-2", "", ""), False),  # the table does not say that it drains
        ({**DONE, "table_generation": 6}, None, DRAINS, False),  # said of an earlier table
        ({**DONE, "drain": {"done": False}}, None, DRAINS, False),
        ({**DONE, "drain": None}, None, DRAINS, False),
        ({"drain": {"done": True}}, None, DRAINS, False),
    ],
)
def test_a_server_is_drained_by_its_own_word_for_this_very_table(
    sidecar: Any, writer: Any, server: Server | None, done: bool
) -> None:
    assert drain.is_done(sidecar, writer, server, 7) is done


def look(
    pod: Pod | None, report: ServerReport | None, before: dict[str, Any], clock: float = 100.0
) -> servers.ServerView:
    empty = World().observe()
    reports = {} if report is None else {"mx-0": report}
    group = Group(Resource("mx", "mx", 1, {}), None, pods={} if pod is None else {"mx-0": pod})
    observation = dataclasses.replace(empty, reports=reports, clock=clock, since=50.0)
    return servers.look_at(observation, group, "mx-0", 0, before)


READY = Pod("mx-0", "u", "n", "z", "", True, False, "r1")
DOWN = dataclasses.replace(READY, ready=False)
SERVED = {"phase": "Serving", "volume": "v"}


def heard(at: float, uid: str = "u", **sidecar: Any) -> ServerReport:
    return ServerReport(at, {"volume": "v", **sidecar}, {}, uid)


@pytest.mark.parametrize(
    ("pod", "report", "before", "phase"),
    [
        (None, None, {}, "Joining"),
        (DOWN, None, {}, "Joining"),  # never had a volume, so there is nothing to lose
        (READY, None, {}, "Joining"),  # not heard from yet
        (READY, None, SERVED, "Serving"),  # the operator is new, the server is not
        (READY, heard(99.0), {}, "Serving"),
        (READY, heard(99.0, unsettled=2), {}, "Joining"),
        (READY, heard(99.0, segments={"unsettled": 2}), {}, "Joining"),
        (READY, heard(99.0, unsettled=2), SERVED, "Serving"),
        (READY, heard(99.0, unsettled=2), {**SERVED, "phase": "Lost"}, "Joining"),
        (READY, heard(99.0, "another pod"), {}, "Joining"),
        (READY, heard(99.0, rebuild={"done": False}), SERVED, "Rebuilding"),
        (READY, heard(99.0, rebuild={"done": True}), SERVED, "Serving"),
        (DOWN, heard(81.0), SERVED, "Joining"),
        (DOWN, heard(80.0), SERVED, "Lost"),
        (None, heard(80.0), SERVED, "Lost"),
        (dataclasses.replace(READY, terminating=True), heard(99.0), SERVED, "Joining"),
    ],
)
def test_phase(pod: Pod | None, report: ServerReport | None, before: dict[str, Any], phase: str) -> None:
    assert look(pod, report, before).phase == phase


def test_a_new_operator_waits_before_it_calls_a_server_lost() -> None:
    assert look(DOWN, None, SERVED, clock=69.0).phase == "Joining"
    assert look(DOWN, None, SERVED, clock=69.0).lost_in == pytest.approx(1.0)
    assert look(DOWN, None, SERVED, clock=70.0).phase == "Lost"
    assert look(DOWN, None, {**SERVED, "phase": "Lost"}, clock=51.0).phase == "Lost"  # and does not take it back
    assert look(DOWN, heard(51.0), {**SERVED, "phase": "Lost"}, clock=51.0).phase == "Joining"


@pytest.mark.parametrize(
    ("writer", "enough", "synced"),
    [
        ({"copies": {"wanted": 2, "now": 2}}, True, True),
        ({"copies": {"wanted": 2, "now": 1}}, True, False),
        ({"copies": {"wanted": 2, "now": 1}}, False, True),
        ({"copies": {"wanted": 2, "now": None}, "mirrors": [{"state": "InSync"}]}, True, True),
        ({"copies": {"wanted": 2, "now": None}, "mirrors": [{"state": "Failed"}]}, True, False),
        ({"copies": {"wanted": 2, "now": 2}, "refusing": "no mirror"}, True, False),
        (None, True, False),
    ],
)
def test_in_sync(writer: dict[str, Any] | None, enough: bool, synced: bool) -> None:
    view = look(READY, ServerReport(99.0, {"volume": "v"}, writer, "u"), SERVED)
    assert rolling.in_sync(view, enough) is synced


def settled() -> World:
    world = World()
    world.group("mx", 3)
    world.settle()
    return world


def test_a_lost_table_is_made_anew_above_what_servers_hold_and_with_those_that_are_down() -> None:
    world = settled()
    assert world.table is not None
    before = world.table
    world.table = None
    world.cluster_status = {}
    del world.pods["mx-1"]
    made = world.decide().table
    assert made is not None
    assert [s.name for s in made.servers] == [s.name for s in before.servers]
    assert made.generation > before.generation


def test_a_pod_that_moves_to_another_zone_makes_a_new_table() -> None:
    world = settled()
    before = world.table
    world.groups["mx"].zones = ("a", "b", "d")
    after = world.decide().table
    assert before is not None and after is not None
    assert after.generation == before.generation + 1
    assert [s.zone for s in after.servers] == ["a", "b", "d"]


def test_a_statefulset_that_was_deleted_comes_back_with_every_server_of_the_table() -> None:
    world = settled()
    world.groups["mx"].replicas = world.groups["mx"].recorded = None
    world.scale_mailserver("mx", 2)
    assert world.decide().groups["mx"].replicas == 3


def test_specs_that_cannot_be_read_change_nothing() -> None:
    world = settled()
    observed = world.observe()
    group = observed.groups["mx"]
    error = "MailServer mx: spec.replicas must be a whole number, not a text (many)"
    resource = dataclasses.replace(group.resource, error=error)
    broken = dataclasses.replace(observed, groups={"mx": dataclasses.replace(group, resource=resource, spec=None)})
    decisions = decide(broken, CONFIGURATION, world.now())
    assert decisions.table == world.table
    assert decisions.groups["mx"].replicas == 3
    assert condition(decisions.groups["mx"].status, "Ready") == ("False", "InvalidSpec", error)

    assert observed.cluster is not None
    resource = dataclasses.replace(
        observed.cluster.resource, error="MailCluster example: spec.domains is missing; add it"
    )
    cluster = dataclasses.replace(observed.cluster, resource=resource, spec=None)
    decisions = decide(dataclasses.replace(observed, cluster=cluster), CONFIGURATION, world.now())
    assert not decisions.render and decisions.table == world.table
    assert decisions.groups["mx"].status == group.resource.status
    assert condition(decisions.cluster_status, "Ready")[1] == "InvalidSpec"


def test_a_time_of_transition_stays_while_the_status_stays() -> None:
    world = settled()
    before = {c["type"]: c for c in world.cluster_status["conditions"]}
    world.clock += 3600
    world.since = world.clock
    world.access_ready = 1
    after = {c["type"]: c for c in (world.decide().cluster_status or {})["conditions"]}
    assert after["Ready"]["status"] == "False"
    assert after["Ready"]["lastTransitionTime"] != before["Ready"]["lastTransitionTime"]
    assert after["Paused"] == before["Paused"]


def test_an_external_database_that_no_server_reaches_is_said() -> None:
    world = settled()
    observed = away(world.observe())
    decisions = decide(observed, CONFIGURATION, world.now())
    assert condition(decisions.cluster_status, "Ready")[1] == "DatabaseNotReady"
    assert condition(decisions.cluster_status, "Degraded")[:2] == ("True", "DatabaseNotReady")


def test_a_full_secret_is_said() -> None:
    world = settled()
    observed = dataclasses.replace(world.observe(), secret_bytes={"accounts": 900 << 10})
    decisions = decide(observed, CONFIGURATION, world.now())
    assert condition(decisions.cluster_status, "Degraded")[1] == "AccountsSecretLarge"
    assert [event.reason for event in decisions.events] == ["AccountsSecretLarge"]


def test_a_claim_that_cannot_grow_is_said() -> None:
    world = settled()
    world.groups["mx"].size *= 2
    world.claims["mx-0"] = dataclasses.replace(world.claims["mx-0"], expandable=False)
    decisions = world.decide()
    assert [growth.claim for growth in decisions.growths] == ["volume-mx-1", "volume-mx-2"]
    assert condition(decisions.groups["mx"].status, "VolumesAsAsked")[:2] == ("False", "VolumesNotExpandable")


def test_a_claim_whose_disk_is_gone_did_hold_mail() -> None:
    world = settled()
    world.lost_nodes.add("mx-2")
    world.claims["mx-2"] = dataclasses.replace(world.claims["mx-2"], capacity=0, lost=True)
    world.scale_mailserver("mx", 2)
    world.tick(30.0)
    assert world.decide().groups["mx"].replicas == 3
    world.groups["mx"].status = {}  # an operator that knows nothing else of it
    world.since = world.clock
    assert world.decide().groups["mx"].replicas == 3
    world.claims["mx-2"] = dataclasses.replace(world.claims["mx-2"], lost=False)  # never had one
    assert world.decide().groups["mx"].replicas == 2


def test_a_server_with_a_volume_held_mail_whatever_its_claim_says() -> None:
    world = settled()
    world.lost_nodes.add("mx-2")
    world.claims["mx-2"] = dataclasses.replace(world.claims["mx-2"], capacity=0)
    world.scale_mailserver("mx", 2)
    world.tick(30.0)
    assert world.decide().groups["mx"].replicas == 3


def test_a_mailserver_that_is_deleted_without_a_drain_is_told_with_what_to_do() -> None:
    world = settled()
    world.group("in", 2)
    world.settle()
    world.delete("in")
    decisions = world.decide()
    told = [e.message for e in decisions.events if (e.type, e.reason) == ("Warning", "MailServerDeleted")]
    assert len(told) == 1 and "the MailServer in was deleted" in told[0] and "2 servers" in told[0]
    assert "apply in again" in told[0]
    world.step()
    assert not [e for e in world.decide().events if e.reason == "MailServerDeleted"]  # once: the table is a new one

    world.scale_mailserver("mx", 3)
    world.group("out", 2)
    world.settle()
    world.scale_mailserver("out", 0)
    world.settle()
    world.delete("out")
    assert not [e for e in world.decide().events if e.reason == "MailServerDeleted"]  # it was drained


def away(observed: Observation) -> Observation:
    reports = {
        name: dataclasses.replace(report, sidecar={**(report.sidecar or {}), "catalog": {"state": "away"}})
        for name, report in observed.reports.items()
    }
    return dataclasses.replace(observed, reports=reports)


def condition(status: Any, type_: str) -> tuple[str, str, str]:
    found = next(c for c in status["conditions"] if c["type"] == type_)
    return found["status"], found["reason"], found["message"]


def test_a_server_whose_volume_is_full_is_nobodys_mirror_until_it_has_room_again() -> None:
    world = World()
    world.group("mx", 4)
    world.settle()
    assert world.table is not None
    before = world.table
    full = {"mx-2": True}

    def mirrors(said: dict[str, bool]) -> tuple[set[str], int]:
        observation = world.observe()
        reports = {
            name: dataclasses.replace(report, sidecar={**(report.sidecar or {}), "full": said.get(name, False)})
            for name, report in observation.reports.items()
        }
        table = decide(dataclasses.replace(observation, reports=reports), CONFIGURATION, NOW).table
        assert table is not None and table.rows.keys() == before.rows.keys()
        return {name for row in table.rows.values() for group in row for name in group}, table.generation

    assert mirrors({}) == ({"mx-0", "mx-1", "mx-2", "mx-3"}, before.generation)
    assert mirrors(full) == ({"mx-0", "mx-1", "mx-3"}, before.generation + 1)
    assert mirrors({f"mx-{i}": True for i in range(4)}) == ({"mx-0", "mx-1", "mx-2", "mx-3"}, before.generation)


def shown(world: World, **said: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first server in the MailServer's status, and `mirroring` of the MailCluster's, when it says that."""
    seen = world.observe()
    report = seen.reports["mx-0"]
    changed = dataclasses.replace(report, sidecar={**(report.sidecar or {}), **said})
    decisions = decide(dataclasses.replace(seen, reports={**seen.reports, "mx-0": changed}), CONFIGURATION, world.now())
    assert decisions.cluster_status is not None
    entry = next(s for s in decisions.groups["mx"].status["servers"] if s["name"] == "mx-0")
    return entry, decisions.cluster_status["mirroring"]


def test_how_long_a_rebuild_and_copying_take_is_told_when_it_is_known() -> None:
    world = settled()
    rebuild = {"bytes_total": 100, "bytes_left": 50, "done": False, "seconds_left": 1201}
    copying = {"segments_left": 3, "bytes_left": 50, "seconds_left": 61}
    entry, mirroring = shown(world, rebuild=rebuild, copying=copying)
    assert (entry["phase"], entry["progress"], entry["timeLeft"]) == ("Rebuilding", 50, "25m")
    assert mirroring["timeLeft"] == "2m"
    unknown = {**rebuild, "seconds_left": None}, {**copying, "seconds_left": None}
    entry, mirroring = shown(world, rebuild=unknown[0], copying=unknown[1])
    assert "timeLeft" not in entry and "timeLeft" not in mirroring
    entry, mirroring = shown(world, rebuild={**rebuild, "done": True}, copying={**copying, "segments_left": 0})
    assert "timeLeft" not in entry and "timeLeft" not in mirroring


def test_copies_that_a_lost_zone_left_in_one_are_told_and_counted() -> None:
    world = settled()

    def spread(mirror: str, together: int) -> tuple[str, str, Any]:
        seen = world.observe()
        writer = {"mirrors": [{"server": "mx-1", "in_use": mirror == "mx-1"}, {"server": "mx-0", "in_use": False}]}
        writer["mirrors"].append({"server": "mx-3", "in_use": mirror == "mx-3"})
        report = seen.reports["mx-0"]
        changed = dataclasses.replace(
            report, sidecar={**(report.sidecar or {}), "in_one_zone": together}, writer=writer
        )
        observation = dataclasses.replace(seen, reports={**seen.reports, "mx-0": changed})
        status = decide(observation, CONFIGURATION, world.now()).cluster_status
        assert status is not None
        condition = next(c for c in status["conditions"] if c["type"] == "SpreadAsAsked")
        return condition["reason"], condition["message"], status["mirroring"].get("segmentsInOneZone")

    world.scale_mailserver("mx", 4)
    world.settle()
    assert spread("mx-1", 0)[0] == "Spread" and spread("mx-1", 0)[2] is None
    reason, message, count = spread("mx-3", 0)
    assert reason == "CopiesInOneZone" and count is None
    assert message.startswith("mx-0 keeps new mail and its copies in its own zone")
    reason, message, count = spread("mx-1", 3)
    assert (reason, count) == ("CopiesInOneZone", 3) and message.startswith("3 segments are in one zone alone")
    world.spread = "Node"
    assert spread("mx-3", 3)[0] == "Spread"  # zones were not asked for
