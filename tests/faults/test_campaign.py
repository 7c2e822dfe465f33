"""The short fault campaign of `make test`. The long one is `make faults`; docs/faults.md says what both do.

SEED, MESSAGES and FAULTS as there, but the plan is always the same one unless asked for: what fails here is to be what
was changed last. `make faults` draws another plan each time. What the machine cannot give (root, loop devices, nft) is
left out, and named.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.__main__ import read_order
from tests.faults.stage import problems
from tests.support.array import ROOT

SEED = 393812117  # a server is wiped, and one removed, while copies of messages wait to be dropped
MESSAGES = 2_000
FAULTS = 12
LEAST_KINDS = 8
MOST_DUPLICATED = 0.0005  # a few; `make faults` asks for 0.0001, over many more messages
SECONDS = 900  # a minute on a calm machine; one that does much else may take ten times as long

LAST_LINE = re.compile(r"acknowledged (\d+), lost (\d+), damaged (\d+), duplicated (\d+), faults (\d+)")


@pytest.mark.timeout(SECONDS + 30)
def test_acknowledged_mail_survives_a_short_campaign(tmp_path: Path) -> None:
    most = {"SEED": SEED, "MESSAGES": MESSAGES, "FAULTS": FAULTS, "DUPLICATES": MOST_DUPLICATED}
    environment = {name: str(value) for name, value in most.items()} | os.environ
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "dataplane", ROOT / "operator")))
    order = read_order(environment, problems())
    environment["SEED"] = str(order.seed)
    log = tmp_path / "campaign.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults"],
            stdout=output, stderr=output, cwd=ROOT, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)  # its mounts and processes end with it
                process.wait(60)
    said = log.read_text()
    print("\n" + said)
    last = LAST_LINE.fullmatch(said.splitlines()[-1])
    assert code == 0 and last, f"SEED={order.seed} make faults"
    acknowledged, lost, damaged, duplicated, faults = map(int, last.groups())
    assert (lost, damaged, faults) == (0, 0, order.faults) and duplicated <= MOST_DUPLICATED * acknowledged
    assert acknowledged >= order.messages
    assert len(set(re.findall(r"^ *[\d.]+ s +\d+ +\d+ ([a-z-]+) ", said, re.MULTILINE))) >= min(
        LEAST_KINDS, len(order.kinds)
    )
