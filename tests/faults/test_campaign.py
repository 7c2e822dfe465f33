"""The short fault campaign of `make test`. The long one is `make faults`; docs/faults.md says what both do.

SEED, MESSAGES and FAULTS as there. What the machine cannot give (root, loop devices, nft) is left out, and named.
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

MESSAGES = 2_000
FAULTS = 12
LEAST_KINDS = 8
# A second delivery is dropped when it can be. Here comes a fault every few hundred messages, and what was still owed
# may be lost with a database that is restored; `make faults` asks for 0.0001, over many more messages.
MOST_DUPLICATED = 0.005
SECONDS = 900  # a minute on a calm machine; one that does much else may take ten times as long

LAST_LINE = re.compile(r"acknowledged (\d+), lost (\d+), damaged (\d+), duplicated (\d+), faults (\d+)")


@pytest.mark.timeout(SECONDS + 30)
def test_acknowledged_mail_survives_a_short_campaign(tmp_path: Path) -> None:
    most = {"MESSAGES": str(MESSAGES), "FAULTS": str(FAULTS), "DUPLICATES": str(MOST_DUPLICATED)}
    environment = most | os.environ
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
