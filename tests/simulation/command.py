"""`python -m tests.simulation`: play seeds, show a failing one, prove that planted bugs are caught."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

EVENTS = 200  # of a seed
PLANT_SEEDS = 300  # tried with a planted bug before it counts as not caught


def main() -> None:
    """The exit status is 0 when no promise was broken, or with planted bugs when each was caught."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets are walked in the order of hashes: a seed must repeat
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: show everything that happens")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--plant", help="a bug of planted/; `all` for each of them, `list` for their names")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    wanted = parser.parse_args()
    from tests.simulation.planted import PLANTS

    if wanted.plant == "list":
        for name, bug in PLANTS.items():
            print(f"{name:22} rule {bug.rule:4} {bug.sentence}")
        return
    if wanted.seed is not None:
        sys.exit(_show(wanted.seed, wanted.events, wanted.plant, wanted.trace))
    seeds = range(wanted.first, wanted.first + wanted.seeds)
    if wanted.plant is None:
        sys.exit(_play(seeds, wanted.events, wanted.jobs))
    names = list(PLANTS) if wanted.plant == "all" else wanted.plant.split(",")
    sys.exit(_prove(names, seeds, wanted.events, wanted.jobs))


def _show(seed: int, events: int, bug: str | None, trace: bool) -> int:
    from tests.simulation.runs import run

    result = run(seed, events, bug, detail=trace)
    for at, text in result.trace:
        print(f"{at:12.6f} {text}")
    for finding in result.findings:
        print(f"seed {seed}: {finding}")
    print(f"seed {seed}: trace {result.digest}, {result.promised} acknowledged, {len(result.findings)} findings")
    return 1 if result.findings else 0


def _play(seeds: Sequence[int], events: int, jobs: int) -> int:
    from tests.simulation.runs import run_many

    began = time.monotonic()
    failed: list[int] = []
    done = promised = deleted = 0
    cpu = virtual = 0.0
    for result in run_many(seeds, events, None, jobs):
        done += 1
        promised += result.promised
        deleted += result.deleted
        cpu += result.cpu
        virtual += result.virtual
        if result.findings:
            failed.append(result.seed)
            for finding in result.findings[:5]:
                print(f"seed {result.seed}: {finding}", flush=True)
            print(f"  python -m tests.simulation --seed {result.seed} --events {events} --trace", flush=True)
    print(
        f"seeds {done}, events {done * events}, acknowledged {promised}, deleted {deleted},"
        f" {virtual / 3600:.1f} hours simulated in {time.monotonic() - began:.0f} s"
        f" ({1000 * cpu / max(1, done):.0f} ms of CPU a seed), failed {len(failed)}"
    )
    return 1 if failed else 0


def _prove(names: Sequence[str], seeds: Sequence[int], events: int, jobs: int) -> int:
    """Play seeds with each bug until one catches it."""
    from tests.simulation.planted import PLANTS
    from tests.simulation.runs import run, run_many

    missed = caught = 0
    for name in names:
        bug = PLANTS[name]
        tried = 0
        found = None
        for result in run_many(seeds, events, name, jobs):
            tried += 1
            if result.findings:
                # Only what the same world without the bug does not find was found because of it.
                sound = run(result.seed, events, name, hot_only=True)
                if not sound.findings:
                    found = result
                    break
                print(f"seed {result.seed} fails without {name}, too: {sound.findings[0]}", flush=True)
        if found is not None:
            caught += 1
            print(
                f"{name:22} rule {bug.rule:4} caught after {tried:4} seeds, {found.seed}: {found.findings[0]}",
                flush=True,
            )
        elif bug.why_not:
            print(f"{name:22} rule {bug.rule:4} not caught in {tried} seeds, as expected: {bug.why_not}", flush=True)
        else:
            missed += 1
            print(f"{name:22} rule {bug.rule:4} NOT CAUGHT in {tried} seeds", flush=True)
    print(
        f"planted {len(names)}, caught {caught}, not caught as expected {len(names) - caught - missed}, missed {missed}"
    )
    return 1 if missed else 0
