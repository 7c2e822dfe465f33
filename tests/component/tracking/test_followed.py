"""When a mirror's copy of a living writer's segment counts as told (rule 19)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

from mailarray.catalog.rows import CheckIn, SegmentState
from mailarray.model.ids import new_volume_id
from mailarray.tracking.settling import Settler
from mailarray.tracking.shelf import Holding
from tests.support.segments import made


class Scene:
    """One mirror copy; the test moves what the writer acknowledged, and what the catalog has."""

    def __init__(self) -> None:
        self.own = new_volume_id()
        self.segment = made(new_volume_id(), self.own).header
        self.holding = Holding(self.segment.segment)
        self.holding.header = self.segment
        self.holding.member = Mock(acknowledged=0)
        self.epoch = 1
        self.alive = True
        self.cursor: int | None = None
        catalog = Mock(volumes=AsyncMock(return_value=[]), beats=AsyncMock(return_value={}), segments=self._segments)
        catalog.replicas_on = AsyncMock(return_value=set())
        link: Any = SimpleNamespace(catalog=catalog, check_in=self._check_in, state=None)
        self.link = link
        shelf: Any = _Shelf([self.holding], self.own)
        follower = Mock(writer_lives=True, current=None)
        sealer = Mock(seal=AsyncMock(return_value=None))
        receiver = Mock(last_words={})
        rest: Any = Mock()
        self.settler = Settler(shelf, link, follower, receiver, rest, sealer, rest, rest, rest, rest, 2, rest)
        watch: Any = Mock(silent=lambda *_: not self.alive)
        self.settler._watch = watch

    async def _check_in(self) -> CheckIn:
        self.link.state = CheckIn(epoch=self.epoch, counter=0, open=True)
        return self.link.state  # type: ignore[no-any-return]

    async def _segments(self, ids: Any) -> dict[Any, SegmentState]:
        if self.cursor is None:
            return {}
        facts = self.holding.facts
        assert facts is not None
        return {facts.id: SegmentState(facts, None, self.cursor, self.cursor, False)}

    async def told(self, acknowledged: int, cursor: int | None) -> bool:
        self.holding.member.acknowledged = acknowledged  # type: ignore[union-attr]
        self.cursor = cursor
        await self.settler.one_pass()
        return self.settler.waiting == 0


class _Shelf(list[Holding]):
    def __init__(self, holdings: list[Holding], own: Any) -> None:
        super().__init__(holdings)
        self.volume = SimpleNamespace(id=own)


async def test_under_steady_load_a_copy_counts_as_told_up_to_the_first_look() -> None:
    scene = Scene()
    assert not await scene.told(100, None)
    assert not await scene.told(200, 50)
    assert await scene.told(300, 150)  # the catalog is behind, as always, and has all of the first look
    assert await scene.told(900, 200)
    scene.epoch = 2  # from nothing again
    assert not await scene.told(1000, 200)
    assert not await scene.told(1100, 999)
    assert await scene.told(1200, 1000)


async def test_a_copy_whose_writer_fell_silent_waits_for_its_seal() -> None:
    scene = Scene()
    assert await scene.told(0, None)  # nothing was acknowledged
    scene.alive = False
    assert not await scene.told(100, None)
