"""Whether a machine's state could be saved, and why not: told in a condition before anybody asks. Pure.

Called by world.py (one that cannot be suspended runs on), orders.py and conditions.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from berth.api.devices import Nic
from berth.api.virtualmachine import Power, VirtualMachineSpec


@dataclass(frozen=True, slots=True)
class Answer:
    able: bool
    reason: str
    message: str = ""


_ABLE = Answer(True, "Suspendable")


def of_spec(spec: VirtualMachineSpec) -> Answer:
    """By what the machine is made of. ``spec`` is what the running guest was started from."""
    if spec.saved_state is None:
        text = (
            "There is no volume to save its state to. Next: give spec.savedState and restart it, or set another power."
        )
        return Answer(False, "NoSavedState", text)
    return of_nics(spec) or _ABLE


def of_nics(spec: VirtualMachineSpec) -> Answer | None:
    """Why its devices' state could not be restored elsewhere; None when it could."""
    return next((trouble for nic in spec.nics if (trouble := _nic(nic)) is not None), None)


def answer(frozen: VirtualMachineSpec | None, live: VirtualMachineSpec) -> Answer:
    """Of a machine that runs, by what it was started from; of any other, by what it is to be started from."""
    found = of_spec(frozen or live)
    if frozen is not None and found.reason == "NoSavedState" and live.saved_state is not None:
        text = "Its berth was made before spec.savedState was given, and cannot get a volume now. Next: restart it."
        return Answer(False, "SavedStateNotMounted", text)
    return found


def wanted(spec: VirtualMachineSpec | None) -> bool:
    """Whether it is to be suspended, and can be."""
    return spec is not None and spec.power is Power.SUSPENDED and of_spec(spec).able


def _nic(nic: Nic) -> Answer | None:
    if nic.device is not None:
        text = f"Interface {nic.name} is a function of the node's network card, whose state nobody can read."
        return Answer(False, "HostDevice", f"{text} Next: use a Network or the pod network.")
    if nic.multus is not None:
        text = f"Interface {nic.name} is the pod's own, by Multus, and another pod has other addresses."
        return Answer(False, "PodInterface", f"{text} Next: use a Network, whose addresses stay.")
    return None
