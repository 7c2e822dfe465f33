"""The deterministic simulation, for a short while: `make simulation` is the long one (docs/simulation.md).

In processes of their own, since a world stands in for the clock and the random bytes of its process.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "25"))
PLANTS = (
    "sync-first",
    "failed-sync",
    "other-bytes",
    "second-sight",
    "second-location",
    "every-holder",
    "not-truncated",
)
PATIENCE = 900  # seconds; a busy machine may be a tenth as fast

pytestmark = pytest.mark.timeout(PATIENCE)


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["dataplane", "operator", "."])}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False)


def test_no_seed_breaks_a_promise() -> None:
    done = simulate("--seeds", str(SEEDS))
    print(done.stdout, done.stderr)
    assert done.returncode == 0 and f"seeds {SEEDS}, " in done.stdout and "failed 0" in done.stdout


def test_a_seed_repeats_itself() -> None:
    """Every request, every line of the log, at the same time."""
    first, second = (simulate("--seed", "3", "--trace").stdout for _ in range(2))
    assert "250 for" in first and "PUT /v1/volumes/" in first
    assert first == second


def test_planted_bugs_are_caught() -> None:
    done = simulate("--plant", ",".join(PLANTS), "--seeds", "20")
    print(done.stdout, done.stderr)
    assert done.returncode == 0 and f"caught {len(PLANTS)}, " in done.stdout
