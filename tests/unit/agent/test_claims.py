"""A guest that writes to claims goes only where they are the same."""

from __future__ import annotations

import pytest

from berth.agent import claims
from berth.api.order import DiskKind, DiskOrder, FileOrder, MachineOrder
from berth.effects import memory
from berth.effects.ports import Berth
from berth.errors import HostFault
from tests.unit.agent.orders import pod

BERTH = Berth(pod(), 5, 50)


def disk(name: str, claim: str, *, read_only: bool = False) -> DiskOrder:
    source = FileOrder(folder=f"/berth/claims/{claim}", path=f"{name}.img")
    return DiskOrder(name=name, kind=DiskKind.FILE, source=source, read_only=read_only)


MACHINE = MachineOrder(
    cpus=1,
    memory_bytes=1,
    disks=(
        disk("a", "one"),
        disk("b", "one"),
        disk("c", "two"),
        disk("cd", "three", read_only=True),
        DiskOrder(name="local", kind=DiskKind.EMPTY, size_bytes=1),
    ),
)


def nodes(*, shared: bool = True) -> tuple[memory.MemoryNode, memory.MemoryNode]:
    source, target = memory.MemoryNode(), memory.MemoryNode()
    if shared:
        source.marks = target.marks
    return source, target


def test_a_source_that_sees_all_marks_sends_and_none_stays_behind() -> None:
    source, target = nodes()
    with claims.marked(memory.MemoryMedia(target), BERTH, MACHINE) as marks:
        assert set(marks) == {"a", "b", "c"}
        claims.check(memory.MemoryMedia(source), BERTH, MACHINE, marks)
    assert target.marks == set()
    assert target.log == [f"{what} /berth/claims/{claim}" for what in ("mark", "unmark") for claim in ("one", "two")]


def test_a_claim_that_is_another_on_each_node_is_told() -> None:
    source, target = nodes(shared=False)
    with claims.marked(memory.MemoryMedia(target), BERTH, MACHINE) as marks, pytest.raises(HostFault) as raised:
        claims.check(memory.MemoryMedia(source), BERTH, MACHINE, marks)
    assert raised.value.reason == "ClaimNotShared"
    assert target.marks == set()


@pytest.mark.parametrize("mark", ["", "disk.img", ".berth-a/../../x"])
def test_only_a_mark_is_one(mark: str) -> None:
    source, _ = nodes()
    source.marks |= {("/berth/claims/one", mark), ("/berth/claims/two", mark)}
    with pytest.raises(HostFault):
        claims.check(memory.MemoryMedia(source), BERTH, MACHINE, dict.fromkeys("abc", mark))


def test_a_machine_without_claims_needs_none() -> None:
    source, target = nodes(shared=False)
    bare = MACHINE.model_copy(update={"disks": MACHINE.disks[3:]})
    with claims.marked(memory.MemoryMedia(target), BERTH, bare) as marks:
        claims.check(memory.MemoryMedia(source), BERTH, bare, marks)
    assert target.log == []
