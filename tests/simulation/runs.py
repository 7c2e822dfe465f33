"""Running seeds: one, or many side by side."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tests.simulation.events import play
from tests.simulation.planted import planted
from tests.simulation.world import BASE, Broken, World, outside

_cpu = time.process_time


@dataclass(frozen=True)
class Result:
    """What became of one seed."""

    seed: int
    findings: tuple[str, ...]
    digest: str  # of the trace
    promised: int
    deleted: int
    virtual: float  # seconds
    cpu: float  # seconds
    trace: tuple[tuple[float, str], ...] = ()


def run(seed: int, events: int, bug: str | None = None, *, detail: bool = False, hot_only: bool = False) -> Result:
    """Play one seed; `detail` keeps the trace, with every request and every line that production logs. `hot_only`: the
    world of that bug, without it."""
    began = _cpu()
    root = tempfile.mkdtemp(prefix="mailarray-simulation-", dir=BASE)
    try:
        world = World(seed, os.path.join(root, "world"), detail=detail)  # noqa: PTH118
        with outside(world), planted(bug, hot_only=hot_only) as hot:
            try:
                play(world, events, hot)
            except Broken as error:
                world.broken(str(error))
        return Result(
            seed,
            tuple(world.findings),
            world.digest(),
            len(world.ledger.promised),
            len(world.ledger.deleted),
            world.loop.now,
            _cpu() - began,
            tuple(world.trace) if detail else (),
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)


def run_many(seeds: Sequence[int], events: int, bug: str | None, jobs: int) -> Iterator[Result]:
    """Results as they come."""
    play_one = partial(run, events=events, bug=bug)
    if jobs == 1:
        yield from map(play_one, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(play_one, seeds, chunksize=1)
