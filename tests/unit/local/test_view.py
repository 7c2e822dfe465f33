"""What a person sees, drawn from whole and from half-known states; merged metrics; status figures."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from mailarray.local.array_status import array_status
from mailarray.local.layout import Layout
from mailarray.local.metrics_merge import merge
from mailarray.local.poller import Answer
from mailarray.local.render import render
from mailarray.local.resources import read_resources
from mailarray.local.supervisor import Death, ProcessSpec, ProcessState
from mailarray.local.view import draw, human_size, plain_line
from tests.unit.local.test_resources import GOOD

ARRAY = render(read_resources(GOOD, "c.yaml"), Layout(Path("/d")))


def state(name: str, pid: int | None, death: Death | None = None) -> ProcessState:
    return ProcessState(
        ProcessSpec(name, "s", "r", ()), pid=pid, started=100.0, last_death=death, restarts=int(bool(death))
    )


def whole() -> dict[str, Any]:
    states, answers = {"access": state("access", 9)}, {"access": Answer({"sessions": 1}, 0)}
    for i in range(3):
        smtp = {"sessions": 2, "accepted": 1000, "mirrors": [{"server": "mail-x", "state": "InSync"}], "refusing": None}
        sidecar = {
            "segments": {"own": 4, "mirrored": 5, "unsealed": 1}, "lag_bytes": 99,
            "catalog": {"state": "up", "epoch": 1, "open": True}, "under_replicated": 1, "disk_free": 3 << 30,
        }  # fmt: skip
        for role, answer in (("smtp", smtp), ("sidecar", sidecar)):
            states[f"mail-{i}/{role}"] = state(f"mail-{i}/{role}", 10 + i)
            answers[f"mail-{i}/{role}"] = Answer(answer, 0, 12.5)
    return array_status(ARRAY, states, answers, now=160.0)


def text(status: dict[str, Any], width: int) -> str:
    console = Console(width=width, record=True, force_terminal=False, file=StringIO())
    console.print(draw(status, width=width, demo=("demo@mail.example", "/d/demo-password")))
    return console.export_text()


def test_figures_are_added_up() -> None:
    status = whole()
    assert status["ready"] is True
    assert status["totals"] == {
        "accepted": 3000, "accepted_per_second": 37.5, "sessions": 6, "pending": 0, "segments": 12,
        "lag_bytes": 297, "under_replicated": 3, "in_one_zone": 0,
    }  # fmt: skip
    assert status["servers"][0]["smtp"]["uptime_seconds"] == 60.0
    assert plain_line(status) == (
        "3/3 servers, pop3 serving, accepted 3000 (38/s), sessions 6, lag 297 B, under-replicated 3"
    )


def test_volumes_are_named_and_counted_beside_servers() -> None:
    status = whole()
    for server, name in zip(status["servers"], ("mail-0", "mail-0.1", "mail-1"), strict=True):
        server["name"] = name
    assert plain_line(status).startswith("3/3 volumes of 2 servers, pop3 serving")
    assert "mail-0.1" in text(status, 80)


def test_a_server_with_several_volumes_has_a_row_of_sums_and_one_for_each() -> None:
    status = whole()
    for server, name in zip(status["servers"], ("mail-0", "mail-0.1", "mail-1"), strict=True):
        server["name"] = name
    lines = [line.split() for line in text(status, 160).splitlines()]
    rows = {line[0]: line for line in lines if line and line[0].startswith("mail-0.1")}
    sums, first = (line for line in lines if line and line[0] == "mail-0")
    assert "2,000" in sums and "1,000" in first and "1,000" in rows["mail-0.1"]
    assert " ".join(sums).endswith("8 + 10 198 B 2 6 GiB") and " ".join(first).endswith("4 + 5 99 B 1 3 GiB")
    assert text(status, 160).count("mail-1 ") == 1  # a server with one volume has one row


def test_a_broken_volume_is_named_with_its_last_words() -> None:
    status = whole()
    for server, name in zip(status["servers"], ("mail-0", "mail-0.1", "mail-1"), strict=True):
        server["name"] = name
    assert "broken" not in text(status, 160)
    status["servers"][1]["sidecar"] |= {
        "state": "restarting",
        "last_death": {"how": "exit code 1", "last_words": "EIO"},
    }
    picture = text(status, 160)
    assert "mail-0.1 is broken: EIO; the other volumes of mail-0 go on" in picture and "1 of 2 serve" in picture
    status["servers"][2]["sidecar"] |= status["servers"][1]["sidecar"]
    assert "mail-1 is broken" not in text(status, 160)  # nothing of it works
    status["servers"][1]["sidecar"]["state"] = "serving"
    status["servers"][1]["smtp"]["disk_error"] = "Read-only file system"
    assert "mail-0.1 is broken: Read-only file system" in text(status, 160)


@pytest.mark.parametrize("width", [80, 110, 160])
def test_the_picture_fits_and_says_what_matters(width: int) -> None:
    picture = text(whole(), width)
    assert max(len(line) for line in picture.splitlines()) <= width
    for words in ("● ready", "mail-2", "2527", "serving", "1,000", "4 + 5", "127.0.0.1:2110", "http://127.0.0.1:2180/"):
        assert words in picture
    assert "…" not in picture


def test_a_process_that_died_or_says_nothing_is_shown_as_such() -> None:
    death = Death("mail-0/smtp", "exit code 1", "no space left", 0.1, 0.5)
    states = {"mail-0/smtp": state("mail-0/smtp", None, death), "mail-1/smtp": state("mail-1/smtp", 5)}
    answers = {"mail-2/smtp": Answer({"mirrors": "odd", "refusing": "disk nearly full", "sessions": None}, 0)}
    states["mail-2/smtp"] = state("mail-2/smtp", 7)
    status = array_status(ARRAY, states, answers, now=160.0)
    assert status["ready"] is False
    words = [s["smtp"]["state"] for s in status["servers"]]
    assert words == ["restarting", "starting", "serving"]
    assert status["servers"][0]["smtp"]["last_death"] == {"how": "exit code 1", "last_words": "no space left"}
    assert "mail-2 refuses mail: disk nearly full" in text(status, 80)


def test_what_is_moved_is_shown_with_the_time_that_it_takes() -> None:
    status = whole()
    rebuild = {"segments_total": 9, "segments_left": 3, "bytes_total": 9 << 30, "bytes_left": 3 << 30, "done": False}
    idle = {"segments_left": 0, "bytes_left": 0, "problem": None, "seconds_left": None}
    status["servers"][0]["sidecar"] |= {"rebuild": {**rebuild, "seconds_left": 301}, "copying": idle}
    status["servers"][1]["sidecar"] |= {"drain": {**rebuild, "seconds_left": None, "waiting_for": "nobody has room"}}
    status["servers"][2]["sidecar"] |= {"rebuild": {**rebuild, "done": True, "seconds_left": None}}
    assert "in one zone" not in text(status, 110)
    status["totals"]["in_one_zone"] = 4
    picture = text(status, 110)
    assert "4 segments are in one zone alone" in picture
    assert "mail-0 gets back what its volume held: 3 segments, 3 GiB left, 6m" in picture
    assert "mail-1 drains: 3 segments, 3 GiB left; nobody has room" in picture
    assert "mail-0 copies" not in picture and "mail-2 gets back" not in picture


def test_metrics_of_all_processes_become_one_page() -> None:
    page = (
        "# HELP mailarray_a_total Of a.\n# TYPE mailarray_a_total counter\n"
        'mailarray_a_total{reason="size"} 2.0\n'
        '# TYPE mailarray_h histogram\nmailarray_h_bucket{le="1"} 1\nmailarray_h_bucket{le="+Inf"} 2\n'
        "mailarray_h_count 2\nmailarray_h_sum 3\n"
    )
    merged = merge({("mail-0", "smtp"): page, ("mail-1", "smtp"): page, ("mail-2", "smtp"): "} not metrics {"}).decode()
    families = {f.name: f for f in text_string_to_metric_families(merged)}
    assert {
        (s.labels["server"], s.labels["process"], s.labels["reason"], s.value) for s in families["mailarray_a"].samples
    } == {
        ("mail-0", "smtp", "size", 2.0),
        ("mail-1", "smtp", "size", 2.0),
    }
    assert families["mailarray_h"].type == "histogram" and len(families["mailarray_h"].samples) == 8


@pytest.mark.parametrize(
    ("size", "words"), [(None, "–"), (0, "0 B"), (1536, "2 KiB"), (5 << 30, "5 GiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes(size: object, words: str) -> None:
    assert human_size(size) == words
