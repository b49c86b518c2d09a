"""YAML text → documents that know on which line each of their paths stands. Called by validate.py.

YAML is read as kubectl reads it, with three differences that save people from silent mistakes: a key given twice is a
flaw, aliases may not expand beyond a bound, and a date stays the text it was written as.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import yaml

MOST_CHARACTERS: Final = 3 * 2**20
MOST_NODES: Final = 500_000
DEEPEST: Final = 100
STEEPEST: Final = 1_000
"""A text that looks deeper is not parsed at all: libyaml recurses. Looks: brackets in quotes count as well."""
_LINE_START: Final = re.compile(r"( *)((?:[-?] +)*)")
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"


@dataclass(frozen=True, slots=True)
class Flaw:
    """The text is no good as YAML."""

    message: str
    line: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a text."""

    data: Any
    node: yaml.Node

    def line(self, path: str) -> int:
        """The line of a path such as spec.disks[0].size; where it is missing, that of the nearest part above it."""
        here, line = self.node, self.node.start_mark.line
        for part in re.findall(r"[^.\[\]]+", path):
            key, inner = _step(here, part)
            if inner is None:
                break
            line, here = (key or inner).start_mark.line, inner
        return line + 1


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's loader where it is there; without the guess that some texts are dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, shape) for tag, shape in rules if tag != _TIMESTAMP]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str) -> tuple[list[Document], list[Flaw]]:
    """The documents that could be read, and what is wrong with the text. Empty documents are left out."""
    flaw = _too_much(text)
    if flaw is not None:
        return [], [flaw]
    documents: list[Document] = []
    flaws: list[Flaw] = []
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            flaws += _checked(node)
            if not flaws:
                data = loader.construct_document(node)
                documents += [Document(data, node)] if data is not None else []
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        flaws.append(Flaw(f"is no YAML: {error.problem or error.context}", mark.line + 1 if mark else 0))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        flaws.append(Flaw(f"is no YAML: {str(error).splitlines()[0]}", 0))
    finally:
        loader.dispose()
    return documents, flaws


def _too_much(text: str) -> Flaw | None:
    """What would cost more to read than any manifest does. libyaml recurses: the depth is looked at beforehand."""
    if len(text) > MOST_CHARACTERS:
        return Flaw(f"must be at most {MOST_CHARACTERS} characters long (given: {len(text)})", 0)
    deep, line = _deepest(text)
    return Flaw(f"must be at most {DEEPEST} levels deep (given: {deep})", line) if deep > STEEPEST else None


def _deepest(text: str) -> tuple[int, int]:
    """About how deep the text is at its deepest line: open brackets, indents, and dashes at the start of a line."""
    deep, line, brackets = 0, 1, 0
    indents = [0]
    for number, content in enumerate(text.splitlines(), 1):
        start = _LINE_START.match(content)
        blanks, dashes = start.groups() if start else ("", "")
        while indents[-1] > len(blanks):
            indents.pop()
        if indents[-1] < len(blanks):
            indents.append(len(blanks))
        brackets += sum(map(content.count, "[{")) - sum(map(content.count, "]}"))
        here = len(indents) + max(brackets, 0) + len(dashes) // 2
        if here > deep:
            deep, line = here, number
    return deep, line


def _step(node: yaml.Node, part: str) -> tuple[yaml.Node | None, yaml.Node | None]:
    if isinstance(node, yaml.MappingNode):
        found = [(key, value) for key, value in node.value if key.value == part]
        return found[-1] if found else (None, None)
    if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        return None, node.value[int(part)]
    return None, None


def _checked(root: yaml.Node) -> list[Flaw]:
    """Keys given twice, and aliases that expand without end or too far."""
    flaws: list[Flaw] = []
    sizes: dict[int, int] = {}
    size = _size(root, sizes, flaws, 0)
    if size > MOST_NODES:
        flaws.append(Flaw(f"must have at most {MOST_NODES} values when its aliases are expanded", 0))
    return flaws


def _size(node: yaml.Node, sizes: dict[int, int], flaws: list[Flaw], depth: int) -> int:
    known = sizes.get(id(node))
    if known is not None:
        return known
    if depth > DEEPEST:
        flaws.append(Flaw(f"must be at most {DEEPEST} levels deep", node.start_mark.line + 1))
        return 1
    sizes[id(node)] = MOST_NODES + 1  # met again while it is being counted: it holds itself
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        flaws += _twice(node)
        inner = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inner = list(node.value)
    sizes[id(node)] = 1 + sum(_size(child, sizes, flaws, depth + 1) for child in inner)
    return sizes[id(node)]


def _twice(node: yaml.MappingNode) -> list[Flaw]:
    seen: set[str] = set()
    flaws = []
    for key, _ in node.value:
        name = str(key.value)
        if name in seen and name != "<<":
            flaws.append(Flaw(f'the key "{name}" is given twice', key.start_mark.line + 1))
        seen.add(name)
    return flaws
