"""Running seeds: one, or many side by side."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tests.simulation import world
from tests.simulation.events import play
from tests.simulation.planted import planted
from tests.simulation.world import BASE, Broken, World, outside

_cpu = time.process_time
WORLDS = 60  # played by one process, which keeps 4 MiB of each
CHUNK = 5  # of them given out at a time


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
        one = World(seed, os.path.join(root, "world"), detail=detail)  # noqa: PTH118
        with outside(one), planted(bug, hot_only=hot_only) as hot:
            try:
                play(one, events, hot)
            except Broken as error:
                one.broken(str(error))
        return Result(
            seed,
            tuple(one.findings),
            one.digest(),
            len(one.ledger.promised),
            len(one.ledger.deleted),
            one.loop.now,
            _cpu() - began,
            tuple(one.trace) if detail else (),
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)


def run_many(seeds: Sequence[int], events: int, bug: str | None, jobs: int) -> Iterator[Result]:
    """Results as they come."""
    play_one = partial(run, events=events, bug=bug)
    if jobs == 1:
        yield from map(play_one, seeds)
        return
    run(0, 10)  # what is made once is made before the processes part
    gc.collect()
    gc.freeze()
    with multiprocessing.get_context("fork").Pool(jobs, _hoard, maxtasksperchild=WORLDS // CHUNK) as pool:
        yield from pool.imap_unordered(play_one, seeds, chunksize=min(CHUNK, max(1, len(seeds) // jobs // 4)))


def _hoard() -> None:
    world.hoarding = True
