"""drain, account and locate: transcripts, what kubectl was asked, and that passwords stay out of arguments."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.operator.kubectl import recorded
from tests.unit.operator.kubectl.conftest import Play, Theatre
from tests.unit.operator.kubectl.test_looking import PODS, RESOURCES, whole

Golden = Callable[[str], None]


def resources(*groups: dict[str, Any], once: bool = False) -> Play:
    return f"{RESOURCES}{'#once' if once else ''}", recorded.items(recorded.cluster(), *groups)


def draining(*last: dict[str, Any], conditions: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    rows = [recorded.row(0), recorded.row(1), *last]
    return recorded.group(replicas=2, rows=rows, conditions=conditions)


def scaled(theatre: Theatre) -> list[str]:
    return [call["line"] for call in theatre.calls if call["line"].startswith("scale")]


SCALED: Play = ("^scale mailservers.mailarray.io/mail ", "mailserver.mailarray.io/mail scaled\n")


def test_drain_and_wait(theatre: Theatre, golden: Golden) -> None:
    step = {"phase": "Draining"}
    sentence = "mail-2 drains as soon as 2 servers besides those that drain serve; now it would be 1"
    waits = recorded.condition("Draining", "False", "WaitingForServers", sentence)
    theatre.record(
        resources(recorded.group(), once=True),
        SCALED,
        resources(recorded.group(replicas=2, rows=[recorded.row(i) for i in range(3)], observed=4), once=True),
        resources(draining(recorded.row(2), conditions=[waits]), once=True),
        resources(draining(recorded.row(2, **step, progress=10)), once=True),
        resources(draining(recorded.row(2, **step, progress=10)), once=True),
        resources(draining(recorded.row(2, **step, progress=90, message="3 segments left")), once=True),
        resources(draining()),
    )
    golden(theatre.run("drain", "mail-2", "--wait", "--yes", "--poll", "0"))
    (line,) = scaled(theatre)
    assert "--current-replicas=3 --replicas=2" in line


def test_drain_that_is_refused(theatre: Theatre, golden: Golden) -> None:
    sentence = "scaling mail from 3 to 2 would leave 2 servers, and spec.storage.copies is 3; nothing is stopped"
    refused = [recorded.condition("Draining", "False", "WouldLoseCopies", sentence)]
    theatre.record(
        resources(recorded.group(), once=True), SCALED, resources(draining(recorded.row(2), conditions=refused))
    )
    golden(theatre.run("drain", "mail", "--wait", "--yes", "--poll", "0"))


def test_drain_that_was_set_back(theatre: Theatre) -> None:
    theatre.record(resources(recorded.group(), once=True), SCALED, resources(recorded.group()))
    said = theatre.run("drain", "mail-2", "--wait", "--yes", "--poll", "0")
    assert "mail was set back to 3 servers, so mail-2 stays" in said and said.endswith("exit code 1\n")


def test_drain_that_runs_already_is_followed(theatre: Theatre) -> None:
    theatre.record(
        resources(draining(recorded.row(2, phase="Draining", progress=50)), once=True),
        resources(draining(recorded.row(2, phase="Drained", progress=100))),
    )
    said = theatre.run("drain", "mail-2", "--wait", "--poll", "0")
    assert "mail-2 is being drained already" in said and "mail-2 is drained; its claim volume-mail-2 is kept" in said
    assert not scaled(theatre)


def test_drain_gives_up_after_the_timeout(theatre: Theatre) -> None:
    theatre.record(resources(draining(recorded.row(2, phase="Draining", progress=50))))
    said = theatre.run("drain", "mail-2", "--wait", "--poll", "0", "--timeout", "0.001")
    assert "mail-2 is not drained after 0 s; the operator goes on" in said


def test_drain_asks_first(theatre: Theatre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    theatre.record(resources(recorded.group(replicas=2)), SCALED)
    said = theatre.run("drain", "mail")
    assert "Drain mail-1?" in said and "That leaves 1 for 2 copies, which the operator refuses." in said
    assert said.endswith("exit code 130\n") and not scaled(theatre)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("mail-0", "mail-0 cannot be drained by itself: a group gives up its last server first, and that is mail-2;"),
        ("mail-7", "mail has no server mail-7; its last one is mail-2"),
        ("post", "example has no MailServer or server post; there is mail and mail-fast"),
        ("mail-fast-0", None),
        ("mail-fast", None),
    ],
)  # fmt: skip
def test_which_server_can_be_drained(theatre: Theatre, what: str, sentence: str | None) -> None:
    theatre.record(
        resources(recorded.group(), recorded.group("mail-fast", 1)), ("^scale mailservers.mailarray.io/mail-fast ", "")
    )
    said = theatre.run("drain", what, "--yes")
    assert (sentence or "mail-fast-0 is to be drained; mail-fast goes to 0 servers") in said
    assert bool(scaled(theatre)) is (sentence is None)


def test_drain_while_paused_or_changed_by_somebody_else(theatre: Theatre) -> None:
    paused = recorded.items(recorded.cluster(spec={"paused": True}), recorded.group())
    theatre.record((RESOURCES, paused))
    assert "the operator does nothing while example is paused" in theatre.run("drain", "mail", "--yes")
    raced = "error: Expected replicas to be 3, was 4\n"
    theatre.record(resources(recorded.group()), ("^scale", "", raced, 1))
    assert "somebody else has just changed the number of servers to 4" in theatre.run("drain", "mail", "--yes")


def test_account_add_sends_the_password_by_stdin_alone(theatre: Theatre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.prompt", lambda *_, **__: "correct horse")
    theatre.record(*whole()[:2], ("^exec -i mail-0 -c catalog -- mailarray account add ", "ann@mail.example added\n"))
    said = theatre.run("account", "add", "ann@mail.example", "--alias", "info", "--quota", "1Gi")
    assert "ann@mail.example added\n" in said
    call = theatre.calls[-1]
    assert call["stdin"] == "correct horse\n"
    assert not any("correct" in c["line"] for c in theatre.calls)
    assert call["line"].endswith(
        "mailarray account add --settings /etc/mailarray/settings/server.json --password-stdin --alias=info "
        "--quota=1Gi -- ann@mail.example"
    )


def test_account_import_streams_the_file(theatre: Theatre, tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    file.write_text("ann@mail.example:$argon2id$x::\n", encoding="utf-8")
    theatre.record(*whole()[:2], ("account import .* -- -$", "1 added, 0 changed, 0 unchanged, 0 refused\n"))
    assert "1 added" in theatre.run("account", "import", str(file))
    assert theatre.calls[-1]["stdin"] == "ann@mail.example:$argon2id$x::\n"


def test_account_import_tells_of_the_lines_that_were_refused(theatre: Theatre, tmp_path: Path, golden: Golden) -> None:
    file = tmp_path / "accounts.csv"
    file.write_text("address,password\n", encoding="utf-8")
    error = "line 2: 'ann' is not an address; write it as user@domain\ncommand terminated with exit code 1\n"
    theatre.record(*whole()[:2], ("account import", "0 added, 0 changed, 0 unchanged, 1 refused\n", error, 1))
    golden(theatre.run("account", "import", str(file)).replace(str(tmp_path), ""))


def test_account_list(theatre: Theatre, golden: Golden) -> None:
    first = {"address": "ann@mail.example", "aliases": ["info@mail.example", "post@mail.example"], "quota": 1 << 30,
             "used": 300 << 20,
             "enabled": True, "hasPassword": True}  # fmt: skip
    second: dict[str, object] = {
        "address": "list@mail.example",
        "aliases": [],
        "quota": None,
        "enabled": True,
        "hasPassword": False,
    }
    theatre.record(*whole()[:2], ("account list .*--json --containing=mail", json.dumps([first, second])))
    golden(theatre.run("account", "list", "--containing", "mail"))


def test_account_in_a_secret_says_how_to_change_it(theatre: Theatre, golden: Golden) -> None:
    kept = recorded.cluster(spec={"accounts": {"secretRef": {"name": "people"}}})
    theatre.record((RESOURCES, recorded.items(kept, recorded.group())))
    golden(theatre.run("account", "list"))


def test_account_refused_in_the_pod_is_one_sentence(theatre: Theatre) -> None:
    error = "mailarray: ann@far.example is in no domain of this cluster\ncommand terminated with exit code 1\n"
    theatre.record(*whole()[:2], ("account passwd", "", error, 1))
    said = theatre.run("account", "remove", "ann@far.example", "--yes")
    assert "nothing was recorded" in said  # passwd was recorded, remove was asked: the pattern is not too wide
    theatre.record(*whole()[:2], ("account remove", "", error, 1))
    said = theatre.run("account", "remove", "ann@far.example", "--yes")
    assert "stderr: kubectl mailarray: ann@far.example is in no domain of this cluster\n" in said


def test_no_pod_to_ask(theatre: Theatre) -> None:
    theatre.record(whole()[0], (PODS, recorded.items()))
    assert "example has no server pods to ask" in theatre.run("account", "list")
    waiting = {"reason": "ImagePullBackOff"}
    theatre.record(whole()[0], (PODS, recorded.items(recorded.pod("mail-0", ready=False, waiting=waiting))))
    assert "(mail-0: container smtp is in ImagePullBackOff)" in theatre.run("account", "list")


def test_the_pod_that_is_ready_is_asked(theatre: Theatre) -> None:
    pods = recorded.pod("mail-0", ready=False), recorded.pod("mail-1")
    theatre.record(whole()[0], (PODS, recorded.items(*pods)), ("account list", "[]\n"))
    theatre.run("account", "list")
    assert theatre.calls[-1]["line"].startswith("exec mail-1 ")


def test_a_pod_that_cannot_be_reached_is_passed_over_and_nothing_is_done_twice(theatre: Theatre) -> None:
    away = "error: error dialing backend: dial tcp 10.0.0.1:10250: connect: no route to host\n"
    theatre.record(*whole()[:2], ("^exec mail-0", "", away, 1), ("^exec mail-1", "ann@mail.example disabled\n"))
    assert "ann@mail.example disabled" in theatre.run("account", "disable", "ann@mail.example")
    failed = "mailarray: the database does not answer\ncommand terminated with exit code 1\n"
    theatre.record(*whole()[:2], ("^exec mail-0", "", failed, 1), ("^exec mail-1", "twice\n"))
    said = theatre.run("account", "disable", "ann@mail.example")
    assert "stderr: kubectl mailarray: the database does not answer" in said and "twice" not in said
    theatre.record(*whole()[:2], ("^exec", "", away, 1))
    assert "the pod cannot be asked now" in theatre.run("account", "disable", "ann@mail.example")


def test_locate(theatre: Theatre, golden: Golden) -> None:
    theatre.record(*whole()[:2], (f"mailarray locate .*-- {recorded.MESSAGE}$", recorded.located()))
    golden(theatre.run("locate", recorded.MESSAGE))


def test_locate_says_what_is_missing(theatre: Theatre) -> None:
    half = (
        recorded.located()
        .replace('"lost": false, "retired": false}]', '"lost": true, "retired": false}]')
        .replace('"open": true', '"open": false')
    )
    theatre.record(*whole()[:2], ("locate", half))
    said = theatre.run("locate", f"{recorded.MESSAGE}.0")
    assert "sealed, volume lost" in said and "1 of 2 copies; it waits for repair" in said


@pytest.mark.parametrize(
    ("is_open", "sentence"),
    [("true", "it was never accepted here"), ("false", "it has not heard from all servers since it was rebuilt")],
)
def test_locate_an_unknown_message(theatre: Theatre, is_open: str, sentence: str) -> None:
    theatre.record(*whole()[:2], ("locate", f'{{"catalog_open": {is_open}, "message": null}}'))
    said = theatre.run("locate", recorded.MESSAGE)
    assert sentence in said and said.endswith("exit code 1\n")


@pytest.mark.parametrize(
    ("given", "what"),
    [("<a.b@far.example>", "is a Message-ID header, which is not indexed"), ("12", "is not a message id")],
)
def test_locate_says_which_id_to_give(theatre: Theatre, given: str, what: str) -> None:
    theatre.record()
    assert f"{given} {what}: give the 32 hexadecimal digits" in theatre.run("locate", given)
    assert not theatre.calls
