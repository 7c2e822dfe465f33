"""Servers with two disks each: mail is on all of them, copies are on two servers, and a lost disk is rebuilt alone."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mailarray.contract.server_names import host_of, volume_name
from tests.faults.ledger import Ledger
from tests.faults.readers import read_all
from tests.faults.senders import Sender
from tests.faults.where import local
from tests.support.array import DOMAIN, HOST, Array, wait_for
from tests.support.mail import message, send, wait_for_mail
from tests.support.small_disk import on_small_disk

USER, OTHER = f"user@{DOMAIN}", f"other@{DOMAIN}"
SEED = 4711
WIPED = "mail-1.1"
PATIENCE = 45.0  # seconds, for a machine that does much else
SMALL_MIB = 24


@pytest.fixture
def array() -> Iterator[Array]:
    with Array(accounts=(USER, OTHER), volumes=2, spec={"storage": {"segmentAge": "3s"}}) as started:
        yield started.start()


def holders(array: Array) -> dict[bytes, list[str]]:
    """For each sealed segment the names of the volumes that hold it and are not lost; from the catalog's database."""
    connection = sqlite3.connect(f"file:{array.data}/catalog/catalog.sqlite?mode=ro", uri=True, timeout=20)
    try:
        rows = connection.execute(
            "SELECT s.id, v.server FROM segments s JOIN segment_members m ON m.segment = s.number "
            "JOIN volumes v ON v.id = m.volume WHERE s.sealed_length > 0 AND s.superseded_by IS NULL AND NOT v.lost "
            "UNION ALL SELECT s.id, v.server FROM segments s JOIN segment_replicas r ON r.segment_id = s.id "
            "JOIN volumes v ON v.id = r.volume WHERE s.sealed_length > 0 AND s.superseded_by IS NULL AND NOT v.lost"
        ).fetchall()
    finally:
        connection.close()
    found: dict[bytes, list[str]] = {}
    for segment, server in rows:
        found.setdefault(segment, []).append(server)
    return found


def accepted(array: Array) -> dict[str, int]:
    """By each volume's process, asked just now: what the launcher shows is as old as its last look."""
    return {name: (array.ask(f"{name}/smtp") or {}).get("accepted", 0) for name in array.names}


def wipe(array: Array, name: str) -> None:
    """A disk is lost, and an empty one is in its place."""
    volume: Path = array.volume(array.names.index(name))
    with array.held_down(f"{name}/smtp", f"{name}/sidecar"):
        for path in volume.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def rebuilt(array: Array, old: str) -> bool:
    """The wiped volume is another one, and nothing is short of copies."""
    status = array.status()
    if status is None or not status["ready"]:
        return False
    sidecars = {server["name"]: server["sidecar"] for server in status["servers"]}
    rebuild = sidecars[WIPED].get("rebuild")
    return sidecars[WIPED].get("volume") != old and bool(rebuild and rebuild["done"])


async def test_a_wiped_disk_is_rebuilt_while_its_server_goes_on_with_the_other(array: Array) -> None:
    print("seed", SEED)
    assert array.names == ("mail-0", "mail-0.1", "mail-1", "mail-1.1", "mail-2", "mail-2.1")
    ledger = Ledger(SEED)
    senders = [Sender(local(array.smtp(i % 3)), ledger, (USER,), random.Random(SEED + i), 0.3) for i in range(9)]
    stop = asyncio.Event()
    at_work = [asyncio.create_task(sender.run(stop)) for sender in senders]
    extra = 0
    try:
        while not all(accepted(array).get(name) for name in array.names):  # the kernel gives out connections by chance
            for index in range(3):
                await asyncio.to_thread(send, array, index, OTHER, message(f"extra {extra}"))
                extra += 1
            assert extra < 300, accepted(array)
        await asyncio.to_thread(
            wait_for, lambda: any(WIPED in names for names in holders(array).values()), PATIENCE, "it holds something"
        )
        status = array.status()
        assert status is not None
        old = next(s["sidecar"]["volume"] for s in status["servers"] if s["name"] == WIPED)
        sibling, before = array.processes()["mail-1/smtp"], accepted(array)
        await asyncio.to_thread(wipe, array, WIPED)
        await asyncio.to_thread(wait_for, lambda: rebuilt(array, old), PATIENCE, f"{WIPED} is rebuilt")
        await asyncio.to_thread(
            wait_for, lambda: accepted(array).get("mail-1", 0) > before["mail-1"], PATIENCE, "the other disk goes on"
        )
    finally:
        stop.set()
        await asyncio.gather(*at_work)
    assert array.processes()["mail-1/smtp"] == sibling  # nobody touched the other volume's processes
    await asyncio.to_thread(array.wait_settled)
    await asyncio.to_thread(
        wait_for, lambda: _totals(array).get("under_replicated") == 0, PATIENCE, "nothing is short of copies"
    )
    every = holders(array)
    assert len(every) > 6
    for segment, names in every.items():
        hosts = [host_of(name) for name in names]
        assert len(set(hosts)) == len(hosts) >= 2, (segment.hex(), names)
    assert {name for names in every.values() for name in names} == set(array.names)
    verdict = ledger.judge({USER: await read_all(local(array.pop3), USER, 30)})
    print(verdict)
    assert verdict.good, str(verdict)
    await asyncio.to_thread(wait_for_mail, array, OTHER, extra)
    await asyncio.to_thread(array.stop)
    array.verify_journals()


def _totals(array: Array) -> dict[str, int]:
    status = array.status()
    return {} if status is None else status["totals"]


@pytest.fixture
def small_disk() -> Iterator[Array]:
    """The second disk of the first server has 24 MiB."""
    with Array(volumes=2, spec={"storage": {"reserve": "6Mi"}}) as array:
        yield from on_small_disk(array, array.volume(1), SMALL_MIB)


def test_a_full_disk_takes_only_its_volume_out(small_disk: Array) -> None:
    array = small_disk
    filling = array.volume(1) / "filling"
    with filling.open("wb") as file:
        file.write(bytes((SMALL_MIB - 4) << 20))

    def left() -> bool:
        said = array.ask("mail-0.1/smtp")
        return said is not None and bool(said["refusing"]) and '"the port is left' in array.log("mail-0.1/smtp")

    wait_for(left, PATIENCE, "the full volume's writer refuses, and leaves the port to the other")
    for number in range(20):  # by chance every other one would have come to the full one
        send(array, 0, USER, message(f"meanwhile {number}"))
    wait_for_mail(array, USER, 20)
    filling.unlink()
    extra = 0

    def taken_again() -> bool:
        nonlocal extra
        send(array, 0, USER, message(f"extra {extra}"))
        extra += 1
        said = array.ask("mail-0.1/smtp")
        return said is not None and said["accepted"] > 0

    wait_for(taken_again, PATIENCE, "mail comes to the volume again")
    wait_for_mail(array, USER, 20 + extra)
    array.stop()
    array.verify_journals()


def set_volumes(array: Array, volumes: int) -> None:
    """Change the file, of an array that is stopped."""
    documents = list(yaml.safe_load_all(array.config.read_text(encoding="utf-8")))
    for document in documents:
        if document["kind"] == "MailServer":
            document["spec"]["storage"] = {"volumes": volumes}
    array.config.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
    array.names = tuple(volume_name(server, number) for server in array.servers for number in range(volumes))


def test_a_volume_is_added_between_two_runs_and_one_with_mail_is_not_left_out() -> None:
    with Array(accounts=(USER,)) as array:
        array.start()
        for number in range(5):
            send(array, number % 3, USER, message(f"before {number}"))
        wait_for_mail(array, USER, 5)
        array.stop()

        set_volumes(array, 2)
        array.start()
        sent = 5
        while not all(accepted(array).get(name) for name in array.names):
            send(array, sent % 3, USER, message(f"after {sent}"))
            sent += 1
            assert sent < 300, accepted(array)
        wait_for_mail(array, USER, sent)
        array.wait_settled()
        for names in holders(array).values():
            assert len({host_of(name) for name in names}) >= 2, names
        array.stop()

        set_volumes(array, 1)
        array.launch()
        refused = array.wait_exit(PATIENCE)
        assert refused.code == 1
        assert "volume-1 holds mail, but spec.storage.volumes of mail is 1; set it to 2 or more" in refused.output
        set_volumes(array, 2)
        array.start()
        wait_for_mail(array, USER, sent)


def test_a_broken_volume_is_named_with_the_reason_and_its_server_goes_on(array: Array) -> None:
    identity = array.volume(array.names.index("mail-1.1")) / "volume.json"
    kept = identity.read_bytes()
    identity.write_bytes(b"")
    for role in ("smtp", "sidecar"):
        array.signal(f"mail-1.1/{role}", signal.SIGKILL)

    def shown() -> str:
        return " ".join(array.cli("status", "--url", f"http://{HOST}:{array.ports.status}").stdout.split())

    def named() -> bool:
        said = shown().partition("mail-1.1 is broken: ")[2]
        return "volume.json is damaged" in said and "; the other volumes of mail-1 go on" in said

    wait_for(named, PATIENCE, "the volume is named, with the last words of its processes")
    for number in range(12):  # the port is left to the other volume: none is refused
        send(array, 1, USER, message(f"beside it {number}"))
    wait_for_mail(array, USER, 12)
    identity.write_bytes(kept)
    wait_for(lambda: (array.status() or {}).get("ready"), PATIENCE, "it works again")
    assert "broken" not in shown()
    wait_for_mail(array, USER, 12)
