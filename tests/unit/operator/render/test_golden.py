"""Golden manifests: what is rendered for each case is what is kept in `golden/`, byte for byte.

A difference restarts pods of every user at the next upgrade, so it has to be seen. To accept it, run the tests with
`MAILARRAY_GOLDEN=write` and read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailarray_operator import render
from tests.unit.operator.render.cases import CASES, CONFIGURATION, case

GOLDEN = Path(__file__).parent / "golden"


class _Dumper(yaml.SafeDumper):
    """Keeps the order of keys, writes files as blocks, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    observation, decisions = case(name)
    manifests = render.manifests(observation, decisions, CONFIGURATION)
    text = yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=120)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("MAILARRAY_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run with MAILARRAY_GOLDEN=write and read the diff"


def test_no_golden_is_left_over() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.yaml")) == CASES
