"""Data or YAML text → VirtualMachines, or every problem at once: each with file, line, path, limit and given value.

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
from berth.api.virtualmachine import KIND, VirtualMachine

Part = str | int
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
    others: tuple[str, ...]
    problems: tuple[Problem, ...]


def check(data: Mapping[str, Any]) -> VirtualMachine | list[Problem]:
    """One manifest as a machine, or everything that is wrong with it."""
    try:
        return VirtualMachine.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        return told(error)


def told(error: ValidationError, *under: Part) -> list[Problem]:
    """pydantic's error as problems; ``under``: where in a manifest the model stands that was checked."""
    details = ({**detail, "loc": (*under, *detail["loc"])} for detail in error.errors(include_url=False))
    return [problem for detail in details for problem in _problems(detail)]


def read(text: str, file: str = "") -> Found:
    """All documents of a text."""
    machines: list[VirtualMachine] = []
    others: list[str] = []
    problems: list[Problem] = []
    documents, broken = manifests.parse(text)
    for flaw in broken:
        problems.append(Problem(flaw.path, flaw.message, file=file, line=flaw.line))
    for document in documents:
        _sort(document, file, machines, others, problems)
    return Found(tuple(machines), tuple(others), tuple(sorted(problems, key=lambda p: p.line)))


def _sort(
    document: manifests.Document,
    file: str,
    machines: list[VirtualMachine],
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
        if isinstance(result, VirtualMachine):
            machines.append(result)
        else:
            problems += [replace(p, file=file, line=document.line(p.path)) for p in result]


def _is_foreign(data: Mapping[str, Any]) -> bool:
    """Another kind's object; one with a slip in our own group or kind is ours to complain about."""
    group = str(data.get("apiVersion", "")).partition("/")[0]
    return "kind" in data and data["kind"] != KIND and group != GROUP


def _problems(detail: Mapping[str, Any]) -> list[Problem]:
    if detail["type"] != RULE_ERROR:
        return [_problem(detail)]
    return [Problem(_path([*detail["loc"], *filter(None, [field])]), said) for field, said in detail["ctx"]["broken"]]


def _problem(detail: Mapping[str, Any]) -> Problem:
    parts: Sequence[Part] = detail["loc"]
    path, kind, context = _path(parts), str(detail["type"]), detail.get("ctx") or {}
    given = _given(parts, detail.get("input"))
    if kind == "missing":
        return Problem(path, "is required")
    if kind == "extra_forbidden":
        return Problem(path, f"unknown field{_meant(parts)}", given)
    if kind == "value_error":
        return Problem(path, str(context.get("error", detail["msg"])), given)
    if kind == "literal_error":
        return Problem(path, f"must be {API_VERSION if path == 'apiVersion' else KIND}", given)
    return Problem(path, _limit(kind, context, str(detail["msg"])), given)


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


def _meant(parts: Sequence[Part]) -> str:
    known = _fields_beside(parts)
    close = difflib.get_close_matches(str(parts[-1]), known, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known here: {', '.join(known)}" if known else ""


@cache
def _schema() -> crd.Schema:
    version: crd.Schema = crd.definition(crd.VIRTUAL_MACHINE)["spec"]["versions"][0]
    schema: crd.Schema = version["schema"]["openAPIV3Schema"]
    return schema


def _fields_beside(parts: Sequence[Part]) -> list[str]:
    here = _schema()
    for part in parts[:-1]:
        here = here.get("items", {}) if isinstance(part, int) else here.get("properties", {}).get(part, {})
    return list(here.get("properties", ()))
