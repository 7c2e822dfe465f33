"""`python -m simulate`: all traces with all strategies; the report, and the figures that the planner is held to."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from mailarray_operator.mx import Policy, Strategy
from simulate import traces
from simulate.figures import Outcomes, figures, summary
from simulate.model import Outcome, simulate


def run_all(quick: bool, seed: int) -> Outcomes:
    """By name of the trace, then by strategy."""
    found: dict[str, dict[Strategy, Outcome]] = {}
    for trace in traces.ALL:
        told = traces.short(trace) if quick else trace
        told = traces.with_seed(told, seed)
        found[trace.name] = {}
        for strategy in Strategy:
            began = time.monotonic()
            outcome = simulate(told, Policy(strategy=strategy, seed=seed))
            found[trace.name][strategy] = outcome
            print(
                f"{trace.name:8} {strategy:10} {outcome.messages:8,} messages, {outcome.deferred_share:8.3%} deferred,"
                f" {len(outcome.changes):4} changes, {time.monotonic() - began:5.1f} s",
                flush=True,
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter traces")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--to", type=Path, default=Path("build/simulate"), help="folder of the report")
    asked = parser.parse_args()
    print(f"seed {asked.seed}")
    outcomes = run_all(asked.quick, asked.seed)
    held = figures(outcomes)
    asked.to.mkdir(parents=True, exist_ok=True)
    told = {name: {str(s): summary(one) for s, one in by.items()} for name, by in outcomes.items()}
    whole = {"seed": asked.seed, "quick": asked.quick, "figures": held, "traces": told}
    (asked.to / "summary.json").write_text(json.dumps(whole, indent=2) + "\n")

    from simulate.report import html  # here, so that figures can be had without matplotlib

    (asked.to / "report.html").write_text(html(outcomes, held))
    for name, one in held.items():
        print(f"{'ok  ' if one['holds'] else 'FAIL'} {name}: {one['measured']:.4g} (allowed: {one['allowed']:.4g})")
    print(asked.to / "report.html")
    return 0 if all(one["holds"] for one in held.values()) else 1


sys.exit(main())
