"""Data or YAML text → Berth's objects, or every problem at once: with file, line, path, limit and value.

Called by the CLI with texts and by whoever holds a manifest as a dict. The rules are the models'; this module only
finds the words. It reads no file and asks no cluster.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from pydantic import ValidationError

from berth.api import crd, manifests
from berth.api.base import API_VERSION, GROUP, RULE_ERROR
from berth.api.migration import Migration
from berth.api.network import Network
from berth.api.snapshot import Snapshot
from berth.api.virtualmachine import KIND, VirtualMachine

Part = str | int
MACHINE: Final = crd.VIRTUAL_MACHINE
LONGEST_GIVEN: Final = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One rule that is broken: where, what the limit is, what was given."""

    path: str
    message: str
    given: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        given = f" (given: {self.given})" if self.given else ""
        return f"{where}{self.path}: {self.message}{given}" if self.path else f"{where}{self.message}{given}"


@dataclass(frozen=True, slots=True)
class Found:
    """What one text holds: the good machines, the objects of other kinds (by kind and name), and what is wrong."""

    machines: tuple[VirtualMachine, ...]
    networks: tuple[Network, ...]
    migrations: tuple[Migration, ...]
    snapshots: tuple[Snapshot, ...]
    others: tuple[str, ...]
    problems: tuple[Problem, ...]


Object = VirtualMachine | Network | Migration | Snapshot


def check(data: Mapping[str, Any]) -> Object | list[Problem]:
    """One manifest as an object of its kind, or everything that is wrong with it. What is nothing else is to be a
    VirtualMachine."""
    model, kind = _MODELS.get(str(data.get("kind")), (VirtualMachine, MACHINE))
    try:
        return model.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        return told(error, kind=kind)


_MODELS: Final[dict[str, tuple[type[Object], crd.Kind]]] = {
    crd.NETWORK.kind: (Network, crd.NETWORK),
    crd.MIGRATION.kind: (Migration, crd.MIGRATION),
    crd.SNAPSHOT.kind: (Snapshot, crd.SNAPSHOT),
}


def told(error: ValidationError, *under: Part, kind: crd.Kind = MACHINE) -> list[Problem]:
    """pydantic's error as problems; ``under``: where in a manifest the model stands that was checked."""
    details = ({**detail, "loc": (*under, *detail["loc"])} for detail in error.errors(include_url=False))
    return [problem for detail in details for problem in _problems(detail, kind)]


def read(text: str, file: str = "") -> Found:
    """All documents of a text."""
    good: list[Object] = []
    others: list[str] = []
    problems: list[Problem] = []
    documents, broken = manifests.parse(text)
    for flaw in broken:
        problems.append(Problem(flaw.path, flaw.message, file=file, line=flaw.line))
    for document in documents:
        _sort(document, file, good, others, problems)
    machines = tuple(found for found in good if isinstance(found, VirtualMachine))
    networks = tuple(found for found in good if isinstance(found, Network))
    migrations = tuple(found for found in good if isinstance(found, Migration))
    snapshots = tuple(found for found in good if isinstance(found, Snapshot))
    return Found(
        machines, networks, migrations, snapshots, tuple(others), tuple(sorted(problems, key=lambda p: p.line))
    )


def _sort(
    document: manifests.Document,
    file: str,
    good: list[Object],
    others: list[str],
    problems: list[Problem],
) -> None:
    data = document.data
    if not isinstance(data, dict):
        problems.append(Problem("", "is no Kubernetes object: a mapping with apiVersion and kind is wanted", file=file))
    elif _is_foreign(data):
        others.append(f"{data.get('kind')}/{(data.get('metadata') or {}).get('name', '')}")
    else:
        result = check(data)
        if isinstance(result, list):
            problems += [replace(p, file=file, line=document.line(p.path)) for p in result]
        else:
            good.append(result)


def _is_foreign(data: Mapping[str, Any]) -> bool:
    """Another kind's object; one with a slip in our own group or kind is ours to complain about."""
    group = str(data.get("apiVersion", "")).partition("/")[0]
    return "kind" in data and data["kind"] != KIND and group != GROUP


def _problems(detail: Mapping[str, Any], of: crd.Kind) -> list[Problem]:
    if detail["type"] != RULE_ERROR:
        return [_problem(detail, of)]
    return [Problem(_path([*detail["loc"], *filter(None, [field])]), said) for field, said in detail["ctx"]["broken"]]


def _problem(detail: Mapping[str, Any], of: crd.Kind) -> Problem:
    parts: Sequence[Part] = detail["loc"]
    path, kind, context = _path(parts), str(detail["type"]), detail.get("ctx") or {}
    given = _given(parts, detail.get("input"))
    if kind == "missing":
        return Problem(path, "is required")
    if kind == "extra_forbidden":
        return Problem(path, f"unknown field{_meant(parts, of)}", given)
    if kind == "value_error":
        return Problem(path, str(context.get("error", detail["msg"])), given)
    if kind == "literal_error":
        return Problem(path, f"must be {_literal(path, context)}", given)
    return Problem(path, _limit(kind, context, str(detail["msg"])), given)


def _literal(path: str, context: Mapping[str, Any]) -> str:
    fixed = {"apiVersion": API_VERSION, "kind": KIND}
    return fixed.get(path) or f"one of {str(context['expected']).replace(chr(39), '')}"


def _limit(kind: str, context: Mapping[str, Any], fallback: str) -> str:
    """pydantic's error types in the words of a person; each names the limit."""
    match kind:
        case "enum":
            return f"must be one of {str(context['expected']).replace(chr(39), '')}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}"
        case "string_too_long":
            return f"must be at most {context['max_length']} characters long"
        case "string_too_short":
            return f"must be at least {context['min_length']} characters long"
        case "too_long":
            return f"must have at most {context['max_length']} items"
        case "string_type":
            return "must be a text: put it in quotes"
        case "int_type" | "int_from_float":
            return "must be a whole number, without quotes"
        case "bool_type":
            return "must be true or false, without quotes"
        case "list_type" | "tuple_type":
            return "must be a list"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "must be an object with fields, or {}"
    return fallback


def _path(parts: Sequence[Part]) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _given(parts: Sequence[Part], value: Any) -> str:
    """Short, and never the text of a user-data: it may hold secrets."""
    if isinstance(value, str) and (len(value) > LONGEST_GIVEN or parts[-1:] == ("userData",)):
        return f"{len(value)} characters"
    if isinstance(value, list):
        return f"{len(value)} items"
    if isinstance(value, dict):
        return "an object" if value else "{}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_GIVEN else f"{text[:LONGEST_GIVEN]}…"


def _meant(parts: Sequence[Part], of: crd.Kind) -> str:
    known = _fields_beside(parts, of)
    close = difflib.get_close_matches(str(parts[-1]), known, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known here: {', '.join(known)}" if known else ""


@cache
def _schema(of: crd.Kind) -> crd.Schema:
    version: crd.Schema = crd.definition(of)["spec"]["versions"][0]
    schema: crd.Schema = version["schema"]["openAPIV3Schema"]
    return schema


def _fields_beside(parts: Sequence[Part], of: crd.Kind) -> list[str]:
    here = _schema(of)
    for part in parts[:-1]:
        here = here.get("items", {}) if isinstance(part, int) else here.get("properties", {}).get(part, {})
    return list(here.get("properties", ()))
