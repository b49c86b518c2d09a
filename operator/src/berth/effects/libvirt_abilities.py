"""What libvirt says that QEMU here can be: machine types, and CPUs under each accelerator. Used by hypervisor.py.

libvirt's capabilities are XML; its own arithmetic (baseline) turns a CPU into the list of its features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final, get_args
from xml.etree import ElementTree

import libvirt

from berth.api.hardware import AcceleratorName, HostCpu
from berth.domain.host import EMULATOR
from berth.effects.ports import Abilities

ARCH: Final = "x86_64"
FAMILY: Final = "q35"
_TYPES: Final[dict[AcceleratorName, str]] = {"kvm": "kvm", "tcg": "qemu"}
_EXPAND: Final = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
_MIGRATABLE: Final = libvirt.VIR_CONNECT_BASELINE_CPU_MIGRATABLE


def ask(connection: Any) -> Abilities:
    """All of it; an accelerator that is not there is left out."""
    found = [cpu for name in get_args(AcceleratorName) for cpu in _cpu(connection, name)]
    return Abilities(machine_types(connection.getCapabilities()), tuple(found))


def machine_types(capabilities: str) -> tuple[str, ...]:
    """All versions of the family, sorted by name."""
    root = ElementTree.fromstring(capabilities)
    machines = root.findall(f"guest/arch[@name='{ARCH}']/machine") + root.findall(
        f"guest/arch[@name='{ARCH}']/domain/machine"
    )
    names = {name for each in machines for name in (each.text, each.get("canonical")) if name}
    return tuple(sorted(name for name in names if name.startswith(f"pc-{FAMILY}-")))


def _cpu(connection: Any, name: AcceleratorName) -> Iterator[HostCpu]:
    try:
        text = connection.getDomainCapabilities(EMULATOR, ARCH, FAMILY, _TYPES[name], 0)
    except libvirt.libvirtError:
        return
    cpu = ElementTree.fromstring(text).find("cpu")
    host = cpu.find("mode[@name='host-model'][@supported='yes']") if cpu is not None else None
    if cpu is None or host is None:
        return
    vendor = host.findtext("vendor", "") if name == "kvm" else ""  # emulation can be anybody's
    host.tag, host.attrib = "cpu", {"mode": "custom", "match": "exact"}
    features = _features(connection, name, ElementTree.tostring(host, encoding="unicode"), _MIGRATABLE)
    yield HostCpu(
        accelerator=name,
        vendor=vendor,
        model=host.findtext("model", ""),
        features=tuple(sorted(features)),
        models=_models(connection, name, cpu, vendor),
    )


def _models(connection: Any, name: AcceleratorName, cpu: ElementTree.Element, vendor: str) -> tuple[str, ...]:
    """Those that run here, and under KVM are of no other vendor, by how much they can do."""
    usable = [
        model.text
        for model in cpu.iterfind("mode[@name='custom']/model[@usable='yes']")
        if model.text and (not vendor or model.get("vendor", "unknown") in ("unknown", vendor))
    ]
    size = {
        model: len(_features(connection, name, f"<cpu match='exact'><model>{model}</model></cpu>")) for model in usable
    }
    return tuple(sorted(usable, key=lambda model: (size[model], model)))


def _features(connection: Any, name: AcceleratorName, cpu: str, flags: int = 0) -> set[str]:
    """Every feature that this CPU has, also those that its model's name stands for."""
    with contextlib.suppress(libvirt.libvirtError):
        text = connection.baselineHypervisorCPU(EMULATOR, ARCH, FAMILY, _TYPES[name], [cpu], _EXPAND | flags)
        found = ElementTree.fromstring(text).iterfind("feature")
        return {each.get("name", "") for each in found if each.get("policy", "require") in ("require", "force")}
    return set()
