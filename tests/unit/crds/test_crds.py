"""The CRDs against what the data plane says: every field described, equal defaults on both sides, examples valid.

CEL rules run in the API server alone; `tests/e2e/test_bad_resources.py` shows each of them a resource to refuse.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mailarray.contract.resources.mailcluster import MailClusterSpec
from mailarray.contract.resources.mailserver import MailServerSpec
from mailarray.contract.resources.mirrorpair import MirrorPairSpec
from mailarray.contract.resources.reading import Document, Duration, Free, Reader, Seconds, Size
from mailarray.contract.settings import StorageSettings

ROOT = Path(__file__).parents[3]
CRDS = {c["spec"]["names"]["kind"]: c for c in (yaml.safe_load(p.read_text()) for p in (ROOT / "crds").glob("*.yaml"))}
EXAMPLES = [ROOT / "examples" / name for name in ("cluster.yaml", "large.yaml")]
SPECS = {"MailCluster": MailClusterSpec, "MailServer": MailServerSpec, "MirrorPair": MirrorPairSpec}
Schema = dict[str, Any]


def schema(kind: str) -> Schema:
    (version,) = CRDS[kind]["spec"]["versions"]
    root: Schema = version["schema"]["openAPIV3Schema"]
    return root


def walk(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for key, end in (("items", "[]"), ("additionalProperties", ".*")):
        if key in node:
            yield from walk(node[key], path + end)


def test_the_three_kinds_are_there() -> None:
    assert sorted(CRDS) == ["MailCluster", "MailServer", "MirrorPair"]
    for crd in CRDS.values():
        assert crd["spec"]["group"] == "mailarray.io"
        assert crd["spec"]["names"]["categories"] == ["mailarray"]
        assert [v["name"] for v in crd["spec"]["versions"]] == ["v1alpha1"]


@pytest.mark.parametrize("kind", sorted(CRDS))
def test_every_field_is_described(kind: str) -> None:
    for path, node in walk(schema(kind), kind):
        if not path.startswith(f"{kind}.metadata"):  # Kubernetes allows no description there
            assert node.get("description", "").endswith((".", ". ")), f"{path} has no description that is a sentence"


@pytest.mark.parametrize("kind", sorted(CRDS))
def test_every_rule_says_what_to_do_and_everything_is_structural(kind: str) -> None:
    for path, node in walk(schema(kind), kind):
        assert "type" in node or node.get("x-kubernetes-int-or-string"), f"{path} has no type"
        for rule in node.get("x-kubernetes-validations", ()):
            assert len(rule["message"].split()) >= 5, f"{path}: {rule['message']!r} is no sentence"


@pytest.mark.parametrize("kind", sorted(CRDS))
def test_nested_defaults_are_reached(kind: str) -> None:
    """A default inside an object counts only when the object itself has a default or is there."""
    for path, node in walk(schema(kind), kind):
        for name, child in node.get("properties", {}).items():
            nested = any("default" in p for p in child.get("properties", {}).values())
            if nested and "[]" not in path and ".status" not in path and not child.get("required"):
                assert "default" in child, f"{path}.{name} needs default: {{}}, or its fields' defaults are not set"


@pytest.mark.parametrize(("kind", "cls"), SPECS.items())
def test_defaults_are_the_data_planes_own(kind: str, cls: type) -> None:
    compared = list(compare(schema(kind)["properties"]["spec"], cls, f"{kind}.spec"))
    assert len(compared) >= {"MailCluster": 29, "MailServer": 6, "MirrorPair": 0}[kind], compared


def test_every_setting_of_storage_has_a_field() -> None:
    fields = set(schema("MailCluster")["properties"]["spec"]["properties"]["storage"]["properties"])
    fixed = {"surplusAfter"}  # the same for everybody; an annotation makes it short for tests on one machine
    wanted = {camel(field.name) for field in dataclasses.fields(StorageSettings)} - fixed
    assert wanted <= fields, f"nobody can set {sorted(wanted - fields)}"


def compare(node: Schema, cls: type, path: str) -> Iterator[str]:
    """Every field of the one is a field of the other; yields those whose defaults were compared."""
    reader = Reader(Document("crd", 1, {}))
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {camel(field.name): field for field in dataclasses.fields(cls)}
    assert set(fields) == set(node.get("properties", {})), f"{path}: the CRD and the typed resource have other fields"
    for name, field in fields.items():
        here, child, hint = f"{path}.{name}", node["properties"][name], inner(hints[field.name])
        if hint == Free:
            continue
        if dataclasses.is_dataclass(hint):
            yield from compare(child, typing.cast(type, hint), here)
        elif typing.get_origin(hint) is tuple and dataclasses.is_dataclass(typing.get_args(hint)[0]):
            yield from compare(child["items"], typing.get_args(hint)[0], f"{here}[]")
        elif field.default not in (dataclasses.MISSING, None):
            assert "default" in child, f"{here} has no default in the CRD; the data plane's is {field.default!r}"
            value = child["default"]
            if hint in (Duration, Seconds, Size):
                value = reader._scalar(hint, value, here)
            value = tuple(value) if isinstance(value, list) else value
            assert value == field.default, f"{here}: the CRD's default is {value!r}, the data plane's {field.default!r}"
            yield here


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def inner(hint: Any) -> Any:
    """X of `X | None`."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(a for a in typing.get_args(hint) if a is not type(None))
    return hint


def test_status_and_scale() -> None:
    for kind, crd in CRDS.items():
        (version,) = crd["spec"]["versions"]
        assert version["subresources"]["status"] == {}, kind
        conditions = schema(kind)["properties"]["status"]["properties"]["conditions"]
        assert conditions["x-kubernetes-list-map-keys"] == ["type"], kind
    (version,) = CRDS["MailServer"]["spec"]["versions"]
    assert version["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_examples_are_valid(example: Path) -> None:
    kinds = []
    for document in yaml.safe_load_all(example.read_text()):
        kinds.append(document["kind"])
        if document["kind"] in CRDS:
            strict = closed(schema(document["kind"]))
            jsonschema.Draft202012Validator(strict).validate(document)
            reader = Reader(Document(example.name, 1, document))
            reader.read(SPECS[document["kind"]], document["spec"], "spec")  # as the operator does
    assert "MailCluster" in kinds
    assert "MailServer" in kinds


def closed(node: Schema) -> Schema:
    """The schema without leave to write fields that are not there, which the API server would drop."""
    result = {k: v for k, v in node.items() if not k.startswith("x-kubernetes")}
    if "properties" in node:
        result["properties"] = {k: closed(v) for k, v in node["properties"].items()}
        result["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if key in node:
            result[key] = closed(node[key])
    if result.get("type") == "object" and node.get("description") is None:  # metadata
        result.pop("additionalProperties", None)
    return result
