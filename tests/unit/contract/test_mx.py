"""spec.mx, as a person writes it: typed, or one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mailarray.contract.resources.mailcluster import ExternalServer, MailClusterSpec, Mx
from mailarray.contract.resources.reading import Document, Reader, ResourceError

ROOT = Path(__file__).parents[3]


def read(mx: dict[str, Any]) -> Mx:
    spec = {"domains": [{"name": "mail.example"}], "mx": mx}
    return Reader(Document("a.yaml", 1, {})).read(MailClusterSpec, spec, "spec").mx


def test_all_fields() -> None:
    written = {
        "strategy": "Static",
        "ttl": "5m",
        "minTargets": 3,
        "maxTargets": 9,
        "publish": "None",
        "external": [{"hostname": "mx.other.example", "preference": 50}],
    }
    assert read(written) == Mx("Static", 300, 3, 9, "None", (ExternalServer("mx.other.example", 50),))


def test_the_defaults_are_those_of_the_resource() -> None:
    crd = yaml.safe_load((ROOT / "crds" / "mailclusters.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["mx"]
    defaults = {name: field["default"] for name, field in schema["properties"].items() if "default" in field}
    assert read(defaults) == Mx() == read({})
    assert len(defaults) == 5


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"ttl": "500ms"}, "spec.mx.ttl is '500ms'; write whole seconds, minutes or hours, like 60s"),
        ({"ttl": 60}, "spec.mx.ttl is 60; write whole seconds"),
        ({"strategy": "load"}, "spec.mx.strategy is 'load'; write Load or RoundTable or Random or Static"),
        ({"publish": None, "minTarget": 1}, "spec.mx.minTarget is not a field; did you mean minTargets?"),
        ({"external": [{"hostname": "a.example"}]}, "spec.mx.external[0].preference is missing; add it"),
    ],
)
def test_mistakes_are_sentences(written: dict[str, Any], words: str) -> None:
    with pytest.raises(ResourceError, match=r"spec\.mx") as told:
        read(written)
    assert words in str(told.value)
