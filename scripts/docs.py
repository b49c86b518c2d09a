"""Writes the generated parts of docs/: the field reference from the models, the lifecycle's picture from its table.

`python scripts/docs.py` writes, `--check` only fails when something is stale (a unit test calls it that way). A
generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; everything else on a page is hand-written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from berth.api import crd
from berth.plan import handover, moving_on, phases

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PART: Final = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_WHEN: Final = {text: mark.value for mark, text in crd.WHEN.items()}


def fields(section: str, kind: crd.Kind = crd.VIRTUAL_MACHINE) -> str:
    """A table of every field of a section, with its type, limits, default and the moment a change takes effect."""
    version = crd.definition(kind)["spec"]["versions"][0]
    schema: crd.Schema = version["schema"]["openAPIV3Schema"]["properties"][section]
    rows = [_row(path, node, mark, section) for path, node, mark in _walk(schema, section, "")]
    if section == "spec":
        return "\n".join(["| field | type, limits | default | change | what it is |", "|---|---|---|---|---|", *rows])
    return "\n".join(["| field | type | what it is |", "|---|---|---|", *rows])


def lifecycle() -> str:
    return f"```mermaid\n{phases.diagram()}```"


def hand_over() -> str:
    return f"```mermaid\n{handover.diagram()}```"


def moving() -> str:
    return f"```mermaid\n{moving_on.diagram()}```"


PARTS: Final[dict[str, Callable[[], str]]] = {
    "spec": lambda: fields("spec"),
    "status": lambda: fields("status"),
    "lifecycle": lifecycle,
    "handover": hand_over,
    "migration_spec": lambda: fields("spec", crd.MIGRATION),
    "migration_status": lambda: fields("status", crd.MIGRATION),
    "migration_phases": moving,
    "snapshot_spec": lambda: fields("spec", crd.SNAPSHOT),
    "snapshot_status": lambda: fields("status", crd.SNAPSHOT),
    "network_spec": lambda: fields("spec", crd.NETWORK),
    "network_status": lambda: fields("status", crd.NETWORK),
}


def _walk(schema: crd.Schema, path: str, above: str) -> Iterator[tuple[str, crd.Schema, str]]:
    """Depth first; what a probe's fields are is told once, under startup."""
    for name, node in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        mark = _mark(node) or above
        yield here, node, mark
        inner = node.get("items", node)
        if inner.get("properties") and here not in ("spec.probes.readiness", "spec.probes.liveness"):
            yield from _walk(inner, f"{here}[]" if "items" in node else here, mark)


def _mark(node: crd.Schema) -> str:
    return next((mark for text, mark in _WHEN.items() if node.get("description", "").endswith(text)), "")


def _row(path: str, node: crd.Schema, mark: str, section: str) -> str:
    text = _cell(_without_mark(node.get("description", "")))
    field = f"`{path.removeprefix(f'{section}.')}`"
    if section != "spec":
        return f"| {field} | {_kind(node)} | {text} |"
    leaf = not node.get("properties") and not node.get("items", {}).get("properties")
    shown = mark if leaf or _mark(node) else ""
    return f"| {field} | {_kind(node)} | {_default(node)} | {shown} | {text} |"


def _without_mark(text: str) -> str:
    for when in _WHEN:
        text = text.removesuffix(when)
    return text.strip()


def _kind(node: crd.Schema) -> str:
    if "enum" in node:
        return _cell(", ".join(f"`{value}`" for value in node["enum"] if isinstance(value, str)))
    kind = str(node.get("type", "object"))
    if kind == "array":
        kind = f"list of {'objects' if 'properties' in node['items'] else node['items'].get('type', 'object')}"
    limits = [f"{label} {node[word]}" for word, label in _LIMITS.items() if word in node]
    limits += [f"`{node['pattern']}`"] if "pattern" in node and len(node["pattern"]) < 60 else []
    return _cell(", ".join([kind, *limits]))


_LIMITS: Final = {
    "minimum": "at least",
    "maximum": "at most",
    "maxLength": "length at most",
    "maxItems": "items at most",
    "maxProperties": "entries at most",
}


def _default(node: crd.Schema) -> str:
    default = node.get("default")
    if default is None or default == {}:
        return ""
    shown = str(default).lower() if isinstance(default, bool) else default
    return _cell(f"`{shown}`" if not isinstance(default, list) else "one on the pod network")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def fresh(text: str) -> str:
    """A page with its generated parts made anew."""

    def part(found: re.Match[str]) -> str:
        return f"{found[1]}{PARTS[found[2]]()}\n{found[3]}"

    return PART.sub(part, text)


def main(arguments: list[str]) -> int:
    stale: list[Any] = []
    for page in sorted(DOCS.glob("*.md")):
        old = page.read_text()
        new = fresh(old)
        if new != old:
            stale.append(page.name)
            if "--check" not in arguments:
                page.write_text(new)
    if stale and "--check" in arguments:
        print(f"stale: {', '.join(stale)}; run `make generate`", file=sys.stderr)
        return 1
    print(f"wrote {', '.join(stale)}" if stale else "docs are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
