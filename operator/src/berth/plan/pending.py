"""Which changed fields of a running machine wait for its next start: two specs in, paths out.

Reads the Live and NextBoot marks of the models, so that a new field needs no line here. Called by status.py and
cluster.py. List items are told apart by their name, not by their place.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from berth.api.base import Change
from berth.api.devices import Nic


def pending_changes(running: BaseModel, wanted: BaseModel) -> list[str]:
    """Paths of the fields that differ and are not Live, sorted: ``["spec.cpu.count", "spec.disks[root].size"]``."""
    return sorted(_model(running, wanted, "spec"))


def _model(old: BaseModel, new: BaseModel, path: str) -> list[str]:
    changed: list[str] = []
    for name, info in type(new).model_fields.items():
        before, after = getattr(old, name), getattr(new, name)
        if before == after or Change.LIVE in info.metadata:
            continue
        here = f"{path}.{info.alias or name}"
        changed += [here] if Change.NEXT_BOOT in info.metadata else _value(before, after, here)
    return changed


def _value(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, BaseModel) and isinstance(new, BaseModel):
        return _model(old, new, path)
    if isinstance(old, list) and isinstance(new, list):
        return _items(old, new, path)
    return [path]


def _items(old: list[Any], new: list[Any], path: str) -> list[str]:
    before, after = {i.name: i for i in old}, {i.name: i for i in new}
    changed: list[str] = []
    for name in before.keys() | after.keys():
        here = f"{path}[{name}]"
        if name in before and name in after:
            changed += _value(before[name], after[name], here) if before[name] != after[name] else []
        elif not _comes_live(before.get(name) or after[name]):
            changed.append(here)
    both = before.keys() & after.keys()
    if not changed and [name for name in before if name in both] != [name for name in after if name in both]:
        changed.append(path)
    return changed


def _comes_live(item: Any) -> bool:
    """A device that may be added to a running machine, and taken from it."""
    return isinstance(item, Nic) and item.plugs_live
