"""States of servers in the mirroring table of an array on one machine, pushed as the operator does."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request

from mailarray.contract import mirroring_ring, mirroring_table
from mailarray.local.layout import Layout
from tests.support.array import HOST, Array


def push(array: Array, *, patient: bool = False, **states: str) -> None:
    """The file for those that start, and a PUT to all that run: `mail_0="Draining"`. `patient`: one that does not
    answer is left out; it is to be pushed to again, or reads the file when it starts."""
    newest = 0
    while (heard := _push(array, newest + 1, patient, states)) > newest:
        newest = heard  # the launcher made a table in the same moment: a volume is full, or is not any more


def _push(array: Array, least: int, patient: bool, states: dict[str, str]) -> int:
    """A table of a generation that is `least` or above; answers 0, or a higher generation that somebody has."""
    path = Layout(array.data).mirroring_table
    table = mirroring_table.load(path)
    generation = max(table.generation + 1, least)
    servers = [
        mirroring_table.Server(
            s.name, s.sidecar, s.writer, s.zone, s.node, states.get(s.name.replace("-", "_"), s.state)
        )
        for s in table.servers
    ]
    text = mirroring_table.dump(mirroring_ring.ring(servers, generation))
    stat = path.stat()
    new = path.with_name("table.new")
    new.write_text(text)
    os.chown(new, stat.st_uid, stat.st_gid)
    new.chmod(stat.st_mode & 0o777)
    new.replace(path)
    addresses = [a for s in servers for a in (s.sidecar, s.writer)] + [f"{HOST}:{array.ports.internal + 30}"]
    highest = generation
    for address in addresses:
        request = urllib.request.Request(
            f"http://{address}/v1/mirroring-table",
            data=text.encode(),
            method="PUT",
            headers={"Authorization": f"Bearer {array.token}"},
        )
        with (
            contextlib.suppress(*([OSError] if patient else [])),
            urllib.request.urlopen(request, timeout=5) as response,
        ):
            answered = json.load(response)["generation"]
            assert answered >= generation
            highest = max(highest, answered)
    return highest if highest > generation else 0
