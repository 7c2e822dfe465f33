"""`make faults`: one campaign. SEED, MESSAGES, FAULTS, DUPLICATES, KEEP come from the environment: docs/faults.md.

Its last line is `acknowledged N, lost N, damaged N, duplicated N, faults N`; the exit code is 1 when anything is wrong.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import traceback
from pathlib import Path

from tests.faults.campaign import DUPLICATES, MAILBOXES, Campaign, Order, Result
from tests.faults.faults import KINDS
from tests.faults.ledger import Verdict
from tests.faults.stage import Stage, enter_namespaces

MESSAGES = 10_000
FAULTS = 40


def read_order(environment: dict[str, str], missing: dict[str, str]) -> Order:
    """What is asked for, and can be done here. Raises ValueError with a sentence."""
    seed = int(environment.get("SEED") or 0) or random.SystemRandom().randrange(1, 1 << 31)
    faults, kinds = FAULTS, []
    for word in filter(None, environment.get("FAULTS", "").split(",")):
        if word.isdigit():
            faults = int(word)
        elif word in KINDS:
            kinds.append(word)
        else:
            raise ValueError(f"FAULTS: {word!r} is neither a number nor one of {', '.join(KINDS)}")
    possible = [kind for kind in kinds or KINDS if not KINDS[kind].needs & missing.keys()]
    if not possible:
        raise ValueError(f"no such fault can be done here: {missing}")
    duplicates = float(environment.get("DUPLICATES") or DUPLICATES)
    return Order(seed, int(environment.get("MESSAGES") or MESSAGES), faults, tuple(possible), duplicates)


def say(text: str) -> None:
    """One line, at once."""
    print(text, flush=True)


async def run(stage: Stage, order: Order) -> Result:
    """The campaign's result; when it cannot be finished, what is known so far."""
    campaign = Campaign(stage, order, say)
    try:
        return await campaign.run()
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        return Result(Verdict(campaign.ledger.acknowledged), campaign.faults, [f"not finished: {error}"])


def main() -> int:
    """The exit code."""
    enter_namespaces([sys.executable, "-m", "tests.faults", *sys.argv[1:]])
    stage = Stage(MAILBOXES)
    try:
        try:
            order = read_order(dict(os.environ), stage.missing)
        except ValueError as error:
            say(str(error))
            return 2
        say(f"SEED={order.seed} MESSAGES={order.messages} FAULTS={order.faults},{','.join(order.kinds)}")
        for what, why in stage.missing.items():
            say(f"left out is what needs {what}: {why}")
        result = asyncio.run(run(stage, order))
        for line in (*result.verdict.examples(), *result.problems):
            say(line)
        if not result.good:
            kept = (
                Path(os.environ.get("KEEP") or tempfile.gettempdir()) / f"mailarray-faults-{order.seed}-{os.getpid()}"
            )
            stage.array.kill()
            stage.keep(kept)
            say(f"SEED={order.seed}; volumes, logs and settings are kept in {kept}")
        say(result.last_line())
        return 0 if result.good else 1
    finally:
        stage.close()


if __name__ == "__main__":
    sys.exit(main())
