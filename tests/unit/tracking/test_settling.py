"""What counts as at rest; L is not lowered past what was fetched while the members were asked (rule 13)."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from mailarray.journal.fence import FenceAnswer
from mailarray.model.ids import new_volume_id
from mailarray.tracking.settling import Settler
from mailarray.tracking.shelf import Holding
from tests.support.segments import made


class Scene:
    """This volume is an empty member; the writer's volume is lost, and may be back for a while."""

    def __init__(self, fetched: int) -> None:
        self.own, self.gone = new_volume_id(), new_volume_id()
        self.header = made(self.gone, self.own).header
        self.holding = Holding(self.header.segment)
        self.holding.member = Mock(length=0)
        self.fetched = fetched
        self.lower = AsyncMock(return_value=True)
        sealer = Mock(ask_members=self._ask)
        link: Any = SimpleNamespace(catalog=Mock(lower_seal=self.lower))
        rest: Any = Mock()
        self.settler = Settler(rest, link, rest, rest, rest, sealer, rest, rest, rest, rest, 2, rest)
        self.settler.lost = {self.gone}

    async def _ask(self, _: Any) -> list[FenceAnswer]:
        self.holding.member = Mock(length=self.fetched)  # after the answer was made
        return [FenceAnswer(self.own, 0, None, 0, False)]

    async def lowered(self) -> bool:
        facts: Any = SimpleNamespace(id=self.header.segment, members=self.header.members)
        return await self.settler._lower(self.holding, facts, 500, ())


async def test_a_copy_made_while_others_were_asked_keeps_the_length() -> None:
    scene = Scene(fetched=500)
    assert not await scene.lowered()
    assert not scene.lower.called


async def test_what_nobody_holds_is_given_up() -> None:
    scene = Scene(fetched=0)
    assert await scene.lowered()
    assert scene.lower.call_args.args == (scene.header.segment, 500, 0, ())


async def test_an_own_segment_that_is_taken_over_just_now_is_not_at_rest() -> None:
    """It was adopted by its file's name, and nobody has read its header yet: it may hold mail that was acknowledged."""
    scene = Scene(fetched=0)
    scene.holding.own, scene.holding.member = True, None
    assert not await scene.settler._settle(scene.holding, None, 1)
    scene.holding.member = Mock(length=0)  # read: nothing is in it, and the catalog has no row of it
    assert await scene.settler._settle(scene.holding, None, 1)


def test_a_mirror_takes_a_segment_that_nobody_speaks_for_as_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's disk was full at its first batch, which the mirror has; the writer lives, and writes another one."""
    scene = Scene(fetched=0)
    mirror, settler = scene.holding, scene.settler
    mirror.header = scene.header
    settler._watch = Mock(silent=lambda *_: False)
    settler._receiver = SimpleNamespace(last_words={})  # type: ignore[assignment]
    began = settler._began
    for now, word, may in ((14.0, 0.0, False), (16.0, 0.0, True), (29.0, 15.0, False), (31.0, 15.0, True)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: began + now)
        mirror.last_word = began + word
        assert settler._may_seal(mirror) is may
