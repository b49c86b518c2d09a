"""Models → CustomResourceDefinitions: the structural schema that the API server checks every manifest against.

Called by `berth crds`, which writes crds/ and the chart's copy; a test fails when they differ from the models.
A structural schema has every type written out in place, so pydantic's JSON Schema is inlined here and its words for
"or null" and "no other fields" dropped: an optional field is one that is not required, and the API server knows
unknown fields by itself. Pure: this module neither reads nor writes files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from berth.api.base import GROUP, VERSION, Change, Model
from berth.api.migration import MigrationSpec, MigrationStatus
from berth.api.network import NetworkSpec, NetworkStatus
from berth.api.snapshot import SnapshotSpec, SnapshotStatus
from berth.api.virtualmachine import VirtualMachineSpec, VirtualMachineStatus

Schema = dict[str, Any]

KEPT: Final = (
    "type", "format", "enum", "default", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems",
    "maxItems", "maxProperties", "required", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
)  # fmt: skip
"""What is taken over as it is. Any other word is either translated below or means nothing to the API server."""

WHEN: Final = {
    Change.LIVE: "A change takes effect at once.",
    Change.NEXT_BOOT: "A change takes effect at the next start.",
    Change.FIXED: "Cannot be changed.",
}
FIXED_RULE: Final = {"rule": "self == oldSelf", "message": "cannot be changed: make a new object"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; those with a priority above 0 need `-o wide`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: its names, its models, and how `kubectl get` shows it."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    description: str
    spec: type[Model]
    status: type[Model]
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()


VIRTUAL_MACHINE: Final = Kind(
    kind="VirtualMachine",
    plural="virtualmachines",
    short_names=("vm", "vms"),
    description="A virtual machine: a QEMU/KVM guest that the cluster schedules, connects and keeps like a pod.",
    spec=VirtualMachineSpec,
    status=VirtualMachineStatus,
    columns=(
        Column("Status", ".status.phase", description="How the machine is, in one word."),
        Column("Node", ".status.node", description="The node it runs on."),
        Column("IP", ".status.ip", description="Its pod IP."),
        Column("CPU", ".spec.cpu.count", "integer", description="Virtual CPUs."),
        Column("Memory", ".spec.memory.size", description="Memory the guest sees."),
        Column("Age", ".metadata.creationTimestamp", "date", description="Since when it exists."),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status', priority=1, description="All is well."),
        Column("Restarts", ".status.restarts", "integer", priority=1, description="Starts after the guest ended."),
        Column("Berth", ".status.berth", priority=1, description="The pod that holds its place."),
        Column("Message", ".status.message", priority=1, description="Why it is so and what to do next."),
    ),
    selectable=(".status.node", ".status.phase"),
)
NETWORK: Final = Kind(
    kind="Network",
    plural="networks",
    short_names=("vmnet", "vmnets"),
    description="A layer 2 segment for machines, with addresses that stay.",
    spec=NetworkSpec,
    status=NetworkStatus,
    columns=(
        Column("IPv4", ".spec.ipv4.range", description="IPv4 addresses it gives out."),
        Column("IPv6", ".spec.ipv6.range", description="IPv6 addresses it gives out."),
        Column("Used", ".status.used", "integer", description="Interfaces that have a lease."),
        Column("Free", ".status.available", "integer", description="Addresses that are free."),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status', description="All is well."),
        Column("Age", ".metadata.creationTimestamp", "date", description="Since when it exists."),
        Column("Message", ".status.message", priority=1, description="What is wrong and what to do next."),
    ),
)
MIGRATION: Final = Kind(
    kind="Migration",
    plural="migrations",
    short_names=("vmm", "vmms"),
    description="One move of a running machine to another node.",
    spec=MigrationSpec,
    status=MigrationStatus,
    columns=(
        Column("Status", ".status.phase", description="How far it is, in one word."),
        Column("VM", ".spec.vm", description="The machine."),
        Column("Source", ".status.source.node", description="The node it comes from."),
        Column("Target", ".status.target.node", description="The node it goes to."),
        Column("Progress", ".status.progress", description="How much is over there."),
        Column("Age", ".metadata.creationTimestamp", "date", description="Since when it exists."),
        Column("Pause", ".status.pauseMs", "integer", priority=1, description="Milliseconds the guest stood still."),
        Column("Rate", ".status.bytesPerSecond", "integer", priority=1, description="Bytes in a second."),
        Column("Reason", ".status.reason", priority=1, description="Why it is so, in one word."),
        Column("Message", ".status.message", priority=1, description="Why it is so and what to do next."),
    ),
    selectable=(".spec.vm", ".status.phase"),
)
SNAPSHOT: Final = Kind(
    kind="Snapshot",
    plural="snapshots",
    short_names=("vmsnap", "vmsnaps"),
    description="A running machine at one moment: its memory and its disks.",
    spec=SnapshotSpec,
    status=SnapshotStatus,
    columns=(
        Column("Status", ".status.phase", description="How far it is, in one word."),
        Column("VM", ".spec.vm", description="The machine."),
        Column("Memory", ".spec.memory", "boolean", description="Whether it holds memory, or disks alone."),
        Column("Size", ".status.size", description="What it takes in the volume."),
        Column("Taken", ".status.takenAt", "date", description="The moment that it holds."),
        Column("Age", ".metadata.creationTimestamp", "date", description="Since when it exists."),
        Column("Copied", ".status.percent", "integer", priority=1, description="Per cent of its disks."),
        Column("Pause", ".status.pauseMs", "integer", priority=1, description="Milliseconds the guest stood still."),
        Column("Consistency", ".status.consistency", priority=1, description="What its disks are like."),
        Column("Reason", ".status.reason", priority=1, description="Why it is so, in one word."),
        Column("Message", ".status.message", priority=1, description="Why it is so and what to do next."),
    ),
    selectable=(".spec.vm", ".status.phase"),
)
KINDS: Final = (VIRTUAL_MACHINE, NETWORK, MIGRATION, SNAPSHOT)


def definition(kind: Kind) -> Schema:
    """The CustomResourceDefinition of one kind."""
    names = {
        "kind": kind.kind,
        "listKind": f"{kind.kind}List",
        "plural": kind.plural,
        "singular": kind.kind.lower(),
        "shortNames": list(kind.short_names),
        "categories": ["all", "berth"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "berth", "app.kubernetes.io/part-of": "berth"},
        },
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [_version(kind)]},
    }


def structural(model: type[Model]) -> Schema:
    """A model's structural schema, with everything written out in place."""
    schema = model.model_json_schema(by_alias=True)
    return _inlined(schema, schema.get("$defs", {}), described=True)


def file_name(kind: Kind) -> str:
    return f"{GROUP}_{kind.plural}.yaml"


def files() -> dict[str, str]:
    """Every generated file's name and text."""
    return {file_name(kind): _text(definition(kind)) for kind in KINDS}


def _text(document: Schema) -> str:
    head = "# Generated from operator/src/berth/api by `berth crds --write`: change the models, not this file.\n"
    return head + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes everything out: an alias saves a line and hides what a reader looks for."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _version(kind: Kind) -> Schema:
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root(kind)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
    }
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    return version


def _root(kind: Kind) -> Schema:
    return {
        "description": kind.description,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": f"{GROUP}/{VERSION}.", "type": "string"},
            "kind": {"description": f"{kind.kind}.", "type": "string"},
            "metadata": {"type": "object"},  # the API server has its own words for it
            "spec": {**structural(kind.spec), "description": "What you want."},
            "status": _without_defaults(
                {**structural(kind.status), "description": "What Berth has to say. Written by its controller alone."}
            ),
        },
    }


def _column(column: Column) -> Schema:
    shown: Schema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        shown["description"] = column.description
    if column.priority:
        shown["priority"] = column.priority
    return shown


def _inlined(schema: Mapping[str, Any], defs: Mapping[str, Any], *, described: bool) -> Schema:
    """One node of the tree, its references and "or null" resolved, without a word the API server does not know."""
    flat = _flat(schema, defs)
    override = flat.get("x-berth-schema")
    if override is not None:
        flat = {**{k: v for k, v in flat.items() if k not in ("type", "enum")}, **override}
    result: Schema = {"description": _description(flat)} if described else {}
    result |= {key: flat[key] for key in KEPT if key in flat}
    properties = {name: _inlined(inner, defs, described=True) for name, inner in flat.get("properties", {}).items()}
    if properties:
        result["properties"] = properties
    if isinstance(flat.get("items"), dict):
        result["items"] = _inlined(flat["items"], defs, described="description" in _flat(flat["items"], defs))
    _open_object(flat, result, defs)
    _default(flat, result)
    rules = _rules(flat)
    if rules:
        result["x-kubernetes-validations"] = rules
    return result


def _flat(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Schema:
    """References and the "or null" of optional fields resolved; what stands beside a reference wins over it."""
    if "$ref" in schema:
        target = _flat(defs[str(schema["$ref"]).rpartition("/")[2]], defs)
        return target | {key: value for key, value in schema.items() if key != "$ref"}
    if "anyOf" in schema:
        (choice,) = [option for option in schema["anyOf"] if option.get("type") != "null"]
        return _flat(choice, defs) | {key: value for key, value in schema.items() if key != "anyOf"}
    return dict(schema)


def _description(flat: Schema) -> str:
    text = str(flat.get("description", "")).strip()
    mark = flat.get("x-berth-change")
    return f"{text} {WHEN[Change(mark)]}" if mark is not None else text


def _open_object(flat: Schema, result: Schema, defs: Mapping[str, Any]) -> None:
    """An object with keys of the user's choice: typed values, or Kubernetes' own shape kept as it is."""
    extra = flat.get("additionalProperties")
    if isinstance(extra, dict):
        result["additionalProperties"] = _inlined(extra, defs, described=False)
    elif extra is True:
        result["x-kubernetes-preserve-unknown-fields"] = True


def _default(flat: Schema, result: Schema) -> None:
    """Keep a default that says something: not null, nothing empty, except {} where fields within have defaults."""
    default = result.pop("default", None)
    within = any("default" in inner for inner in result.get("properties", {}).values())
    if default not in (None, "", [], {}) or isinstance(default, bool) or default == 0 or (default == {} and within):
        result["default"] = default


def _rules(flat: Schema) -> list[Schema]:
    rules = []
    for rule in flat.get("x-berth-rules", ()):
        said = {"rule": rule["cel"], "message": rule["message"]}
        if rule.get("given"):
            said["messageExpression"] = f"'{rule['message']} (given:' + {rule['given']} + ')'"
        if rule.get("field"):
            said["fieldPath"] = f".{rule['field']}"
        rules.append(said)
    if flat.get("x-berth-change") == Change.FIXED.value:
        rules.append(dict(FIXED_RULE))
    return rules


def _without_defaults(schema: Schema) -> Schema:
    """A status says only what the controller wrote: the API server must not fill anything in."""
    cleaned = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in cleaned:
        cleaned["properties"] = {name: _without_defaults(inner) for name, inner in cleaned["properties"].items()}
    if "items" in cleaned:
        cleaned["items"] = _without_defaults(cleaned["items"])
    return cleaned
