"""What saving a guest asks of the world, beside ports.py: the Protocol for the files of its states in a volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from berth.api.kept import StateOrder
from berth.domain.observed import KeptStates as KeptStates
from berth.effects.ports import Berth


@dataclass(frozen=True, slots=True)
class SavedGuest:
    """A whole state, verified: where libvirt finds it, and the machine type that it needs."""

    path: str
    machine: str = ""
    bytes: int = 0


class States(Protocol):
    """A machine's states in a volume of its berth, and the mark on this node that a save was begun.

    HostFault's ``reason``: VolumeFull, StateCorrupt, StateUnreadable …
    """

    def begun(self, vm_uid: str) -> str | None:
        """The folder of the volume, in the berth, that a save was begun in; None when none was."""
        ...

    def look(self, vm_uid: str, berth: Berth, state: StateOrder) -> KeptStates: ...

    def draft(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> str:
        """Make the mark, then an empty file in the volume, shown to libvirt at the path that is returned."""
        ...

    def finish(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int, machine: str) -> int:
        """The draft is written: make sure that it is on the disk and can be read, then make it whole. Its bytes."""
        ...

    def scrap(self, vm_uid: str, berth: Berth, state: StateOrder) -> None:
        """Remove whole states and drafts, and then the mark. What tells that a state was used stays."""
        ...

    def unmark(self, vm_uid: str) -> None:
        """Remove the mark alone: what was begun was certainly not made whole."""
        ...

    def open(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> SavedGuest:
        """Verify the whole of a state, and show it to libvirt; it is left as it is."""
        ...

    def use(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> None:
        """It counts as whole no more, and as used from now on; the guest's clock is to be set."""
        ...

    def clock_due(self, vm_uid: str) -> bool:
        """Whether a state of this machine was used, and its clock not set since."""
        ...

    def clock_set(self, vm_uid: str) -> None: ...
