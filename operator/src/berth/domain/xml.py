"""The desired domain → libvirt's XML, and the live XML → what was recorded in it. Pure: knows libvirt's words only.

Reading is tolerant: libvirt fills in addresses, aliases and defaults, which nobody here has to know.
"""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from berth.api.hardware import CpuMode, CpuOrder
from berth.domain import live, metadata
from berth.domain.element import element
from berth.domain.host import PLAIN_MODEL, Accelerator
from berth.domain.model import Domain
from berth.domain.observed import Guest, ObservedDomain
from berth.errors import HostFault

_TYPES: Final = {Accelerator.KVM: "kvm", Accelerator.TCG: "qemu"}
_ACCELERATORS: Final = {name: accelerator for accelerator, name in _TYPES.items()}


def render(domain: Domain) -> str:
    """The XML that makes this domain, indented for people."""
    root = element(
        "domain",
        element("name", text=domain.name),
        element("uuid", text=domain.uuid),
        element("metadata", element(metadata.TAG, text=domain.order_json)),
        element("memory", text=str(domain.memory_bytes), unit="b"),
        element("vcpu", text=str(domain.cpus)),
        _os(domain),
        element("features", element("acpi"), element("apic"), element("vmport", state="off")),
        _cpu(domain),
        _clock(),
        element("on_poweroff", text="destroy"),
        element("on_reboot", text="restart"),
        element("on_crash", text="destroy"),
        element("pm", element("suspend-to-mem", enabled="no"), element("suspend-to-disk", enabled="no")),
        element("devices", element("emulator", text=domain.emulator), *(d.to_element() for d in domain.devices)),
        _label(domain.guest_uid),
        type=_TYPES[domain.accelerator],
    )
    return text(root)


def text(root: Element) -> str:
    """Indented for people."""
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def read(observed: ObservedDomain) -> Guest:
    """What a running domain says of itself; HostFault when Berth cannot have made it."""
    try:
        root = ElementTree.fromstring(observed.xml)
        accelerator = _ACCELERATORS[root.attrib["type"]]
        label = root.findtext("seclabel[@model='dac']/label", "")
        guest_uid = int(label.partition(":")[0].removeprefix("+"))
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        text = f"the domain {observed.name} is not one that Berth made: {type(error).__name__}: {error}"
        raise HostFault(text, reason="MetadataUnreadable") from error
    order = metadata.from_element(root)
    nics = live.nics(root, order)
    return Guest(
        uid=observed.uid,
        state=observed.state,
        order=order,
        guest_uid=guest_uid,
        accelerator=accelerator,
        detail=observed.detail,
        nics=nics,
        free_slots=live.free_slots(root),
        machine=_attribute(root, "os/type", "machine"),
        cpu_mode=_attribute(root, "cpu", "mode"),
    )


def _attribute(root: Element, path: str, name: str) -> str:
    found = root.find(path)
    return found.get(name, "") if found is not None else ""


def _os(domain: Domain) -> Element:
    kind = element("type", text="hvm", arch="x86_64", machine=domain.machine)
    bios = element("bios", useserial="yes") if domain.firmware_on_serial else None
    boot = domain.boot
    if boot is None:
        return element("os", kind, bios)
    return element(
        "os",
        kind,
        element("kernel", text=boot.kernel),
        element("initrd", text=boot.initrd) if boot.initrd else None,
        element("cmdline", text=boot.args) if boot.args else None,
        bios,
    )


def _cpu(domain: Domain) -> Element:
    """libvirt looks before the start whether the node can give all of a named model (``partial``)."""
    topology = element("topology", sockets=1, dies=1, cores=domain.cpus, threads=1)
    cpu = domain.cpu or _default_cpu(domain.accelerator)
    if cpu.mode is not CpuMode.CUSTOM:
        return element("cpu", topology, mode=cpu.mode.value, check="none", migratable="on")
    features = [
        element("feature", policy=policy, name=name)
        for policy, names in (("require", cpu.require), ("disable", cpu.disable))
        for name in names
    ]
    model = element("model", text=cpu.model, fallback="forbid")
    check = "partial" if domain.cpu is not None else "none"
    return element("cpu", model, topology, *features, mode="custom", match="exact", check=check)


def _default_cpu(accelerator: Accelerator) -> CpuOrder:
    """KVM gives the host's CPU, which a guest uses at full speed. Emulation gets a plain model: given the newest vector
    instructions, a guest's libraries would choose exactly those that are slowest to emulate."""
    if accelerator is Accelerator.KVM:
        return CpuOrder(mode=CpuMode.HOST_PASSTHROUGH)
    return CpuOrder(model=PLAIN_MODEL)


def _clock() -> Element:
    return element(
        "clock",
        element("timer", name="rtc", tickpolicy="catchup"),
        element("timer", name="pit", tickpolicy="delay"),
        element("timer", name="hpet", present="no"),
        offset="utc",
    )


def _label(guest_uid: int) -> Element:
    """Every machine's QEMU runs under a uid of its own. The + keeps libvirt from looking for a user of that name."""
    return element(
        "seclabel",
        element("label", text=f"+{guest_uid}:+{guest_uid}"),
        type="static", model="dac", relabel="yes",
    )  # fmt: skip
