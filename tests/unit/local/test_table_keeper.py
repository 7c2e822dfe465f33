"""The launcher's mirroring table follows what servers say of their volumes."""

from __future__ import annotations

from typing import Any

from mailarray.contract import mirroring_table
from mailarray.contract.mirroring_ring import ring
from mailarray.contract.mirroring_table import Server
from mailarray.contract.settings import Listen
from mailarray.local.poller import Answer, Target
from mailarray.local.table_keeper import TableKeeper

NAMES = [f"mail-{i}" for i in range(4)]


class FakePoller:
    def __init__(self) -> None:
        nowhere = Listen(host="127.0.0.1", port=1)
        self.targets = [Target(f"{name}/{role}", name, role, nowhere) for name in NAMES for role in ("smtp", "sidecar")]
        self.told: list[tuple[str, int]] = []

    async def push_table(self, target: Target, text: str) -> None:
        self.told.append((target.name, mirroring_table.parse(text).generation))


def answers(generation: int, *full: str) -> dict[str, Answer]:
    found = {}
    for name in NAMES:
        said: dict[str, Any] = {"table_generation": generation, "full": name in full}
        found[f"{name}/sidecar"] = found[f"{name}/smtp"] = Answer(said, 0.0)
    return found


def mirrors(keeper: TableKeeper) -> set[str]:
    return {name for row in keeper.table.rows.values() for group in row for name in group}


async def test_a_full_server_leaves_the_rows_and_comes_back() -> None:
    poller, saved = FakePoller(), list[str]()
    table = ring([Server(name, f"{name}:1", f"{name}:2") for name in NAMES], 1)
    keeper = TableKeeper(table, 2, saved.append, poller)  # type: ignore[arg-type]
    await keeper.follow(answers(1))
    assert keeper.table is table and not saved and not poller.told

    await keeper.follow(answers(1, "mail-2"))
    assert mirrors(keeper) == {"mail-0", "mail-1", "mail-3"}
    assert mirroring_table.parse(saved[-1]) == keeper.table and keeper.table.generation == 2
    assert len(poller.told) == 8 and {generation for _, generation in poller.told} == {2}

    poller.told.clear()
    await keeper.follow(answers(2, "mail-2"))
    assert len(saved) == 1 and not poller.told  # all have it

    silent = answers(2, "mail-2")
    del silent["mail-2/sidecar"]
    await keeper.follow(silent)
    assert len(saved) == 1  # it stays as it was

    await keeper.follow(answers(2))
    assert mirrors(keeper) == set(NAMES) and keeper.table.generation == 3


async def test_a_table_that_cannot_be_written_is_told_to_nobody() -> None:
    poller = FakePoller()
    table = ring([Server(name, f"{name}:1", f"{name}:2") for name in NAMES], 1)

    def refuse(text: str) -> None:
        raise OSError(28, "No space left on device")

    keeper = TableKeeper(table, 2, refuse, poller)  # type: ignore[arg-type]
    await keeper.follow(answers(1, "mail-2"))
    assert keeper.table is table and not poller.told
