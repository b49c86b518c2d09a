"""The definition is structural, complete and what lies in crds/ and the chart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import yaml
from pydantic import Field

from berth.api import crd
from berth.api.base import Change, Fixed, Live, Model, Rule
from berth.api.virtualmachine import VirtualMachineSpec

ROOT = Path(__file__).parents[3]
DEFINITION = crd.definition(crd.VIRTUAL_MACHINE)
SCHEMA: crd.Schema = DEFINITION["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
ALLOWED = {*crd.KEPT, "description", "properties", "items", "additionalProperties", "x-kubernetes-validations"}


def nodes(schema: crd.Schema, path: str = "") -> Iterator[tuple[str, crd.Schema]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


NODES = dict(nodes(SCHEMA))


@pytest.mark.parametrize("folder", ["crds", "charts/berth/files/crds"])
def test_generated_files_are_those_of_the_models(folder: str) -> None:
    for name, text in crd.files().items():
        assert (ROOT / folder / name).read_text() == text, f"stale: run `uv run berth crds --write` ({folder}/{name})"


@pytest.mark.parametrize("path", NODES)
def test_every_node_is_structural(path: str) -> None:
    node = NODES[path]
    assert set(node) <= ALLOWED
    assert "type" in node or "x-kubernetes-preserve-unknown-fields" in node
    assert "nullable" not in node


@pytest.mark.parametrize("path", [path for path in NODES if path not in ("metadata",) and not path.endswith("[]")])
def test_every_field_says_what_it_is_for(path: str) -> None:
    assert len(NODES[path]["description"]) > 10
    assert NODES[path]["description"].endswith(".")


@pytest.mark.parametrize("path", [p for p in NODES if p.startswith("spec.")])
def test_texts_and_lists_are_bounded_so_that_rules_have_a_cost(path: str) -> None:
    node = NODES[path]
    if node.get("type") == "string" and "enum" not in node:
        assert "maxLength" in node or "pattern" in node
    if node.get("type") == "array":
        assert "maxItems" in node


def test_lists_of_named_things_are_maps() -> None:
    for path in ("spec.disks", "spec.nics"):
        assert NODES[path]["x-kubernetes-list-map-keys"] == ["name"]
    assert NODES["status.conditions"]["x-kubernetes-list-map-keys"] == ["type"]


def test_defaults_fill_a_spec_that_says_nothing() -> None:
    assert NODES["spec.cpu"]["default"] == {}
    assert NODES["spec.cpu.count"]["default"] == 1
    assert NODES["spec.nics"]["default"] == [{"name": "default", "pod": {}}]
    assert "default" not in NODES["spec.boot"]
    assert not [path for path, node in NODES.items() if path.startswith("status") and "default" in node]


def test_columns_are_the_documented_ones() -> None:
    columns = DEFINITION["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [c["name"] for c in columns if not c.get("priority")] == ["Status", "Node", "IP", "CPU", "Memory", "Age"]


def leaves(model: type[Model], path: str = "spec") -> Iterator[tuple[str, Change | None]]:
    flat = model.model_json_schema(by_alias=True)
    yield from _marks(flat, flat.get("$defs", {}), path, None)


def _marks(schema: Any, defs: Any, path: str, above: str | None) -> Iterator[tuple[str, Any]]:
    flat = crd._flat(schema, defs)
    mark = flat.get("x-berth-change", above)
    if flat.get("properties"):
        for name, inner in flat["properties"].items():
            yield from _marks(inner, defs, f"{path}.{name}", mark)
    elif isinstance(flat.get("items"), dict) and flat["items"].get("$ref"):
        yield from _marks(flat["items"], defs, f"{path}[]", mark)
    elif flat.get("properties") is None:
        yield path, mark


@pytest.mark.parametrize(("path", "mark"), list(leaves(VirtualMachineSpec)))
def test_every_field_says_when_a_change_takes_effect(path: str, mark: str | None) -> None:
    assert mark in [change.value for change in Change]


class Toy(Model):
    """A model with what no kind has yet."""

    size: Annotated[int, Fixed] = Field(1, description="How large.")
    tag: Annotated[str | None, Live] = Field(None, description="What it is called.", max_length=5)

    rules: ClassVar[tuple[Rule, ...]] = (Rule("it says so", "has(self.tag)", lambda toy: toy.tag is not None, "tag"),)


def test_a_fixed_field_cannot_be_changed_and_a_rule_names_its_field() -> None:
    schema = crd.structural(Toy)
    assert schema["properties"]["size"]["x-kubernetes-validations"] == [crd.FIXED_RULE]
    assert "Cannot be changed." in schema["properties"]["size"]["description"]
    assert schema["x-kubernetes-validations"] == [
        {"rule": "has(self.tag)", "message": "it says so", "fieldPath": ".tag"}
    ]
    assert schema["properties"]["tag"]["maxLength"] == 5
    assert "required" not in schema


def test_the_files_are_plain_yaml_without_aliases() -> None:
    for text in crd.files().values():
        assert yaml.safe_load(text)["kind"] == "CustomResourceDefinition"
        assert "&id" not in text
