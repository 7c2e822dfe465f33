"""A server is away until its segments are elsewhere, and is back: third copies go by themselves, and nothing is lost.

On one machine nobody takes a server out of the mirroring table because it is silent, so the test does what the operator
does in a cluster: the table says that it does not serve.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mailarray.contract import mirroring_ring, mirroring_table
from mailarray.local.layout import Layout
from tests.support.array import DOMAIN, Array, wait_for
from tests.support.mail import message, payload, read, send

USER = f"user@{DOMAIN}"
MESSAGES = 20  # to each server


@pytest.fixture
def array() -> Iterator[Array]:
    storage = {"segmentSize": "64Ki", "segmentAge": "2s"}
    short = {"mailarray.io/local-surplus-after": "2s", "mailarray.io/local-max-restart-delay": "500ms"}
    with Array(spec={"storage": storage}, annotations=short) as made:
        yield made.start()


def say(array: Array, **states: str) -> None:
    """The next generation of the mirroring table; processes read the file when it changes."""
    path = Layout(array.data).mirroring_table
    table = mirroring_table.load(path)
    servers = [replace(s, state=states.get(s.name.replace("-", "_"), s.state)) for s in table.servers]
    text = mirroring_table.dump(mirroring_ring.ring(servers, table.generation + 1))
    new = path.with_name(path.name + ".test")
    new.write_text(text)
    os.chown(new, path.stat().st_uid, path.stat().st_gid)
    new.chmod(path.stat().st_mode & 0o777)
    new.replace(path)


def copies(array: Array) -> Counter[str]:
    """How many disks have a file of which segment."""
    return Counter(file.stem for index in range(3) for file in array.volume(index).glob("segments/*.segment"))


def total(array: Array, figure: str, of: str = "") -> int:
    """Of all sidecars that answer."""
    said = [array.ask(f"{name}/sidecar") or {} for name in array.names]
    return sum((one.get(of, {}) if of else one).get(figure) or 0 for one in said)


def test_third_copies_go_when_a_server_is_back(array: Array) -> None:
    sent = [message(f"{index}-{number}", "x" * 2000 + "\r\n") for index in range(3) for number in range(MESSAGES)]
    for place, text in enumerate(sent):
        send(array, place % 3, USER, text)
    array.wait_settled()
    before = copies(array)
    with array.held_down("mail-0/smtp", "mail-0/sidecar"):
        say(array, mail_0="Gone")
        wait_for(
            lambda: total(array, "under_replicated") > 0 or any(n > 2 for n in copies(array).values()), 30, "short"
        )
        wait_for(lambda: not total(array, "under_replicated"), 60, "everything is on two of the servers that are left")
        away = copies(array)
        assert set(away.values()) >= {3} and set(before) <= set(away)
        assert sorted(map(payload, read(array, USER))) == sorted(sent)
    say(array, mail_0="Serving")
    array.wait_ready()
    wait_for(lambda: total(array, "given_back", "surplus") > 0, 60, "copies are given back")
    wait_for(lambda: max(copies(array).values()) == 2, 60, "no segment is on three disks")
    array.wait_settled()
    assert total(array, "segments", "surplus") == 0 == total(array, "under_replicated")
    print(f"{total(array, 'given_back', 'surplus')} copies given back")
    assert sorted(map(payload, read(array, USER))) == sorted(sent)
    with array.held_down("mail-2/smtp", "mail-2/sidecar"):  # nobody needs what went
        assert sorted(map(payload, read(array, USER))) == sorted(sent)
    array.wait_ready()
    array.wait_settled()
    array.stop()
    assert set(copies(array).values()) == {2}
    array.verify_journals()
